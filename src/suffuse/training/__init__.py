"""Training: networks by role, objectives by phase, resumable to the bit."""

from __future__ import annotations

from ..core.registry import lazy

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Constant": "denoising",
        "Denoising": "denoising",
        "Extra": "denoising",
        "Independent": "denoising",
        "LogitNormal": "denoising",
        "MinSNR": "denoising",
        "Pairing": "denoising",
        "Times": "denoising",
        "UniformTimes": "denoising",
        "Weight": "denoising",
        "Copy": "followers",
        "EMA": "followers",
        "Immiscible": "immiscible",
        "NearestNoise": "immiscible",
        "Muon": "muon",
        "NoisyClassification": "noisy_classification",
        "AdamW": "optimisers",
        "ConstantRate": "optimisers",
        "CosineDecay": "optimisers",
        "Schedule": "optimisers",
        "WarmupDecay": "optimisers",
        "GroupMean": "reducers",
        "Mix": "sources",
        "Shuffled": "sources",
        "Batch": ".core.training",
        "Follower": ".core.training",
        "Loss": ".core.training",
        "Mean": ".core.training",
        "Objective": ".core.training",
        "Optimiser": ".core.training",
        "Phase": ".core.training",
        "Reducer": ".core.training",
        "Roles": ".core.training",
        "Log": "trainer",
        "Trainer": "trainer",
        "Timesteps": "variational_bound",
        "VariationalBound": "variational_bound",
    },
)
