"""How several evaluations become one prediction."""

from __future__ import annotations

from ..core.registry import lazy

__getattr__, __dir__ = lazy(
    __name__,
    {
        "AdaptiveGuidance": "adaptive",
        "LinearAG": "adaptive",
        "ScheduledCFG": "adaptive",
        "CFG": "cfg",
        "Embedded": "embedded",
    },
)
