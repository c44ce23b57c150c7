"""Training: networks by role, objectives by phase, resumable to the bit."""

from __future__ import annotations

from ..core.training import Batch, Follower, Loss, Objective, Optimiser, Phase, Reducer, Roles
from .followers import EMA, Copy
from .optimisers import AdamW, Constant, Cosine, Schedule, WarmupDecay
from .reducers import GroupMean, Mean
from .sources import Mix, Shuffled
from .trainer import Log, Trainer

__all__ = [
    "AdamW",
    "Batch",
    "Constant",
    "Copy",
    "Cosine",
    "EMA",
    "Follower",
    "GroupMean",
    "Log",
    "Loss",
    "Mean",
    "Mix",
    "Objective",
    "Optimiser",
    "Phase",
    "Reducer",
    "Roles",
    "Schedule",
    "Shuffled",
    "Trainer",
    "WarmupDecay",
]
