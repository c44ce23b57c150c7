"""CLIP text encoders: one (SD1, SD2), two side by side (SDXL, SD3), or its pooled output alone (Flux)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.cond import Cond
from ..core.conditioner import Piece, Size
from ..core.errors import BadInput
from . import tokens


class CLIPText(Piece):
    """ "text" (B, tokens, width): hidden states of the last layer, after the final norm.

    Args:
        tokenizer, encoder: transformers' CLIPTokenizer and CLIPTextModel.
        skip: take the hidden states of so many layers earlier ("CLIP skip" of 1 is the penultimate layer), and apply
            the final norm to them.
    """

    def __init__(self, tokenizer: Any, encoder: Any, skip: int = 0):
        super().__init__()
        layers = encoder.config.num_hidden_layers
        if not 0 <= skip < layers:
            raise BadInput(f"skip={skip}: the text encoder has {layers} layers; give 0 to {layers - 1}")
        self.tokenizer, self.encoder, self.skip = tokenizer, encoder, skip

    @property
    def components(self) -> Mapping[str, Any]:
        return {"text_encoder": self.encoder, "tokenizer": self.tokenizer}

    def skipping(self, layers: int) -> CLIPText:
        """The same encoder, read so many layers before its end."""
        return CLIPText(self.tokenizer, self.encoder, layers)

    def forward(self, prompts: Sequence[Any], cond: Cond, size: Size) -> Cond:
        words, length = tokens.texts(prompts), _length(self.tokenizer, self.encoder)
        ids, mask = tokens.tokenize(self.tokenizer, words, length)
        attended = mask.to(self.encoder.device) if getattr(self.encoder.config, "use_attention_mask", False) else None
        out = self.encoder(ids.to(self.encoder.device), attention_mask=attended, output_hidden_states=self.skip > 0)
        text = out.last_hidden_state
        if self.skip:
            text = _final_norm(self.encoder)(out.hidden_states[-(self.skip + 1)])
        text = tokens.emphasised(text, tokens.weights(self.tokenizer, prompts, words, length), keep_mean=True)
        return cond | Cond({"text": text}, spans=[tokens.spans(self.tokenizer, w, length) for w in words])

    def overflow(self, prompt: Any) -> str | None:
        return tokens.overflow(self.tokenizer, prompt, _length(self.tokenizer, self.encoder))


class CLIPPair(Piece):
    """ "text": penultimate hidden states of two encoders, side by side; "pooled": their projected outputs.

    Args:
        encoders: (tokenizer, encoder) twice; None for the first where a model has the second only (SDXL's refiner).
        pool: which encoders' projected outputs make "pooled": (1,) for SDXL, (0, 1) for SD3.
        zero: the absence of a prompt is zeros instead of the empty text (SDXL's base model).
    """

    def __init__(self, encoders: Sequence[tuple[Any, Any] | None], pool: Sequence[int] = (1,), zero: bool = False):
        super().__init__()
        self.tokenizers = [e and e[0] for e in encoders]
        self.encoders = nn.ModuleDict({str(k): e[1] for k, e in enumerate(encoders) if e})
        self.pool, self.zero = tuple(pool), zero

    @property
    def components(self) -> Mapping[str, Any]:
        names: dict[str, Any] = {}
        for k, tokenizer in enumerate(self.tokenizers):
            if tokenizer is not None:
                end = "_2" if k else ""
                names |= {f"text_encoder{end}": self.encoders[str(k)], f"tokenizer{end}": tokenizer}
        return names

    def forward(self, prompts: Sequence[Any], cond: Cond, size: Size) -> Cond:
        words = tokens.texts(prompts)
        states: list[Tensor] = []
        pooled: list[Tensor] = []
        for k, module in self.encoders.items():
            encoder: Any = module
            tokenizer = self.tokenizers[int(k)]
            length = _length(tokenizer, encoder)
            ids, _ = tokens.tokenize(tokenizer, words, length)
            out = encoder(ids.to(encoder.device), output_hidden_states=True)
            weights = tokens.weights(tokenizer, prompts, words, length)
            states.append(tokens.emphasised(out.hidden_states[-2], weights, keep_mean=False))
            if int(k) in self.pool:
                pooled.append(out.text_embeds)
        text, summary = torch.cat(states, -1), torch.cat(pooled, -1)
        if self.zero:
            said = torch.tensor([p is not None for p in prompts], device=text.device)
            text, summary = text * said[:, None, None], summary * said[:, None]
        tokenizer = next(t for t in self.tokenizers if t is not None)
        found = [tokens.spans(tokenizer, w, text.shape[1]) for w in words]
        return cond | Cond({"text": text, "pooled": summary}, spans=found)

    def overflow(self, prompt: Any) -> str | None:
        pairs = [(self.tokenizers[int(k)], e) for k, e in self.encoders.items()]
        return max((tokens.overflow(t, prompt, _length(t, e)) for t, e in pairs), key=len)


class PooledCLIP(Piece):
    """ "pooled" (B, width): the output of a CLIP text encoder at the end of the text.

    Args:
        tokenizer, encoder: transformers' CLIPTokenizer and CLIPTextModel.
    """

    def __init__(self, tokenizer: Any, encoder: Any):
        super().__init__()
        self.tokenizer, self.encoder = tokenizer, encoder

    @property
    def components(self) -> Mapping[str, Any]:
        return {"text_encoder": self.encoder, "tokenizer": self.tokenizer}

    def forward(self, prompts: Sequence[Any], cond: Cond, size: Size) -> Cond:
        ids, _ = tokens.tokenize(self.tokenizer, tokens.texts(prompts), _length(self.tokenizer, self.encoder))
        return cond | {"pooled": self.encoder(ids.to(self.encoder.device)).pooler_output}

    def overflow(self, prompt: Any) -> str | None:
        return tokens.overflow(self.tokenizer, prompt, _length(self.tokenizer, self.encoder))


def _length(tokenizer: Any, encoder: Any) -> int:
    """Tokens that both can take: some tokenizers do not know their encoder's limit."""
    return min(tokenizer.model_max_length, encoder.config.max_position_embeddings)


def _final_norm(encoder: Any) -> nn.Module:
    return getattr(encoder, "text_model", encoder).final_layer_norm
