"""ResAdapter: a model at sizes that it was not trained on, by changes of its samplers and norms alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core.errors import Damaged, Refused
from ..core.patch import Adapter
from ..core.registry import method
from ..core.site import sites_of
from .delta import Part
from .direct import Norms
from .lora import LoRA
from .names import DENOISER
from .presets import Where
from .reading import load_adapters, read_tensors

LORA, NORMS = "pytorch_lora_weights.safetensors", "diffusion_pytorch_model.safetensors"
"""Files of a released ResAdapter."""


@method(paper="resadapter")
@dataclass(frozen=True)
class ResCLoRA(LoRA):
    """Resolution convolution LoRA: dW = alpha / r  B A on the convolutions of down- and upsamplers alone.

    They set the receptive field of all that is below them, and know nothing of style.

    Args:
        rank, alpha, tucker, dropout, decompose: as in LoRA; the released ones have rank 16 and alpha 8.
        where: layers; default those of the samplers.

    Raises:
        Refused: a network without samplers.

    Example:
        >>> lora, norms = ResCLoRA().on(model.denoiser), ResENorm().on(model.denoiser)
        >>> roles = {"model": model.denoiser.with_(lora, norms), "lora": lora, "norms": norms}
        >>> source = Buckets.of(model, pictures, captions, [(48, 48), (96, 96), (128, 128)], batch=16)
        >>> Trainer(roles, Phase(Denoising(), trains=("lora", "norms"))).fit(source, steps=1000)

    Reference: Cheng et al., ResAdapter: Domain Consistent Resolution Adapter for Diffusion Models, 2403.02084.
    """

    rank: int = 16
    where: Where = field(default="resolution", kw_only=True)


@method(paper="resadapter")
@dataclass(frozen=True)
class ResENorm(Norms):
    """Resolution extrapolation norms: changes of the scales and shifts of the group norms in residual blocks.

    They are differences, so that a personalised model keeps norms of its own and gets the change on top.

    Args:
        where: layers; default the norms of residual blocks.

    Raises:
        Refused: a network without such norms.

    Reference: Cheng et al., 2403.02084.
    """

    where: Where = field(default="resolution", kw_only=True)


@method(paper="resadapter", tags=("files",))
def load_resadapter(
    folder: str | os.PathLike[str], denoiser: Any, *, base: Any = None, scale: float = 1.0
) -> list[Adapter]:
    """The adapters of a released ResAdapter: its LoRA and, where it has them, its norms.

    Args:
        folder: with pytorch_lora_weights.safetensors and diffusion_pytorch_model.safetensors, either or both.
        denoiser: to be adapted.
        base: the denoiser that the file was trained on; the norms are then differences to its own, and a personalised
            `denoiser` keeps what it has. None overwrites the norms, as the released code does.
        scale: of the LoRA; the authors advise 1 below the native size and 0.3 to 0.7 above.

    Raises:
        Damaged: neither file is there. Refused: made for another architecture.

    Example:
        >>> adapters = load_resadapter("resadapter_v2_sd1.5", model.denoiser, scale=0.5)
        >>> model.with_(*adapters).generate("a red circle", height=768, width=768)

    Reference: Cheng et al., 2403.02084; files of bytedance/res-adapter.
    """
    lora, norms = Path(folder) / LORA, Path(folder) / NORMS
    found = load_adapters(lora, {DENOISER: denoiser}, scale)[DENOISER] if lora.is_file() else []
    if norms.is_file():
        found.append(_norms(norms, denoiser, denoiser if base is None else base))
    if not found:
        raise Damaged(f"folder: {folder} holds neither {LORA} nor {NORMS}; give the folder of a ResAdapter")
    return found


def _norms(path: Path, denoiser: Any, base: Any) -> Adapter:
    """Norms of a file as differences to those of `base`."""
    patch, before = ResENorm(), _by_name(base)
    parts: dict[str, dict[str, Tensor]] = {s.name: {} for s in patch.sites(sites_of(denoiser))}
    for key, value in read_tensors(path)[0].items():
        layer, _, name = key.rpartition(".")
        own = getattr(before.get(layer), name, None)
        if layer not in parts or own is None or own.shape != value.shape:
            raise Refused(f"{path}: {key!r} fits no norm of this network; use the architecture that it was made for")
        parts[layer][f"{name[0]}_norm"] = value.float() - own.detach().float()
    return Adapter(patch, {layer: Part(tensors) for layer, tensors in parts.items() if tensors})


def _by_name(denoiser: Any) -> Mapping[str, Any]:
    return {s.name: s.module for s in sites_of(denoiser) if s.kind == "norm"}
