"""Reading what a trained network knows: errors, features, maps."""

from __future__ import annotations

from ..core.registry import lazy

__getattr__, __dir__ = lazy(
    __name__,
    {
        "DiffusionClassifier": "diffusion_classifier",
        "Ranking": "diffusion_classifier",
        "text_image_score": "diffusion_classifier",
        "errors": "error_field",
        "Rate": "statistical_rates",
        "rates": "statistical_rates",
        "SeedStudy": "seed_study",
    },
)
