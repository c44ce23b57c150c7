"""T5 text encoders: with a mask (PixArt), without (Flux), or appended to CLIP's states (SD3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ..core.cond import Cond
from ..core.conditioner import Piece, Size
from . import tokens


class T5Text(Piece):
    """ "text" (B, length, width), and "text_mask" (B, length) where padding is to be ignored.

    Args:
        tokenizer, encoder: transformers' T5Tokenizer and T5EncoderModel.
        length: tokens of a prompt.
        masked: hide the padding, in the encoder and in the network that reads it.
        names: the encoder's and the tokenizer's names in diffusers' layout.
    """

    def __init__(self, tokenizer: Any, encoder: Any, length: int, masked: bool, names: tuple[str, str]):
        super().__init__()
        self.tokenizer, self.encoder = tokenizer, encoder
        self.length, self.masked, self.names = length, masked, names

    @property
    def components(self) -> Mapping[str, Any]:
        return {self.names[0]: self.encoder, self.names[1]: self.tokenizer}

    def forward(self, prompts: Sequence[Any], cond: Cond, size: Size) -> Cond:
        words = self._clean(prompts)
        ids, mask = tokens.tokenize(self.tokenizer, words, self.length)
        mask = mask.to(self.encoder.device)
        text = self.encoder(ids.to(self.encoder.device), attention_mask=mask if self.masked else None)[0]
        weights = tokens.weights(self.tokenizer, prompts, words, self.length)
        text = tokens.emphasised(text, weights, keep_mean=False)
        entries = {"text": text, "text_mask": mask.bool()} if self.masked else {"text": text}
        return cond | Cond(entries, spans=[tokens.spans(self.tokenizer, w, self.length) for w in words])

    def overflow(self, prompt: Any) -> str | None:
        return tokens.overflow(self.tokenizer, self._clean([prompt])[0], self.length)

    def _clean(self, prompts: Sequence[Any]) -> list[str]:
        """PixArt was trained on captions in lower case without space around them."""
        return [w.lower().strip() if self.masked else w for w in tokens.texts(prompts)]


class AppendedT5(Piece):
    """T5's states behind those of CLIP, which are padded to T5's width; zeros where the encoder was left out.

    Args:
        tokenizer, encoder: transformers' T5Tokenizer and T5EncoderModel, or None twice.
        length: tokens of a prompt.
        width: of the joint sequence.
    """

    def __init__(self, tokenizer: Any, encoder: Any, length: int, width: int):
        super().__init__()
        self.tokenizer, self.encoder, self.length, self.width = tokenizer, encoder, length, width

    @property
    def components(self) -> Mapping[str, Any]:
        return {"text_encoder_3": self.encoder, "tokenizer_3": self.tokenizer}

    def forward(self, prompts: Sequence[Any], cond: Cond, size: Size) -> Cond:
        text = F.pad(cond["text"], (0, self.width - cond["text"].shape[-1]))
        if self.encoder is None:
            more = text.new_zeros(len(prompts), self.length, self.width)
        else:
            words = tokens.texts(prompts)
            ids, _ = tokens.tokenize(self.tokenizer, words, self.length)
            weights = tokens.weights(self.tokenizer, prompts, words, self.length)
            more = tokens.emphasised(self.encoder(ids.to(self.encoder.device))[0].to(text), weights, keep_mean=False)
        return cond | {"text": torch.cat([text, more], 1)}

    def overflow(self, prompt: Any) -> str | None:
        return None if self.encoder is None else tokens.overflow(self.tokenizer, prompt, self.length)
