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
        "CFGPlusPlus": "cfg_plus_plus",
        "CFGZeroStar": "cfg_zero_star",
        "ClassifierGuidance": "classifier",
        "Concept": "directions",
        "EditHistory": "edit_history",
        "probe_concept": "edit_history",
        "replay_edits": "edit_history",
        "strength_slider": "edit_history",
        "Embedded": "embedded",
        "GradientGuidance": "gradient",
        "GuidanceInterval": "interval",
        "BlurredQueries": "perturbed",
        "IdentityAttention": "perturbed",
        "PAG": "perturbed",
        "SEG": "perturbed",
        "APG": "projected",
        "W2SD": "reflection",
        "Branch": ".core.reflection",
        "DynamicThresholding": "rescale",
        "GuidanceRescale": "rescale",
        "ClassScore": "scorers",
        "Clean": "scorers",
        "Decoded": "scorers",
        "MapScore": "scorers",
        "MaskScore": "scorers",
        "SEGA": "sega",
        "StableArtist": "sega",
        "SemanticGuidanceTuning": "semantic_tuning",
        "with_phrases": "semantic_tuning",
        "SuperDiffAND": "superposition",
        "SuperDiffOR": "superposition",
        "Autoguidance": "weaker",
    },
)
