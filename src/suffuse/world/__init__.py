"""A procedural world of coloured shapes with exact truth, on which the bundled models are trained and judged."""

from __future__ import annotations

from suffuse.world.captions import Caption, Phrase, describe, parse, scenes_from_caption, vocabulary
from suffuse.world.data import Stream, batch, frozen
from suffuse.world.layout import RELATIONS, holds
from suffuse.world.render import Views, render
from suffuse.world.scene import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT,
    SHAPES,
    SIZES,
    TEXTURES,
    Scenes,
    WorldConfig,
    sample_scenes,
)

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "HELD_OUT",
    "RELATIONS",
    "SHAPES",
    "SIZES",
    "TEXTURES",
    "Caption",
    "Phrase",
    "Scenes",
    "Stream",
    "Views",
    "WorldConfig",
    "batch",
    "describe",
    "frozen",
    "holds",
    "parse",
    "render",
    "sample_scenes",
    "scenes_from_caption",
    "vocabulary",
]
