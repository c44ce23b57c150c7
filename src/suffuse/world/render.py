"""Pictures and exact maps of scenes, in batched torch.

Every object is drawn in a square crop around it from its signed distance function: an anti-aliased edge, a bevelled
surface lit from the upper left, and a soft shadow on what lies behind it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from suffuse.core.errors import BadInput, nearest
from suffuse.world.distance import DISTANCES, EXTENTS
from suffuse.world.scene import Scenes
from suffuse.world.texture import pattern

PALETTE = (
    (0.90, 0.20, 0.20),
    (0.20, 0.66, 0.30),
    (0.16, 0.38, 0.90),
    (0.98, 0.83, 0.14),
    (0.50, 0.22, 0.74),
    (0.98, 0.52, 0.08),
    (0.12, 0.78, 0.86),
    (0.98, 0.50, 0.72),
)
GROUNDS = ((0.97, 0.97, 0.97), (0.60, 0.62, 0.65), (0.09, 0.10, 0.14), (0.94, 0.88, 0.76), (0.76, 0.92, 0.85))
MAPS = ("masks", "depth", "normal", "edges")
CHUNK = 64
"""Scenes rendered at a time, so that intermediate crops stay in the cache."""

BEVEL = 0.34
"""Width of the bevel in radii."""

RELIEF = 0.1
"""Height of an object's surface above its plane, in units of depth."""

TINT = 0.74
"""How much of white the light tint of a texture holds."""

LIGHT = (-0.45, -0.80)
SHADOW = (1 / 64, 2 / 64)
SHADOW_STRENGTH = 0.24


@dataclass(frozen=True)
class Views:
    """Pictures of `scenes` and the maps asked for.

    `rgb` (B, 3, H, W) in [-1, 1]; `boxes` (B, K, 4) whole extents x0, y0, x1, y1 in pixels, zero for absent objects;
    `masks` (B, K, H, W) the visible part of each object in [0, 1]; `depth` (B, 1, H, W) from 0 near to 1 far;
    `normal` (B, 3, H, W) unit vectors, x right, y up, z towards the viewer; `edges` (B, 1, H, W) visible outlines.
    """

    scenes: Scenes
    rgb: Tensor
    boxes: Tensor
    masks: Tensor | None = None
    depth: Tensor | None = None
    normal: Tensor | None = None
    edges: Tensor | None = None


@dataclass(frozen=True)
class _Crops:
    """All present objects of a chunk, N crops of P x P pixels, in the order of their shapes."""

    row: Tensor
    slot: Tensor
    order: Tensor
    pixels: Tensor
    alpha: Tensor
    keep: Tensor
    light: Tensor
    distance: Tensor
    slope: Tensor
    normal: tuple[Tensor, Tensor]
    radius: Tensor


@torch.no_grad()
def render(scenes: Scenes, resolution: int = 64, maps: Collection[str] = ()) -> Views:
    """Draw `scenes` at `resolution` x `resolution` pixels, with the `maps` asked for: names among MAPS."""
    if resolution < 16:
        raise BadInput(f"resolution={resolution}: give at least 16 pixels")
    for name in maps:
        if name not in MAPS:
            raise BadInput(f"maps has {name!r}: {nearest(name, MAPS)}")
    parts = [_chunk(scenes[start : start + CHUNK], resolution, maps) for start in range(0, len(scenes), CHUNK)]
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Views(scenes=scenes, boxes=boxes(scenes, resolution), **joined)


def boxes(scenes: Scenes, resolution: int = 64) -> Tensor:
    """Bounding boxes x0, y0, x1, y1 (B, K, 4) of the whole objects in pixels, zero where there is none."""
    half = torch.tensor(EXTENTS, device=scenes.shape.device)[scenes.shape] * scenes.radius[..., None]
    centre = torch.stack([scenes.x, scenes.y], -1)
    return torch.cat([centre - half, centre + half], -1) * resolution * scenes.present[..., None]


def ground(scenes: Scenes, resolution: int) -> Tensor:
    """Backgrounds (B, 3, H, W) in [0, 1]."""
    colour = torch.tensor(GROUNDS, device=scenes.shape.device)[scenes.background]
    axis = (torch.arange(resolution, device=colour.device) + 0.5) / resolution * 2 - 1
    across = scenes.angle.cos()[:, None, None] * axis + scenes.angle.sin()[:, None, None] * axis[:, None]
    return colour[:, :, None, None] + (scenes.gradient[:, None, None] * across)[:, None]


def _chunk(scenes: Scenes, resolution: int, maps: Collection[str]) -> dict[str, Tensor]:
    crops = _crops(scenes, resolution)
    rgb = ground(scenes, resolution)
    for rows, pixels, picked in _layers(crops, scenes):
        _paste(rgb, rows, pixels, crops.keep[picked, None], crops.light[picked])
    views = {"rgb": rgb.clamp_(0, 1).mul_(2).sub_(1)}
    for name in maps:
        views[name] = _MAPS[name](crops, scenes, resolution)
    return views


def _crops(scenes: Scenes, resolution: int) -> _Crops:
    row, slot = scenes.present.nonzero(as_tuple=True)
    by_shape = scenes.shape[row, slot].argsort(stable=True)
    row, slot = row[by_shape], slot[by_shape]
    shape, radius = scenes.shape[row, slot], scenes.radius[row, slot] * resolution
    shift = [max(1, round(part * resolution)) for part in SHADOW]
    lead = max(shift)
    reach = float(scenes.radius.max()) * resolution * 1.1 + 3 * lead
    side = min(resolution, 2 * math.ceil(reach) + 1)
    centre = torch.stack([scenes.x[row, slot], scenes.y[row, slot]]) * resolution
    corner = (centre - side / 2).round().clamp(0, resolution - side)
    steps = torch.arange(-lead, side + 1, device=radius.device) + 0.5
    x, y = ((corner - centre)[..., None] + steps) / radius[:, None]
    x, y = torch.broadcast_tensors(x[:, None, :], y[:, :, None])
    x, y = x.contiguous(), y.contiguous()
    distance = _signed_distance(shape, x, y)
    inner = slice(lead, lead + side)
    scale = radius[:, None, None]
    shade = distance[:, lead - shift[1] : lead - shift[1] + side, lead - shift[0] : lead - shift[0] + side]
    right, left = distance[:, inner, lead + 1 : lead + side + 1], distance[:, inner, lead - 1 : lead + side - 1]
    down, up = distance[:, lead + 1 : lead + side + 1, inner], distance[:, lead - 1 : lead + side - 1, inner]
    normal = ((right - left) * (scale / 2), (down - up) * (scale / 2))
    x, y, distance = x[:, inner, inner], y[:, inner, inner], distance[:, inner, inner].contiguous()
    slope = 1 - (distance * (-1 / BEVEL)).clamp_(0, 1)
    alpha = (0.5 - distance * scale).clamp_(0, 1)
    shadow = (0.5 - shade * (scale / (3 * lead))).clamp_(0, 1)
    shadow = shadow * shadow * (3 - 2 * shadow)
    keep = (1 - SHADOW_STRENGTH * shadow) * (1 - alpha)
    lit = (normal[0] * LIGHT[0] + normal[1] * LIGHT[1]) * slope
    gain = 1 + 0.17 * lit - 0.07 * y
    gloss = 0.16 * (1 - 1.6 * ((x + 0.35).square() + (y + 0.42).square())).clamp_(min=0).square()
    colour = torch.tensor(PALETTE, device=radius.device)[scenes.colour[row, slot]][:, :, None, None]
    tint = pattern(x, y, distance, scale, scenes.texture[row, slot], shape)
    paint = colour + (TINT * tint)[:, None] * (1 - colour)
    light = ((paint * gain[:, None] + gloss[:, None]).clamp_(0, 1)).mul_(alpha[:, None])
    columns, lines = corner.long()[..., None] + torch.arange(side, device=radius.device)
    pixels = (lines[:, :, None] * resolution + columns[:, None, :]).flatten(1)
    order = scenes.order[row, slot]
    return _Crops(row, slot, order, pixels, alpha, keep, light, distance, slope, normal, radius)


def _signed_distance(shape: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Distances (N, P, P) of crops that are sorted by `shape` (N,)."""
    distance = torch.empty_like(x)
    ends = torch.bincount(shape, minlength=len(DISTANCES)).cumsum(0).tolist()
    for function, start, end in zip(DISTANCES, [0, *ends], ends, strict=False):
        if end > start:
            distance[start:end] = function(x[start:end], y[start:end])
    return distance


def _layers(crops: _Crops, scenes: Scenes) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Rows, pixels and indices of the crops that are drawn together, from the farthest on."""
    for rank in range(scenes.shape.shape[1]):
        picked = (crops.order == rank).nonzero()[:, 0]
        if len(picked):
            yield crops.row[picked], crops.pixels[picked], picked


def _paste(canvas: Tensor, rows: Tensor, pixels: Tensor, keep: Tensor, add: Tensor) -> None:
    """canvas <- keep * canvas + add inside the crops, in place."""
    flat = canvas.flatten(2)
    channels = torch.arange(flat.shape[1], device=canvas.device)[None, :, None]
    where = (rows[:, None, None] * flat.shape[1] + channels) * flat.shape[2] + pixels[:, None]
    under = canvas.view(-1).take(where)
    canvas.view(-1).put_(where, keep.flatten(2) * under + add.flatten(2))


def _masks(crops: _Crops, scenes: Scenes, resolution: int) -> Tensor:
    masks = torch.zeros(*scenes.shape.shape, resolution, resolution, device=scenes.x.device)
    slots = torch.arange(scenes.shape.shape[1], device=scenes.x.device)
    for rows, pixels, picked in _layers(crops, scenes):
        own = (crops.slot[picked, None] == slots)[..., None, None]
        alpha = crops.alpha[picked, None]
        _paste(masks, rows, pixels, 1 - alpha, alpha * own)
    return masks


def _depth(crops: _Crops, scenes: Scenes, resolution: int) -> Tensor:
    depth = torch.ones(len(scenes), 1, resolution, resolution, device=scenes.x.device)
    plane = 1 - 0.8 * (crops.order + 1) / scenes.shape.shape[1]
    height = RELIEF * (1 - crops.slope.square())
    for rows, pixels, picked in _layers(crops, scenes):
        solid = (crops.alpha[picked, None] >= 0.5).float()
        _paste(depth, rows, pixels, 1 - solid, solid * (plane[picked, None, None] - height[picked])[:, None])
    return depth


def _normal(crops: _Crops, scenes: Scenes, resolution: int) -> Tensor:
    normal = torch.zeros(len(scenes), 3, resolution, resolution, device=scenes.x.device)
    normal[:, 2] = 1
    for rows, pixels, picked in _layers(crops, scenes):
        solid = (crops.alpha[picked, None] >= 0.5).float()
        slope = crops.slope[picked]
        across, down = (part[picked] * slope for part in crops.normal)
        vector = torch.nn.functional.normalize(torch.stack([across, -down, torch.ones_like(slope)], 1), dim=1)
        _paste(normal, rows, pixels, 1 - solid, solid * vector)
    return normal


def _edges(crops: _Crops, scenes: Scenes, resolution: int) -> Tensor:
    edges = torch.zeros(len(scenes), 1, resolution, resolution, device=scenes.x.device)
    for rows, pixels, picked in _layers(crops, scenes):
        line = (1.25 - crops.distance[picked].abs() * crops.radius[picked, None, None]).clamp(0, 1)[:, None]
        _paste(edges, rows, pixels, (1 - crops.alpha[picked, None]) * (1 - line), line)
    return edges


_MAPS = {"masks": _masks, "depth": _depth, "normal": _normal, "edges": _edges}
