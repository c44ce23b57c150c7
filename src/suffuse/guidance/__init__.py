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
        "Concept": "directions",
        "Embedded": "embedded",
        "W2SD": "reflection",
        "Branch": ".core.reflection",
        "SEGA": "sega",
        "StableArtist": "sega",
        "SemanticGuidanceTuning": "semantic_tuning",
        "with_phrases": "semantic_tuning",
    },
)
