"""Names of weights in guided-diffusion, and where each lies in our networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from ..core.errors import Damaged

Weights = Mapping[str, Tensor]
Place = tuple[str, str, str]
"""Module of ours, module of theirs, and what it is: "plain", "resnet" or "attention"."""

ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "class_embedding": "label_emb",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "norm": "out.0",
    "pool": "out.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
MIDDLE = (("resnets.0", "resnet"), ("attentions.0", "attention"), ("resnets.1", "resnet"))


def places(net: Any) -> Iterator[Place]:
    """Everything with weights in an `ADMUNet` or `ADMClassifier`."""
    for ours, theirs in ENDS.items():
        if getattr(net, ours.split(".")[0], None) is not None:
            yield ours, theirs, "plain"
    yield from _encoder(net.down_blocks)
    yield from ((f"mid_block.{inner}", f"middle_block.{k}", kind) for k, (inner, kind) in enumerate(MIDDLE))
    yield from _decoder(getattr(net, "up_blocks", ()))


def _encoder(blocks: Any) -> Iterator[Place]:
    number = 1
    for k, block in enumerate(blocks):
        for j in range(len(block.resnets)):
            yield from _layer(block, f"down_blocks.{k}", j, f"input_blocks.{number}")
            number += 1
        for resampler in block.downsamplers or ():
            yield _resampler(resampler, f"down_blocks.{k}.downsamplers.0", f"input_blocks.{number}.0", "op")
            number += 1


def _decoder(blocks: Any) -> Iterator[Place]:
    number = 0
    for k, block in enumerate(blocks):
        for j in range(len(block.resnets)):
            yield from _layer(block, f"up_blocks.{k}", j, f"output_blocks.{number}")
            number += 1
        for resampler in block.upsamplers or ():  # behind what the level's last layer holds
            theirs = f"output_blocks.{number - 1}.{2 if hasattr(block, 'attentions') else 1}"
            yield _resampler(resampler, f"up_blocks.{k}.upsamplers.0", theirs, "conv")


def _layer(block: Any, ours: str, j: int, theirs: str) -> Iterator[Place]:
    yield f"{ours}.resnets.{j}", f"{theirs}.0", "resnet"
    if hasattr(block, "attentions"):
        yield f"{ours}.attentions.{j}", f"{theirs}.1", "attention"


def _resampler(module: Any, ours: str, theirs: str, convolution: str) -> Place:
    return (
        (ours, theirs, "resnet") if hasattr(module, "conv1") else (f"{ours}.conv", f"{theirs}.{convolution}", "plain")
    )


def converted(weights: Weights, net: nn.Module, split_first: bool) -> dict[str, Tensor]:
    """The weights of `net` by our names.

    Args:
        weights: by their original names.
        net: an `ADMUNet` or `ADMClassifier`, for its structure.
        split_first: q, k and v lie one after another, else those of each head do.

    Raises:
        KeyError: a weight is missing. Damaged: there are weights that have no place in `net`.
    """
    unused, found = dict(weights), dict[str, Tensor]()
    for ours, theirs, kind in places(net):
        module: Any = net.get_submodule(ours)
        if kind == "attention":
            found |= _attention(unused, module, ours, theirs, split_first)
            continue
        parts = {"": theirs} if kind == "plain" else {f"{inner}.": f"{theirs}.{name}" for inner, name in RESNET.items()}
        for inner, origin in parts.items():
            part = module if kind == "plain" else getattr(module, inner[:-1])
            for name, _ in () if part is None else part.named_parameters():
                found[f"{ours}.{inner}{name}"] = unused.pop(f"{origin}.{name}")
    if unused:
        raise Damaged(f"source: {len(unused)} weights have no place in this network, such as {min(unused)!r}")
    return found


def _attention(weights: dict[str, Tensor], module: Any, ours: str, theirs: str, split_first: bool) -> dict[str, Tensor]:
    found = {}
    for end in ("weight", "bias"):
        found[f"{ours}.group_norm.{end}"] = weights.pop(f"{theirs}.norm.{end}")
        found[f"{ours}.to_out.0.{end}"] = _flat(weights.pop(f"{theirs}.proj_out.{end}"))
        joined = _flat(weights.pop(f"{theirs}.qkv.{end}"))
        heads = 1 if split_first else module.heads
        parts = joined.unflatten(0, (heads, 3, -1)).unbind(1)
        found |= {f"{ours}.to_{name}.{end}": part.flatten(0, 1) for name, part in zip("qkv", parts, strict=True)}
    return found


def _flat(weight: Tensor) -> Tensor:
    """A convolution of width 1 as the matrix that it is."""
    return weight.flatten(1) if weight.ndim > 1 else weight
