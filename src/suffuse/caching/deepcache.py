"""DeepCache: reuse the deep part of a UNet between neighbouring steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from ..core.denoiser import Denoiser
from ..core.errors import BadInput, Refused
from ..core.registry import method
from ..core.site import Site, Sites
from .policy import CacheTable
from .probe import similarity_probe


@method(paper="deepcache", tags=("saves depth",))
@dataclass(frozen=True)
class DeepCache(CacheTable):
    """Every N-th step runs the whole UNet and keeps the feature that enters the decoder at skip branch m; the steps
    between run conv_in, the encoder layers up to branch m, the matching decoder layers and conv_out.

    Refreshes are uniform (0, N, 2N, ...) or, with power p > 1, dense around step c:
    i_k = c + sign(u_k) |u_k|^p with u evenly spaced from -c^(1/p) to (n - c)^(1/p).

    Args:
        every: N >= 1; 1 is the plain network. The paper uses 5 on Stable Diffusion, its demo 3.
        branch: m >= 0, counted in skip connections from the outermost: 0 is that of conv_in, then one for each resnet
            layer and downsampler of the encoder.
        power: p >= 1; 1 is uniform. Lowered in steps of 0.02, as in the official code, until all refreshes differ.
        centre: c as a share of the run, 0 to 1; the paper's 15 of 50 steps is 0.3. `DeepCache.fit` finds both.

    Raises:
        BadInput: numbers out of range. Refused: a network without skip connections, or without that branch.

    Example:
        >>> model.generate("a red circle", patches=[DeepCache(every=3)])

    Reference: Ma et al., DeepCache: Accelerating Diffusion Models for Free, 2312.00858.

    Differs from the paper: units deeper than the branch that nothing reads keep their shape only, so a branch of
    guidance costs the memory of one feature.
    """

    every: int = 3
    branch: int = 0
    power: float = 1.0
    centre: float = 0.3

    def __post_init__(self) -> None:
        if not (isinstance(self.every, int) and self.every >= 1):
            raise BadInput(f"DeepCache(every={self.every!r}): give a whole number of steps, at least 1")
        if not (isinstance(self.branch, int) and self.branch >= 0):
            raise BadInput(f"DeepCache(branch={self.branch!r}): give a skip connection, 0 or more")
        if self.power < 1.0 or not 0.0 <= self.centre <= 1.0:
            raise BadInput(
                f"DeepCache(power={self.power}, centre={self.centre}): power is at least 1, centre lies in [0, 1]"
            )

    def neutral(self) -> DeepCache:
        """The setting that changes nothing."""
        return replace(self, every=1)

    def sites(self, net: Sites) -> Sequence[Site]:
        down, up = _numbered(net)
        if not up or not down:
            raise Refused(
                "DeepCache: this network has no skip connections; use it on a UNet, or a block cache on transformers"
            )
        if self.branch >= max(n for _, n in up):
            raise Refused(f"DeepCache(branch={self.branch}): this UNet has branches 0 to {max(n for _, n in up) - 1}")
        deep = [s for s, n in down if n > self.branch] + [s for s in net.units if s.stage == "mid"]
        deep += [s for s, n in up if n > self.branch]
        return [*deep[:-1], replace(deep[-1], note="entry")]

    def kept(self, site: Site) -> bool:
        return site.note == "entry"

    def steps(self, site: Site, n: int) -> frozenset[int]:
        return refreshes(n, self.every, self.power, self.centre)

    @classmethod
    def fit(
        cls, denoiser: Denoiser, x: Any, *, every: int = 3, branch: int = 0, steps: int = 50, **run: Any
    ) -> DeepCache:
        """Choose power and centre from recorded runs: least relative change of the cached feature since its refresh.

        Args:
            denoiser, x, run: as for `similarity_probe`.
            every, branch: of the result.
            steps: of the recorded run and the runs it is meant for.
        """
        sites = denoiser.sites
        if sites is None:
            raise Refused(f"DeepCache.fit: {type(denoiser).__name__} has no network; give a loaded model's denoiser")
        name = cls(every, branch).sites(sites)[-1].name
        change = similarity_probe(denoiser, x, (name,), steps=steps, **run)[name].l2

        def cost(power: float, centre: float) -> float:
            last, total = 0, 0.0
            for i in range(steps):
                last = i if i in refreshes(steps, every, power, centre) else last
                total += float(change[i, last])
            return total

        options = [(1.0, 0.3)] + [(p / 10, c / 10) for p in range(11, 21) for c in range(11)]
        power, centre = min(options, key=lambda option: cost(*option))
        return cls(every, branch, power, centre)


def _numbered(net: Sites) -> tuple[list[tuple[Site, int]], list[tuple[Site, int]]]:
    """Encoder and decoder units with the number of the skip connection that they make, or the decoder's layer reads."""
    layers = [s for s in net.units if s.role != "feedforward"]  # those are inside of transformers
    down, k = [], 0
    for site in layers:
        if site.stage == "down":
            k += site.role != "transformer"
            down.append((site, k))
    up, k = [], -1
    for site in reversed([s for s in layers if s.stage == "up"]):
        up.append((site, k + 1))  # a layer is a resnet, what follows it, and the upsampler behind
        k += site.role == "resnet"
    return down, up[::-1]


@cache
def refreshes(n: int, every: int, power: float = 1.0, centre: float = 0.3) -> frozenset[int]:
    """Steps of an n-step run at which the whole network runs."""
    count = math.ceil(n / every)
    if power <= 1.0 or count in (1, n):
        return frozenset(range(0, n, every))
    c, p = round(centre * n), power
    while p > 1.0:
        low, high = -(c ** (1 / p)), (n - c) ** (1 / p)
        u = [low + (high - low) * k / count for k in range(count + 1)]
        inner = {min(c + int(math.copysign(abs(v) ** p, v)), n - 1) for v in u[1:-1]}
        if len(inner | {0}) == count:
            return frozenset(inner | {0})
        p -= 0.02
    return frozenset(range(0, n, every))
