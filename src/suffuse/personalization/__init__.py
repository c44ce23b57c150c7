"""Subjects, identities and styles from examples."""

from __future__ import annotations

from ..core.registry import lazy

__getattr__, __dir__ = lazy(
    __name__,
    {
        "ImagePrompt": "image_prompt",
        "IPAdapter": "ip_adapter",
        "ImageTokens": "ip_adapter",
    },
)
