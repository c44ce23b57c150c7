"""Noun phrases of an English prompt, by a small grammar: enough for captions, and explicit lists are always accepted.

A phrase is a run of words between function words; a determiner begins a new one. Phrases joined by "of", "with" or "in"
are a phrase as well, so that "a bowl of red apples" gives "a bowl", "red apples" and the whole.
"""

from __future__ import annotations

import re
from functools import lru_cache

DETERMINERS = frozenset(
    "a an the one two three four five six some any each every this that these those "
    "his her its their my your our".split()
)
JOINING = frozenset("of with in".split())
BREAKING = JOINING | frozenset(
    "and or but on at to from by near next beside between behind above below under over inside outside into onto "
    "through is are was were be has have while as than for against around across along up down".split()
)
WORD = re.compile(r"\w+(?:['’-]\w+)*|[,.;:!?]")


@lru_cache(maxsize=4096)
def noun_phrases(prompt: str) -> tuple[str, ...]:
    """The noun phrases of a prompt in their order, each as it stands there; an outer one follows its parts.

    Example:
        >>> noun_phrases("a red circle left of a blue square")
        ('a red circle', 'a blue square')
    """
    words = [(m[0].lower(), m.start(), m.end()) for m in WORD.finditer(prompt)]
    chunks: list[list[int]] = [[]]
    for k, (word, *_) in enumerate(words):
        after = words[k + 1][0] if k + 1 < len(words) else ""
        apart = word in BREAKING or not word[0].isalnum() or (word in ("left", "right", "top") and after == "of")
        if (apart or word in DETERMINERS) and chunks[-1]:
            chunks.append([])
        if not apart:
            chunks[-1].append(k)
    found: list[tuple[int, int]] = []
    for chunk in chunks:
        if chunk and words[chunk[-1]][0].endswith("ing") and words[chunk[-1] + 1 : chunk[-1] + 2]:
            if words[chunk[-1] + 1][0] in DETERMINERS:  # a participle leads on: "a man riding | a horse"
                chunk = chunk[:-1]
        if all(words[k][0] in DETERMINERS for k in chunk):
            continue
        before = found[-1] if found else None
        found.append((chunk[0], chunk[-1]))
        if before and before[1] + 2 == chunk[0] and words[chunk[0] - 1][0] in JOINING:
            found.append((before[0], chunk[-1]))
    return tuple(dict.fromkeys(prompt[words[first][1] : words[last][2]] for first, last in found))
