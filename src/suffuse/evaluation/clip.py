"""CLIP score: agreement of pictures with their captions in a CLIP model of the user's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from suffuse.core.errors import Damaged, Refused
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
        model, tokenizer, processor, _ = _load(self.folder)
        bytes_ = (pictures.unit * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
        pixels = processor([Image.fromarray(image) for image in bytes_], return_tensors="pt")["pixel_values"]
        longest = model.config.text_config.max_position_embeddings
        words = tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        with torch.no_grad():
            out = model(input_ids=words["input_ids"], attention_mask=words["attention_mask"], pixel_values=pixels)
        return 100 * torch.cosine_similarity(out.image_embeds.double(), out.text_embeds.double()).clamp(min=0)
