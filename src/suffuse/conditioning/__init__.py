"""From prompts to what a network is told: weighted, blended and changing prompts, text encoders, classes, sizes."""

from __future__ import annotations

from ..core.registry import lazy

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Alternate": "prompts",
        "Blend": "prompts",
        "Switch": "prompts",
        "Weighted": "prompts",
        "CLIPText": "clip",
        "CLIPPair": "clip",
        "PooledCLIP": "clip",
        "T5Text": "t5",
        "AppendedT5": "t5",
        "Classes": "classes",
        "TimeIds": "sizes",
        "EmbeddingGrid": "embeddings",
        "Embeddings": "embeddings",
        "Encoded": "embeddings",
        "Given": "given",
        "embeddings_of": "embeddings",
        "Resolution": "sizes",
    },
)
