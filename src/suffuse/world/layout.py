"""Where objects stand: centres inside the picture, apart from each other, in a wanted relation."""

from __future__ import annotations

import numpy as np

RELATIONS = ("left of", "right of", "above", "below")
MARGIN = 1 / 64
"""Least distance of an object from the border of the picture."""

TRIES, ROUNDS = 64, 40
"""Random layouts drawn at a time, and how often, before overlaps are accepted."""

Real = np.ndarray | float


def slack(relation: str, dx: Real, dy: Real) -> Real:
    """By how much the first object stands in `relation` to the second, which lies at (dx, dy) from it; negative if not.

    The distance along the relation's axis must reach 0.08 of the picture and half of the distance across it.
    """
    along, across = (dx, dy) if relation in ("left of", "right of") else (dy, dx)
    if relation in ("right of", "below"):
        along = -along
    return along - np.maximum(0.08, 0.5 * np.abs(across))


def holds(relation: str, dx: Real, dy: Real) -> np.ndarray | np.bool_:
    """Whether the first object stands in `relation` to the second, which lies at (dx, dy) from it."""
    return np.asarray(slack(relation, dx, dy)) >= 0


def place(
    random: np.random.Generator, radius: np.ndarray, count: np.ndarray, relation: np.ndarray, spacing: float
) -> tuple[np.ndarray, np.ndarray]:
    """Centres x, y (n, K) of objects of `radius` (n, K), of which the first `count` (n,) are used.

    Where there are two, the first stands in `relation` (n,) to the second, with the axis of the relation dominant.
    From three on the first random layout that keeps all distances is taken, or else the roomiest of the last TRIES.
    """
    reach = radius + MARGIN
    unit = random.random((2, *radius.shape))
    x, y = reach + (1 - 2 * reach) * unit
    two = np.flatnonzero(count == 2)
    if len(two):
        x[two, :2], y[two, :2] = _pair(random, radius[two, :2], relation[two], spacing)
    many = np.flatnonzero(count > 2)
    for _ in range(ROUNDS):
        if not len(many):
            break
        x[many], y[many], free = _crowd(random, radius[many], count[many], spacing)
        many = many[~free]
    return x, y


def _pair(
    random: np.random.Generator, radius: np.ndarray, relation: np.ndarray, spacing: float
) -> tuple[np.ndarray, np.ndarray]:
    n = len(radius)
    swap, vertical = relation % 2 == 1, relation >= 2
    near = np.where(swap, radius[:, 1], radius[:, 0]) + MARGIN
    far = np.where(swap, radius[:, 0], radius[:, 1]) + MARGIN
    longest = 1 - near - far
    least = np.minimum(spacing * radius.sum(1), longest)
    along = least + (longest - least) * random.random(n)
    across = (2 * random.random(n) - 1) * np.minimum(along / 1.3, longest)
    start = near + (longest - along) * random.random(n)
    low = np.maximum(near, far - across)
    high = np.minimum(1 - near, 1 - far - across)
    side = low + np.maximum(high - low, 0) * random.random(n)
    first, second = np.stack([start, side]), np.stack([start + along, side + across])
    first, second = np.where(swap, second, first), np.where(swap, first, second)
    first, second = np.where(vertical, first[::-1], first), np.where(vertical, second[::-1], second)
    x, y = np.stack([first, second], -1)
    return x, y


def _crowd(
    random: np.random.Generator, radius: np.ndarray, count: np.ndarray, spacing: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One of TRIES random layouts, and whether it keeps all distances (n,)."""
    n, slots = radius.shape
    reach = radius + MARGIN
    tries = reach + (1 - 2 * reach) * random.random((2, TRIES, n, slots))
    room = np.full((TRIES, n), np.inf)
    for i in range(slots):
        for j in range(i):
            distance = np.hypot(*(tries[..., i] - tries[..., j]))
            gap = distance - spacing * (radius[:, i] + radius[:, j])
            room = np.where(count > i, np.minimum(room, gap), room)
    free = room >= 0
    found = np.any(free, axis=0)
    best = np.where(found, free.argmax(0), room.argmax(0))
    x, y = tries[:, best, np.arange(n)]
    return x, y, np.asarray(found)
