"""Tiny networks of every architecture: real classes, random weights, built in milliseconds. For tests only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    DiTTransformer2DModel,
    FluxTransformer2DModel,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)
from torch import Tensor, nn

from ..backbones import family_of
from ..core.cond import Cond
from ..core.denoiser import Network
from ..core.errors import BadInput, nearest
from ..core.prediction import EPS, FLOW, V
from ..processes.continuous import Flow
from ..processes.tables import Table

TOKENS, WIDTH, CLASSES, ROWS = 5, 16, 3, 16
LINEAR = Table("linear", 0.0001, 0.02)


def fixture(name: str) -> Network:
    """A new tiny network, the same weights each time; torch's global generator is left alone.

    Args:
        name: "unet" (SD1), "unet-sdxl", "unet-v" (SD2), "unet-class", "sd3", "flux", "pixart" or "dit".
    """
    build, process, kind = _plan(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build()
        for p in net.parameters():
            if p.ndim == 1:  # scales of exactly 1 and shifts of 0 would hide mistakes
                nn.init.normal_(p, 1.0 if bool((p == 1).all()) else 0.0, 0.1)
    return Network(net.eval(), family_of(net), process, kind).eval()


def fixtures() -> dict[str, Network]:
    """All of them by name."""
    return {name: fixture(name) for name in NAMES}


def shape(name: str, size: int = 8) -> tuple[int, int, int]:
    """(C, H, W) of a small state of this fixture."""
    _plan(name)
    return (1 if name == "unet-class" else 4, size, size)


def states(name: str, n: int, size: int = 8) -> Tensor:
    """(n, C, size, size) standard normal states; row k is the same for every n."""
    return _rows("states", n, *shape(name, size))


def conditions(name: str, n: int) -> Cond:
    """The condition of n rows, with a "null" alternative; row k is the same for every n."""
    _plan(name)
    if name in ("unet-class", "dit"):
        return Cond({"label": torch.arange(n) % CLASSES}, {"null": Cond({"label": torch.full((n,), CLASSES)})})
    entries: dict[str, Tensor] = {"text": _rows("text", n, TOKENS, WIDTH)}
    null: dict[str, Tensor] = {"text": _rows("null", 1, TOKENS, WIDTH).expand(n, -1, -1)}
    if name in ("unet-sdxl", "sd3", "flux"):
        entries["pooled"], null["pooled"] = _rows("pooled", n, WIDTH), torch.zeros(n, WIDTH)
    if name == "unet-sdxl":
        entries["time_ids"] = torch.tensor([64.0, 64, 0, 0, 64, 64]).expand(n, -1)
    if name == "flux":
        entries["guidance_scale"] = torch.full((n,), 3.5)
    if name == "pixart":
        lengths = torch.tensor([TOKENS, 2, 3, 4]).repeat(ROWS // 4)[:n]
        entries["text_mask"] = torch.arange(TOKENS) < lengths[:, None]
        null["text_mask"] = (torch.arange(TOKENS) < 1).expand(n, -1)
        entries["resolution"] = torch.tensor([64.0, 64.0]).expand(n, -1)
        entries["aspect_ratio"] = torch.ones(n, 1)
    return Cond(entries, {"null": Cond(null)})


def _rows(purpose: str, n: int, *shape: int) -> Tensor:
    if n > ROWS:
        raise BadInput(f"n={n}: fixtures have {ROWS} rows; take fewer")
    generator = torch.Generator().manual_seed(sum(purpose.encode()))
    return torch.randn(ROWS, *shape, generator=generator)[:n]


def _unet(**changes: Any) -> UNet2DConditionModel:
    settings: dict[str, Any] = dict(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    return UNet2DConditionModel(**{**settings, **changes})


def _sdxl() -> UNet2DConditionModel:
    return _unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=WIDTH + 24,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
    )


def _classes() -> UNet2DModel:
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=CLASSES + 1,
    )


def _sd3() -> SD3Transformer2DModel:
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=WIDTH,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )


def _flux() -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(2, 2, 4),
    )


def _pixart() -> PixArtTransformer2DModel:
    return PixArtTransformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=3,
        cross_attention_dim=24,
        caption_channels=WIDTH,
        use_additional_conditions=True,
    )


def _dit() -> DiTTransformer2DModel:
    return DiTTransformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        num_embeds_ada_norm=CLASSES,
    )


_PLANS: dict[str, tuple[Callable[[], Any], Any, Any]] = {
    "unet": (_unet, Table(), EPS),
    "unet-sdxl": (_sdxl, Table(), EPS),
    "unet-v": (_unet, Table(), V),
    "unet-class": (_classes, LINEAR, EPS),
    "sd3": (_sd3, Flow(), FLOW),
    "flux": (_flux, Flow(), FLOW),
    "pixart": (_pixart, LINEAR, EPS),
    "dit": (_dit, LINEAR, EPS),
}
NAMES = tuple(_PLANS)


def _plan(name: str) -> tuple[Callable[[], Any], Any, Any]:
    if name not in _PLANS:
        raise BadInput(f"fixture {name!r} is unknown; {nearest(name, NAMES)}")
    return _PLANS[name]
