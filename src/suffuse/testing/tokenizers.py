"""Tokenizers with a vocabulary of a few words, in the real classes."""

from __future__ import annotations

from typing import Any

WORDS = ("a", "red", "blue", "circle", "square", "left", "of", "right", "photo", "no", "und")


def clip_tokenizer(length: int = 77) -> Any:
    """A CLIPTokenizer that knows WORDS whole and spells every other word in bytes.

    Args:
        length: most tokens of a text, begin and end included.
    """
    from transformers import CLIPTokenizer

    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    letters = [chr(b) for b in printable] + [chr(256 + k) for k in range(len(rest))]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
    merges = list(dict.fromkeys(merges))
    tokens = [*letters, *(c + "</w>" for c in letters), *(a + b for a, b in merges), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={t: k for k, t in enumerate(dict.fromkeys(tokens))}, merges=merges, model_max_length=length
    )


def t5_tokenizer(length: int = 512) -> Any:
    """A T5Tokenizer (Unigram) that knows WORDS whole and spells every other word in letters."""
    from transformers import T5TokenizerFast

    letters = [(c, -8.0) for c in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,'-"]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    return T5TokenizerFast(
        vocab=[*special, *(("▁" + w, -3.0) for w in WORDS), *letters], extra_ids=0, model_max_length=length
    )
