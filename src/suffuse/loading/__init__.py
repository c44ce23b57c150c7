"""Checkpoints to models and back: folders in diffusers' layout, single files, hub ids, bundled models."""

from __future__ import annotations

from ..core.registry import lazy

__getattr__, __dir__ = lazy(
    __name__, {"assemble": "pipelines", "bundled": "sources", "load": "sources", "read_schedule": "schedules"}
)
