"""Networks of its own: what no library has, and small ones where a library class would be too slow on a CPU."""

from __future__ import annotations

from ..core.registry import lazy

__getattr__, __dir__ = lazy(
    __name__,
    {
        "ADMClassifier": "adm",
        "ADMUNet": "adm",
        "ConditionedMLP": "conditioned_mlp",
        "ConditionedMLPFamily": "conditioned_mlp",
        "Experts": "experts",
        "MLP": "residual_mlp",
        "MLPFamily": "residual_mlp",
        "PolicyTransformer": "policy_transformer",
        "PolicyTransformerFamily": "policy_transformer",
        "UViT": "uvit",
        "UViTFamily": "uvit",
        "assembled": "assembly",
    },
)
