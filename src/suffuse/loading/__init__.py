"""Checkpoints to models and back: folders in diffusers' layout, single files, hub ids, bundled models."""

from __future__ import annotations

from ..core.registry import lazy

__getattr__, __dir__ = lazy(
    __name__,
    {
        "read_classifier": "guided_diffusion",
        "read_denoiser": "guided_diffusion",
        "assemble": "pipelines",
        "read_schedule": "schedules",
        "bundled": "sources",
        "load": "sources",
    },
)
