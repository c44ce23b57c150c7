"""Placing things: where they are, told by pictures, boxes and masks."""

from __future__ import annotations

from ..core.registry import lazy

__getattr__, __dir__ = lazy(
    __name__,
    {
        "ControlNet": "control_net",
        "controlled": "control_net",
    },
)
