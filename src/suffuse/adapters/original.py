"""Names of layers in the original code of SDXL, SD3 and Flux, which many adapter files use."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
SD3_BLOCK = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "x_block.attn.proj": ("attn.to_out.0",),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "x_block.attn2.proj": ("attn2.to_out.0",),
    "x_block.mlp.fc1": ("ff.net.0.proj",),
    "x_block.mlp.fc2": ("ff.net.2",),
    "x_block.adaLN_modulation.1": ("norm1.linear",),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "context_block.attn.proj": ("attn.to_add_out",),
    "context_block.mlp.fc1": ("ff_context.net.0.proj",),
    "context_block.mlp.fc2": ("ff_context.net.2",),
    "context_block.adaLN_modulation.1": ("norm1_context.linear",),
}
FLUX_BLOCK = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "img_attn.proj": ("attn.to_out.0",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "img_mod.lin": ("norm1.linear",),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "txt_attn.proj": ("attn.to_add_out",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
    "txt_mod.lin": ("norm1_context.linear",),
}
FLUX_SINGLE = {
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation.lin": ("norm.linear",),
}
LISTS = (
    ("joint_blocks", "transformer_blocks", SD3_BLOCK),
    ("double_blocks", "transformer_blocks", FLUX_BLOCK),
    ("single_blocks", "single_transformer_blocks", FLUX_SINGLE),
)
"""(original list of blocks, diffusers' list, layers within): the values lie one after another in the original layer."""


def originals(names: Mapping[str, object]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(original name, layers that lie in it one after another) for the layers of a network."""
    for theirs, ours, layers in LISTS:
        for k in range(1000):
            if not any(name.startswith(f"{ours}.{k}.") for name in names):
                break
            for layer, targets in layers.items():
                inside = tuple(f"{ours}.{k}.{target}" for target in targets)
                if all(name in names for name in inside):
                    yield f"{theirs}.{k}.{layer}", inside
    resnets = {m[1] for name in names if (m := re.match(r"down_blocks\.0\.resnets\.(\d+)\.", name))}
    if resnets:
        for name in names:
            yield from ((alias, (name,)) for alias in _unet(name, len(resnets)))


def _unet(name: str, resnets: int) -> Iterator[str]:
    """The original name of a UNet's layer; a down block has so many resnets, an up block one more."""
    if name in UNET:
        yield UNET[name]
    if middle := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name):
        kind, k, rest = middle.groups()
        yield f"middle_block.{1 if kind == 'attentions' else 2 * int(k)}.{RESNET.get(rest, rest)}"
    if not (block := re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name)):
        return
    side, i, kind, k, rest = block.groups()
    first = int(i) * (resnets + 1)
    if kind == "downsamplers":
        yield f"input_blocks.{first + resnets + 1}.0.op"
    elif kind == "upsamplers":  # behind the resnet, or behind the attention where the block has one
        yield from (f"output_blocks.{first + resnets}.{place}.conv" for place in (1, 2))
    else:
        at = f"input_blocks.{first + int(k) + 1}" if side == "down" else f"output_blocks.{first + int(k)}"
        yield f"{at}.0.{RESNET.get(rest, rest)}" if kind == "resnets" else f"{at}.1.{rest}"
