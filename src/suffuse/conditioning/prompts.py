"""Prompts that say more than a text: weighted words, averages of prompts, prompts that change during the run.

They are values, so that a plain string is only ever itself, brackets included. They nest, and go where prompts go,
negative prompts included: `Switch("a circle", Blend(("a red circle", Weighted("a (blue:1.3) circle"))), when=0.4)`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..core.errors import BadInput
from ..core.expression import parse
from ..core.prompt import Mixture, PromptValue
from ..core.registry import method, names, resolve

STEP = 1.1
"""What one pair of brackets multiplies a weight by."""

TOKEN = re.compile(r"\\[()\[\]\\]|[(\[]|:\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*\)|[)\]]|[^\\()\[\]:]+|.", re.DOTALL)
CHANGING = re.compile(r"(?<!\\)\[[^\[\]]*(?::\s*[\d.]+\s*|\|[^\[\]]*)\]")
CLOSES = {"(": ")", "[": "]"}


@method(tags=("prompt",))
@dataclass(frozen=True)
class Weighted(PromptValue):
    """A text in which words weigh more or less: the states of their tokens are multiplied by the weight.

    z_k <- w_k z_k,  then, of CLIP's normed states (Stable Diffusion 1 and 2), z <- z mean(z before) / mean(z after)

    (word) weighs 1.1, [word] 1 / 1.1, (word:1.3) 1.3; brackets nest, and their weights multiply. A bracket or backslash
    that is meant as such has a backslash before it. Pooled states, which stand for the whole text, stay as they are.
    Put brackets around whole words: a token weighs what its last character does.

    The states of SDXL's and SD3's encoders come without a norm, and those of T5 have no mean to speak of; they are not
    rescaled, as with the option "No norm" of the program below.

    Args:
        text: as above.

    Raises:
        BadInput: a bracket without its counterpart, or a prompt of another kind in brackets, such as [red:blue:0.5].

    Example:
        >>> model.generate(Weighted("a (red:1.3) circle [left] of a square"))

    Reference: AUTOMATIC1111, stable-diffusion-webui, wiki page Features, Attention/emphasis.

    Differs from it: brackets without a counterpart are refused, and the text is split into tokens as a whole.
    """

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise BadInput(f"Weighted(text={self.text!r:.60}): must be a text")
        found = CHANGING.search(self.text)
        if found:
            raise BadInput(
                f"Weighted: {found[0]!r} does not weigh words; say what changes during the run by Switch or Alternate"
            )
        _pieces(self.text)  # a mistake in the brackets is found here and not in the middle of a run

    @property
    def plain(self) -> str:
        """The text without brackets and weights."""
        return "".join(text for text, _ in _pieces(self.text))

    @property
    def weights(self) -> tuple[float, ...]:
        """The weight of every character of the plain text."""
        return tuple(w for text, w in _pieces(self.text) for _ in text)


def _pieces(text: str) -> Sequence[tuple[str, float]]:
    """The plain text in pieces, each with its weight."""
    found: list[tuple[str, float]] = []
    opened: list[tuple[str, int, int]] = []  # bracket, its place in the text, pieces before it
    place = 0
    for token in TOKEN.findall(text):
        if token in CLOSES:
            opened.append((token, place, len(found)))
        elif token[-1] in CLOSES.values() and token[0] != "\\":
            if not opened or CLOSES[opened[-1][0]] != token[-1]:
                fault = f"{token[-1]!r} at character {place} closes nothing"
                raise BadInput(f"Weighted: {fault}; take it out, or write \\{token[-1]}")
            bracket, _, first = opened.pop()
            w = float(token[1:-1]) if token[0] == ":" else STEP if bracket == "(" else 1 / STEP
            found[first:] = [(piece, weight * w) for piece, weight in found[first:]]
        else:
            found.append((token[1:] if token[0] == "\\" and len(token) > 1 else token, 1.0))
        place += len(token)
    if opened:
        bracket, at, _ = opened[-1]
        raise BadInput(f"Weighted: {bracket!r} at character {at} is not closed; close it, or write \\{bracket}")
    return found


@method(tags=("prompt",))
@dataclass(frozen=True)
class Blend(Mixture):
    """The weighted average of what prompts are encoded as: sum_k w_k c_k / sum_k w_k.

    Every entry of the condition is averaged, pooled states included; words count where all prompts have them at the
    same place.

    Args:
        prompts: texts or values of this module, two or more.
        weights: one for each; () is all alike. A negative one leads away from its prompt.

    Example:
        >>> model.generate(Blend(("a red circle", "a blue square"), (0.7, 0.3)))

    Reference: D. Stewart, compel, `.blend()`.
    """

    prompts: tuple[Any, ...]
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _check_prompts("Blend", self.prompts)
        numbers = isinstance(self.weights, tuple) and all(map(math.isfinite, self.weights))
        if not numbers or len(self.weights) not in (0, len(self.prompts)):
            raise BadInput(f"Blend(weights={self.weights}): give a tuple of {len(self.prompts)} numbers, one a prompt")
        if self.weights and abs(sum(self.weights)) < 1e-6:
            raise BadInput(f"Blend(weights={self.weights}): their sum is 0, and they are shares of it; change one")

    @property
    def parts(self) -> tuple[Any, ...]:
        return self.prompts

    def shares(self, i: int, n: int) -> Sequence[float]:
        weights = self.weights or (1.0,) * len(self.prompts)
        return [w / sum(weights) for w in weights]


@method(tags=("prompt",))
@dataclass(frozen=True)
class Switch(Mixture):
    """One prompt for the first steps and another one for the rest: "[before:after:when]".

    Early steps settle the layout, late ones the details; `Switch("", text)` says nothing at first. Several changes are
    one Switch in another.

    Args:
        before, after: texts or values of this module.
        when: share of the steps of the full grid that are made with `before`, 0 to 1.

    Example:
        >>> model.generate("a red circle", negative_prompt=Switch("texture", "blur", when=0.5))

    Reference: AUTOMATIC1111, stable-diffusion-webui, wiki page Features, Prompt editing.
    """

    before: Any
    after: Any
    when: float = 0.5

    varies = True

    def __post_init__(self) -> None:
        _check_prompts("Switch", (self.before, self.after))
        if not 0.0 <= self.when <= 1.0:
            raise BadInput(f"Switch(when={self.when}): must be a share of the steps, 0 to 1")

    @property
    def parts(self) -> tuple[Any, ...]:
        return self.before, self.after

    def shares(self, i: int, n: int) -> Sequence[float]:
        early = i / n < self.when
        return [float(early), float(not early)]


@method(tags=("prompt",))
@dataclass(frozen=True)
class Alternate(Mixture):
    """Prompts in turns, another one in every step: "[first|second]".

    Args:
        prompts: texts or values of this module, two or more; step i takes the (i mod n)-th of n.

    Example:
        >>> model.generate(Alternate(("a red circle", "a red square")))

    Reference: AUTOMATIC1111, stable-diffusion-webui, wiki page Features, Alternating Words.
    """

    prompts: tuple[Any, ...]

    varies = True

    def __post_init__(self) -> None:
        _check_prompts("Alternate", self.prompts)

    @property
    def parts(self) -> tuple[Any, ...]:
        return self.prompts

    def shares(self, i: int, n: int) -> Sequence[float]:
        return [float(i % len(self.prompts) == k) for k in range(len(self.prompts))]


def read_prompt(text: str) -> Any:
    """A prompt as one types it: the expression of a value of this module, such as `Blend(("a", "b"))`, else the text.

    Raises:
        BadInput: it begins like such an expression and is none.
    """
    name = re.match(r"\s*(\w+)\(", text)
    if name and name[1] in names() and resolve(name[1]).kind == PromptValue.__name__:
        return parse(text, PromptValue)
    return text


def _check_prompts(what: str, prompts: Any) -> None:
    if not isinstance(prompts, tuple) or len(prompts) < 2:
        raise BadInput(f"{what}(prompts={prompts!r:.60}): give a tuple of two prompts or more")
    for prompt in prompts:
        if not isinstance(prompt, (str, int, PromptValue)) or isinstance(prompt, bool):
            raise BadInput(f"{what}: {prompt!r:.60} is no prompt; give a text, a class, or Weighted(...) and its like")
