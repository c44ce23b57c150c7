"""Tokenizers with a vocabulary of a few words, in the real classes."""

from __future__ import annotations

from typing import Any

from ..conditioning import clip_vocabulary

WORDS = ("a", "red", "blue", "circle", "square", "left", "of", "right", "photo", "no", "und")


def clip_tokenizer(length: int = 77) -> Any:
    """A CLIPTokenizer that knows WORDS whole and spells every other word in bytes.

    Args:
        length: most tokens of a text, begin and end included.
    """
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
    return clip_vocabulary.clip_tokenizer(list(dict.fromkeys(merges)), length=length)


def t5_tokenizer(length: int = 512) -> Any:
    """A T5Tokenizer (Unigram) that knows WORDS whole and spells every other word in letters."""
    from transformers import T5TokenizerFast

    letters = [(c, -8.0) for c in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,'-"]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    words = [("▁" + word, -3.0) for word in WORDS]
    return T5TokenizerFast(vocab=[*special, *words, *letters], extra_ids=0, model_max_length=length)
