"""IP-Adapter's files: an image encoder, the layers that make tokens of what it says, and attention to them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters.reading import read_tensors
from ..conditioning.given import Given
from ..core.errors import Damaged, Refused
from ..core.model import Model
from ..core.patch import Adapter
from ..images import Picture, to_pil, to_tensor
from .image_prompt import ImagePrompt


class ImageTokens(nn.Module):
    """Pictures to tokens: CLIP's image encoder, and a projection.

    Args:
        encoder: a CLIPVisionModelWithProjection of transformers.
        projection: of its embedding (diffusers' ImageProjection), or of its last hidden states but one (the resampler
            IPAdapterPlusImageProjection).
    """

    def __init__(self, encoder: Any, projection: Any):
        super().__init__()
        self.encoder, self.projection = encoder, projection

    @torch.no_grad()
    def forward(self, pictures: Picture | Sequence[Picture]) -> tuple[Tensor, Tensor]:
        """(B, n, width) tokens of pictures, and those of none."""
        from transformers import CLIPImageProcessorPil

        side = self.encoder.config.image_size
        process = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
        pixels = process(to_pil(to_tensor(pictures)), return_tensors="pt")["pixel_values"]
        pixels = pixels.to(next(self.encoder.parameters()))
        if hasattr(self.projection, "image_embeds"):
            said = self.encoder(pixels).image_embeds
            return self.projection(said), self.projection(torch.zeros_like(said))
        seen = (
            self.encoder(v, output_hidden_states=True).hidden_states[-2] for v in (pixels, torch.zeros_like(pixels))
        )
        said, none = map(self.projection, seen)
        return said, none


@dataclass(frozen=True, eq=False)
class IPAdapter:
    """An image prompt as it is released: what makes tokens of a picture, and what attends to them.

    Args:
        tokens: pictures to tokens (B, n, width), and those of none; `ImageTokens` for released weights.
        prompt: `ImagePrompt` with its parameters.

    Example:
        >>> ip = IPAdapter.load("ip-adapter_sd15.safetensors", "image_encoder/", model)
        >>> ip.shown(model, "cat.png", scale=0.6).generate("a cat in a garden")

    Reference: Ye et al., IP-Adapter: Text Compatible Image Prompt Adapter for Text-to-Image Diffusion Models,
    2308.06721.
    """

    tokens: Callable[[Any], tuple[Tensor, Tensor]]
    prompt: Adapter

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], encoder: str | os.PathLike[str], model: Model, dtype: Any = torch.float32
    ) -> IPAdapter:
        """Read a file of IP-Adapter or IP-Adapter Plus, and the folder of its image encoder.

        Raises:
            Damaged: missing or incomplete. Refused: a file of another kind, or for another network.
        """
        from ..loading.parts import read_part

        found, _ = read_tensors(Path(path))
        images, layers = (
            {k.removeprefix(f"{start}."): v.to(dtype) for k, v in found.items() if k.startswith(f"{start}.")}
            for start in ("image_proj", "ip_adapter")
        )
        if not images or not layers:
            raise Damaged(f"{path}: holds no image_proj and ip_adapter; give a file of IP-Adapter")
        seen = read_part(Path(encoder), "transformers", "CLIPVisionModelWithProjection", dtype, None)
        return cls(ImageTokens(seen, projection(images, path)), attention(layers, model, path))

    def shown(self, model: Model, image: Picture | Sequence[Picture], scale: float = 1.0) -> Model:
        """A view of a model that is prompted by pictures too: one for all, or one for each prompt."""
        (entry,) = self.prompt.patch.reads
        tokens, none = self.tokens(image)
        given = Given(model.conditioner, {entry: tokens}, {"null": {entry: none}})
        return model.with_(self.prompt.scaled(scale)).with_conditioner(given)


def projection(tensors: dict[str, Tensor], path: Any) -> nn.Module:
    """The layers of "image_proj", by diffusers' own conversion of names."""
    from diffusers.loaders.unet import UNet2DConditionLoadersMixin

    if "proj.weight" not in tensors and "latents" not in tensors:
        raise Refused(f"{path}: is of faces or of a whole grid of features; give IP-Adapter or IP-Adapter Plus")
    convert: Any = UNet2DConditionLoadersMixin._convert_ip_adapter_image_proj_to_diffusers
    return convert(None, tensors, low_cpu_mem_usage=False).eval()


def attention(tensors: dict[str, Tensor], model: Model, path: Any) -> Adapter:
    """`ImagePrompt` with the layers of "ip_adapter": 1., 3., ... in the order of diffusers' attention processors."""
    net: Any = model.net
    made = ImagePrompt().on(model.denoiser)
    names = [name for each in net.attn_processors if (name := each.removesuffix(".processor")) in made.names]
    for k, name in enumerate(names):
        own = {f"{layer}.weight": tensors.get(f"{2 * k + 1}.{layer}.weight") for layer in ("to_k_ip", "to_v_ip")}
        fits = all(v is not None and v.shape == made.part(name).state_dict()[key].shape for key, v in own.items())
        if not fits:
            raise Refused(f"{path}: its layer {2 * k + 1} does not fit {name}; use it on the model it was made for")
        made.part(name).load_state_dict(own)
    return made.eval()
