"""Agreement of pictures, and of changes of pictures, with captions, in a CLIP model of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from suffuse.core.errors import BadInput, Damaged, Refused
from suffuse.core.files import sha256
from suffuse.core.registry import method

from .pictures import Pictures
from .scores import Scored


@lru_cache(maxsize=1)
def _load(folder: str) -> tuple[Any, Any, Any, str]:
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    if not Path(folder).is_dir():
        raise Refused(
            f"CLIPScore: no folder {folder}; give one that holds model, tokenizer and image processor of a CLIP"
        )
    try:
        model = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        processor = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise Damaged(f"CLIPScore: {folder}: {reason}; give a whole CLIP folder with model.safetensors") from error
    return model, tokenizer, processor, sha256(Path(folder) / "model.safetensors")[:8]


@method(tags=("metric",))
@dataclass(frozen=True)
class CLIPScore(Scored):
    """100 max(cos(image, caption), 0) in the joint space of a CLIP model.

    Captions are cut at the model's longest text; pictures are rounded to 8 bits and go through the model's own image
    processor.

    Args:
        folder: of a CLIP model as transformers saves it.

    Reference: Hessel et al., CLIPScore: A Reference-free Evaluation Metric for Image Captioning, 2104.08718.

    Differs from the paper: the factor is 100, as most later work reports it, instead of 2.5.
    """

    folder: str

    @property
    def name(self) -> str:
        return "CLIP score"

    @property
    def protocol(self) -> str:
        _, _, processor, digest = _load(self.folder)
        return f"{Path(self.folder).name} {digest}, resized by its processor to {processor.size}"

    def score(self, pictures: Pictures) -> Tensor:
        texts = [str(caption) for caption in pictures.said(self.name)]
        seen, said = embedded_pictures(self.folder, pictures.images), embedded_texts(self.folder, texts)
        return 100 * (seen * said).sum(1).clamp(min=0)


@method(tags=("metric", "editing"))
@dataclass(frozen=True)
class DirectionalCLIP(Scored):
    """cos(E(image) - E(reference), E(caption) - E(source)): whether a picture changed as its caption did.

    The embeddings have length 1. A picture that did not change scores 0.

    Args:
        folder: of a CLIP model as transformers saves it.

    Example:
        >>> evaluate(Pictures(after, ["a dog"], before, sources=["a cat"]), [DirectionalCLIP("clip-vit-base-patch32/")])
        >>> edit_ensemble(model, "cat.png", "a cat", "a dog", rank=DirectionalCLIP("clip-vit-base-patch32/").rank)

    Reference: Gal et al., StyleGAN-NADA: CLIP-Guided Domain Adaptation of Image Generators, 2108.00946.
    """

    folder: str

    @property
    def name(self) -> str:
        return "directional CLIP"

    @property
    def protocol(self) -> str:
        return CLIPScore(self.folder).protocol

    def score(self, pictures: Pictures) -> Tensor:
        after = [str(caption) for caption in pictures.said(self.name)]
        pictures.pairs(self.name)
        assert pictures.references is not None
        seen = [embedded_pictures(self.folder, v) for v in (pictures.images, pictures.references)]
        if not pictures.sources:
            raise BadInput(f"sources: none, and {self.name} compares with them; give Pictures(images, sources=...)")
        said = [embedded_texts(self.folder, v) for v in (after, [str(caption) for caption in pictures.sources])]
        return torch.cosine_similarity(seen[0] - seen[1], said[0] - said[1])

    def rank(self, before: Tensor, after: Tensor, source: Sequence[str], target: Sequence[str]) -> Tensor:
        """(B,) scores of edits (B, 3, H, W), as `edit_ensemble` takes them."""
        return self.score(Pictures(after, target, before, sources=source))


@torch.no_grad()
def embedded_pictures(folder: str, images: Tensor) -> Tensor:
    """(B, d) of length 1, float64, of pictures (B, 3, H, W) in [-1, 1]."""
    model, _, processor, _ = _load(folder)
    bytes_ = ((images.double() / 2 + 0.5) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    shown = [Image.fromarray(image) for image in bytes_.cpu().numpy()]
    pixels = processor(shown, return_tensors="pt")["pixel_values"]
    return F.normalize(model.visual_projection(model.vision_model(pixels).pooler_output).double(), dim=1)


@torch.no_grad()
def embedded_texts(folder: str, texts: Sequence[str]) -> Tensor:
    """(B, d) of length 1, float64."""
    model, tokenizer, _, _ = _load(folder)
    longest = model.config.text_config.max_position_embeddings
    words = tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
    found = model.text_model(input_ids=words["input_ids"], attention_mask=words["attention_mask"])
    return F.normalize(model.text_projection(found.pooler_output).double(), dim=1)
