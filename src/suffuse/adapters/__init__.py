"""Small trainable changes of a frozen network: what they are, how they merge, and the files that hold them."""

from __future__ import annotations

from ..core.registry import lazy

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Biases": "biases",
        "EncodedInput": "encoded_input",
        "FullWeight": "direct",
        "IA3": "direct",
        "Norms": "direct",
        "ResCLoRA": "resadapter",
        "ResENorm": "resadapter",
        "load_resadapter": "resadapter",
        "load_adapters": "reading",
        "save_adapters": "writing",
        "save_as_diffusers": "writing",
        "save_as_kohya": "writing",
        "with_adapters": "reading",
        "DyLoRA": "lora",
        "GLoRA": "lora",
        "LoRA": "lora",
        "bake": "merging",
        "baked": "merging",
        "combine": "merging",
        "extract": "merging",
        "limit_norm": "merging",
        "resize": "merging",
        "BOFT": "orthogonal",
        "DiagOFT": "orthogonal",
        "LoHa": "products",
        "LoKr": "products",
        "AdapterReport": "report",
        "Trial": "report",
        "grid": "report",
        "MECondConv": "me_condconv",
    },
)
