"""Sites of diffusion transformers: entry, layers with their attention and feed-forward units, exit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from ..core.site import Site

ATTENTION = {"image": "hidden_states", "text": "encoder_hidden_states", "pos": "image_rotary_emb"}


def transformer_sites(
    entry: str,
    net: Any,
    lists: Mapping[str, tuple[str, ...]],
    exit: str,
    streams: Mapping[str, str],
    joint: tuple[str, ...] = (),
) -> Iterator[Site]:
    """Block, unit and attention sites in the order of execution.

    Args:
        entry, exit: names of the first and the last layer, those that see states and return predictions.
        net: the network.
        lists: attribute that holds layers -> streams that they return, in order.
        streams: canonical stream -> argument name of every layer.
        joint: streams in the order of keys where image and text attend to each other, or () where they do not.
    """
    layers = [
        (f"{name}.{k}", layer, returns) for name, returns in lists.items() for k, layer in enumerate(getattr(net, name))
    ]
    inside = {"image": "latent"} if type(net.get_submodule(entry)).__name__ == "PatchEmbed" else {"image": "input"}
    yield Site(entry, net.get_submodule(entry), "unit", "in", "in", 0.0, inside)
    for k, (name, layer, returns) in enumerate(layers):
        depth = (k + 1) / (len(layers) + 1)
        yield Site(name, layer, "block", "transformer", "body", depth, streams, returns)
        for inner, module in layer.named_modules():
            full, kind = f"{name}.{inner}", type(module).__name__
            if kind == "FeedForward":
                stream = "text" if "context" in inner else "image"
                yield Site(full, module, "unit", "feedforward", "body", depth, {stream: "hidden_states"}, (stream,))
            elif kind in ("Attention", "FluxAttention"):
                yield _attention(full, module, depth, joint)
    yield Site(exit, net.get_submodule(exit), "unit", "out", "out", 1.0, {"image": "input"})


def _attention(name: str, module: Any, depth: float, joint: tuple[str, ...]) -> Site:
    if joint and not name.endswith("attn2"):  # attn2 is the image-only attention of Stable Diffusion 3.5
        returns = ("image", "text") if module.added_kv_proj_dim is not None else ("image",)
        return Site(name, module, "attention", "joint", "body", depth, ATTENTION, returns, joint)
    cross = bool(getattr(module, "is_cross_attention", False))
    role, keys = ("cross", ("text",)) if cross else ("self", ("image",))
    return Site(name, module, "attention", role, "body", depth, ATTENTION, keys=keys)


def is_transformer2d(net: nn.Module, norm_type: str) -> bool:
    """True for the old common class `Transformer2DModel` when it has patches and this kind of adaptive norm."""
    config: Any = getattr(net, "config", None)
    return (
        type(net).__name__ == "Transformer2DModel" and config.norm_type == norm_type and config.patch_size is not None
    )
