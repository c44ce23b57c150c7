"""What adapter files call networks, layers and tensors: suffuse, diffusers and PEFT, kohya and LyCORIS."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .original import originals

DENOISER = "denoiser"
NETWORKS = (DENOISER, "text_encoder", "text_encoder_2")

TENSORS = {name: f"{name}.weight" for name in ("lora_down", "lora_up", "lora_mid", "a1", "a2", "b1", "b2")}
"""Our name of a tensor -> its name in kohya and LyCORIS files, where they differ."""

SAME = (
    *("alpha", "dora_scale", "weight", "on_input", "diff", "diff_b", "w_norm", "b_norm", "oft_blocks"),
    *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
    *("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
)
"""Tensors that have one name everywhere."""

PEFT = {"lora_A": "lora_down", "lora_B": "lora_up", "lora_magnitude_vector": "magnitude"}
OLD_DIFFUSERS = {
    "lora.down": "lora_down",
    "lora.up": "lora_up",
    "lora_linear_layer.down": "lora_down",
    "lora_linear_layer.up": "lora_up",
}

ENDINGS = {
    **{name: name for name in (*SAME, *TENSORS)},
    **{theirs: ours for ours, theirs in TENSORS.items()},
    **{f"{theirs}{end}": ours for theirs, ours in PEFT.items() for end in ("", ".weight", ".default.weight")},
    **{f"{theirs}.weight": ours for theirs, ours in OLD_DIFFUSERS.items()},
}
"""End of a key in any file -> our name of the tensor."""

PREFIXES = {
    **dict.fromkeys(("denoiser.", "unet.", "transformer.", "diffusion_model.", "base_model.model."), DENOISER),
    **dict.fromkeys(("lora_unet_", "lora_transformer_", "lycoris_"), DENOISER),
    **dict.fromkeys(("text_encoder.", "lora_te_", "lora_te1_"), "text_encoder"),
    **dict.fromkeys(("text_encoder_2.", "lora_te2_"), "text_encoder_2"),
}
"""Start of a key in any file -> the network that it belongs to."""


def parsed(key: str) -> tuple[str, str, str] | None:
    """(network, layer as the file calls it, our name of the tensor) of a key, or None where its ending is unknown."""
    # the first LoRA files of diffusers named layers by their attention processor
    key = re.sub(r"\.processor\.(\w+?)_lora\.", lambda m: f".{'to_out.0' if m[1] == 'to_out' else m[1]}.lora.", key)
    ending = max((e for e in ENDINGS if key.endswith(f".{e}")), key=len, default=None)
    if ending is None:
        return None
    layer = key[: -len(ending) - 1]
    prefix = max((p for p in PREFIXES if layer.startswith(p)), key=len, default="")
    return PREFIXES.get(prefix, DENOISER), layer[len(prefix) :], ENDINGS[ending]


def aliases(names: Mapping[str, object]) -> dict[str, tuple[str, ...]]:
    """All that files call the layers of a network -> the layers, several where the original code has them in one."""
    found: dict[str, tuple[str, ...]] = {}
    for alias, layers in originals(names):
        found[alias] = found[flat(alias)] = layers
    for name in names:
        for alias in (name.removeprefix("text_model."), with_text_model(name), name):
            found[alias] = found[flat(alias)] = (name,)
    return found


def flat(name: str) -> str:
    """A layer as kohya's files call it."""
    return name.replace(".", "_")


def with_text_model(name: str) -> str:
    """A layer of a CLIP text encoder as files call it; transformers may leave out the start."""
    return name if name.startswith("text_model.") else f"text_model.{name}"
