"""The networks of ADM: a UNet with adaptive group normalisation, and its encoder half as a classifier of noisy states.

Reference: Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis, 2105.05233.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from ..core.errors import BadInput
from ..core.value import Coef


class ADMUNet(UNet2DModel):
    """UNet with attention at several resolutions, residual blocks that resample, and AdaGN(h) = GN(h)(1 + y_s) + y_b.

    y_s and y_b come from the timestep and the class. diffusers' UNet2DModel in the settings of the paper; it adds what
    that class cannot say, a fixed number of heads.

    Args:
        image_size: side of a picture.
        channels: of a state.
        source_channels: of the picture beside it, C for upsamplers and 0 elsewhere.
        width: channels of the first level.
        multipliers: widths of the levels in units of `width`.
        blocks: residual blocks in a level.
        attention: sides of the levels that attend.
        head_width: channels a head.
        heads: heads in every attention, instead of `head_width`.
        classes: number of classes, or None.
        learned_variance: returns v behind the prediction, see `LearnedVariance`.
        adaptive: AdaGN; else the embedding is added before the norm.
        resample: residual blocks resample; else convolutions do.
        groups: of the norms.
        dropout: share in residual blocks.
    """

    @register_to_config
    def __init__(
        self,
        image_size: int = 256,
        channels: int = 3,
        source_channels: int = 0,
        width: int = 256,
        multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 4),
        blocks: int = 2,
        attention: tuple[int, ...] = (32, 16, 8),
        head_width: int = 64,
        heads: int | None = None,
        classes: int | None = None,
        learned_variance: bool = True,
        adaptive: bool = True,
        resample: bool = True,
        groups: int = 32,
        dropout: float = 0.0,
    ):
        attends = [image_size // 2**level in attention for level in range(len(multipliers))]
        plain = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if resample else ("DownBlock2D", "UpBlock2D")
        down = ["AttnDownBlock2D" if a else plain[0] for a in attends]
        up = ["AttnUpBlock2D" if a else plain[1] for a in reversed(attends)]
        kind = "resnet" if resample else "conv"
        super().__init__(
            sample_size=image_size,
            in_channels=channels + source_channels,
            out_channels=2 * channels if learned_variance else channels,
            block_out_channels=tuple(width * m for m in multipliers),
            down_block_types=tuple(down),
            up_block_types=tuple(up),
            downsample_type=kind,
            upsample_type=kind,
            layers_per_block=blocks,
            attention_head_dim=head_width if heads is None else 1,
            norm_num_groups=groups,
            attn_norm_num_groups=groups,
            resnet_time_scale_shift="scale_shift" if adaptive else "default",
            num_class_embeds=classes,
            dropout=dropout,
        )
        for module in self.modules() if heads is not None else ():
            if type(module).__name__ == "Attention":
                width_of_head = module.inner_dim // heads
                module.heads, module.scale = heads, width_of_head**-0.5


class AttentionPool(nn.Module):
    """Attention of the mean over a picture to the mean and every place of it.

    Args:
        side: of the picture.
        width: channels.
        head_width: channels a head.
        out: channels of what is returned.
    """

    def __init__(self, side: int, width: int, head_width: int, out: int):
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(width, side**2 + 1) / width**0.5)
        self.qkv_proj, self.c_proj = nn.Conv1d(width, 3 * width, 1), nn.Conv1d(width, out, 1)
        self.heads = width // head_width

    def forward(self, h: Tensor) -> Tensor:
        """(B, out) of pictures (B, width, side, side)."""
        h = h.flatten(2)
        h = torch.cat([h.mean(2, keepdim=True), h], 2) + self.positional_embedding
        q, k, v = (part.unflatten(1, (self.heads, -1)).transpose(2, 3) for part in self.qkv_proj(h).chunk(3, dim=1))
        pooled = F.scaled_dot_product_attention(q[:, :, :1], k, v)  # (B, heads, 1, head_width)
        return self.c_proj(pooled.transpose(2, 3).flatten(1, 2))[:, :, 0]


class ADMClassifier(nn.Module):
    """log p(y | x_t) of noisy states: the encoder half of ADM's UNet, with attention pooling; a `Reader`.

    Args:
        image_size, channels, width, multipliers, blocks, attention, head_width, adaptive, resample, groups, dropout: as
            in ADMUNet.
        classes: K.
        N: training timesteps of the process, by which a time becomes a timestep.
    """

    def __init__(
        self,
        image_size: int = 256,
        classes: int = 1000,
        channels: int = 3,
        width: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4, 4),
        blocks: int = 2,
        attention: Sequence[int] = (32, 16, 8),
        head_width: int = 64,
        adaptive: bool = True,
        resample: bool = True,
        groups: int = 32,
        dropout: float = 0.0,
        N: int = 1000,
    ):
        super().__init__()
        self.config: Mapping[str, Any] = {
            "image_size": image_size, "classes": classes, "channels": channels, "width": width,
            "multipliers": tuple(multipliers), "blocks": blocks, "attention": tuple(attention),
            "head_width": head_width, "adaptive": adaptive, "resample": resample, "groups": groups,
            "dropout": dropout, "N": N,
        }  # fmt: skip
        whole = ADMUNet(
            image_size, channels, 0, width, tuple(multipliers), blocks, tuple(attention), head_width, None, None, False,
            adaptive, resample, groups, dropout,
        )  # fmt: skip
        self.N = N
        self.time_proj, self.time_embedding = whole.time_proj, whole.time_embedding
        self.conv_in, self.down_blocks, self.mid_block = whole.conv_in, whole.down_blocks, whole.mid_block
        top = width * multipliers[-1]
        self.norm = nn.GroupNorm(groups, top)
        self.pool = AttentionPool(image_size // 2 ** (len(multipliers) - 1), top, head_width, classes)

    def forward(self, x: Tensor, t: Coef | Tensor | float) -> Tensor:
        """(B, K) logits of states (B, C, H, W) at times t, 0 to 1."""
        if x.shape[-1] != self.config["image_size"] or x.shape[-2] != self.config["image_size"]:
            size = self.config["image_size"]
            raise BadInput(f"x of {x.shape[-2]}x{x.shape[-1]}: this classifier reads {size}x{size}; resize it")
        timestep = (self.N * Coef(t).tensor(len(x)).reshape(len(x), -1)[:, 0] - 1.0).clamp(min=0.0)
        temb = self.time_embedding(self.time_proj(timestep.to(x.device, torch.float32)).to(x.dtype))
        h = self.conv_in(x)
        for block in self.down_blocks:
            h, _ = block(hidden_states=h, temb=temb)
        return self.pool(F.silu(self.norm(self.mid_block(h, temb))))
