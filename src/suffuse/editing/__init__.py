"""Changing pictures that exist."""

from __future__ import annotations

from ..core.registry import lazy

__getattr__, __dir__ = lazy(
    __name__,
    {
        "BDIAInversion": "bdia",
        "Code": "code",
        "CycleDiffusion": "cyclediffusion",
        "DDIMInversion": "ddim_inversion",
        "DiffEdit": "diffedit",
        "DirectInversion": "direct_inversion",
        "Canvas": "layers",
        "Stroke": "layers",
        "diffusion_brush": "brush",
        "EditBench": "edit_bench",
        "Inverter": "inverter",
        "Plan": "inverter",
        "KeepOutside": "keep_outside",
        "KeepPath": "keep_outside",
        "composite": "keep_outside",
        "LocalBlend": "local_blend",
        "Appearance": "regions",
        "Displaced": "displaced",
        "Drag": "regions",
        "KVBank": "key_value_bank",
        "Move": "regions",
        "Paste": "regions",
        "RegionEnergy": "region_energy",
        "decode": "lockstep",
        "MasaCtrl": "masactrl",
        "MaskedBlend": "masked_blend",
        "NullText": "null_text",
        "PIEBench": "pie_bench",
        "Pix2PixZero": "pix2pix_zero",
        "edit_direction": "pix2pix_zero",
        "PlugAndPlay": "plug_and_play",
        "PromptToPrompt": "prompt_to_prompt",
        "Reweight": "prompt_to_prompt",
        "SDEdit": "sdedit",
        "edit": "task",
    },
)
