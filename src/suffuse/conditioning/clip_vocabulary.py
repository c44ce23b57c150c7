"""CLIP's vocabulary, which single-file checkpoints presuppose and do not hold.

The merges in clip_merges.txt.xz are those of OpenAI's CLIP (MIT licence, beside the file).
"""

from __future__ import annotations

import lzma
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

Merge = tuple[str, str]


def alphabet() -> list[str]:
    """The printable letter that stands for each byte, in the order of CLIP's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in printable] + [chr(256 + k) for k in range(256 - len(printable))]


def clip_tokenizer(merges: Sequence[Merge] | None = None, *, length: int = 77, pad: str = "<|endoftext|>") -> Any:
    """A CLIPTokenizer.

    Args:
        merges: pairs in the order of merging; default CLIP's own 48,894.
        length: most tokens of a text, begin and end included.
        pad: token that fills up a text; "!" for the encoders trained by OpenCLIP.
    """
    from transformers import CLIPTokenizer

    merges = _released() if merges is None else list(merges)
    letters = alphabet()
    tokens = [*letters, *(c + "</w>" for c in letters), *(a + b for a, b in merges), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: k for k, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length, pad_token=pad)


def _released() -> list[Merge]:
    packed = files("suffuse").joinpath("conditioning", "clip_merges.txt.xz").read_bytes()
    pairs = (line.split(" ") for line in lzma.decompress(packed).decode().splitlines())
    return [(a, b) for a, b in pairs]
