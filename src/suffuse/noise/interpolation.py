"""Interpolation of pictures through their noise.

Reference: Zheng et al., NoiseDiffusion: Correcting Noise for Image Interpolation with Diffusion Models beyond
Spherical Linear Interpolation, 2403.08840.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..core.engine import Start, sample
from ..core.errors import BadInput
from ..core.grid import Grid
from ..core.guidance import Guidance
from ..core.model import Model
from ..core.noise import Keyed
from ..core.plugin import Prompt
from ..core.process import Gaussian
from ..core.registry import method
from ..core.value import Coef, combine
from ..images import Picture, to_pil
from ..samplers.ancestral import DDIM
from .variation import spherical


@dataclass(frozen=True, eq=False)
class Ends:
    """Two pictures A and B at a time t of a process, each (C, H, W).

    Attributes:
        clean: their clean states.
        noisy: the same as DDIM encodes them up to t.
        a, s: sqrt(abar_t) and sqrt(1 - abar_t), in which x_t = a x0 + s eps.
        draw: fresh noise shaped like a state; another tag gives other noise.
    """

    clean: tuple[Tensor, Tensor]
    noisy: tuple[Tensor, Tensor]
    a: float
    s: float
    draw: Callable[[str], Tensor]


class Interpolation(ABC):
    """A rule for the state between two states. A frozen dataclass."""

    @abstractmethod
    def between(self, ends: Ends, f: float) -> Tensor:
        """The state at share f of the way, 0 < f < 1; the ends themselves are the encoded pictures."""


@method(paper="noisediffusion")
@dataclass(frozen=True)
class NoiseDiffusion(Interpolation):
    """z = alpha x_A + beta x_B + (mu - alpha) a A + (nu - beta) a B + gamma s eps, clipped to [-c, c] before and after.

    alpha = sqrt(1 - gamma^2) cos(f pi / 2), beta = sqrt(1 - gamma^2) sin(f pi / 2), mu = m alpha / (alpha + beta),
    nu = m beta / (alpha + beta), a = sqrt(abar_t), s = sqrt(1 - abar_t). x_A and x_B are the pictures encoded by DDIM
    at time t; entries of natural pictures that lie too far out are what spoils spherical interpolation, and clipping
    corrects them. The pictures A and B themselves enter the noisy space, not the result.

    Args:
        gamma: share of fresh noise; 0 where pictures are encoded well, more where they are not.
        clip: c, in standard deviations of x_t.
        amount: m, how much of the two pictures is in the middle.

    Reference: Zheng et al., 2403.08840.

    Differs from the paper: at f = 0 and 1 the state is the encoded picture itself, so that the ends are the pictures.
    """

    gamma: float = 0.0
    clip: float = 2.0
    amount: float = 1.2

    def __post_init__(self) -> None:
        if not 0.0 <= self.gamma < 1.0 or self.clip <= 0.0:
            raise BadInput(f"NoiseDiffusion(gamma={self.gamma}, clip={self.clip}): give 0 <= gamma < 1 and clip > 0")

    def between(self, ends: Ends, f: float) -> Tensor:
        kept = math.sqrt(1.0 - self.gamma**2)
        alpha, beta = kept * math.cos(f * math.pi / 2), kept * math.sin(f * math.pi / 2)
        mu, nu = self.amount * alpha / (alpha + beta), self.amount * beta / (alpha + beta)
        x_a, x_b = (noisy.clamp(-self.clip, self.clip) for noisy in ends.noisy)
        z = combine(
            (alpha, x_a), (beta, x_b),
            ((mu - alpha) * ends.a, ends.clean[0]), ((nu - beta) * ends.a, ends.clean[1]),
            (self.gamma * ends.s, ends.draw("fresh")),
        )  # fmt: skip
        return z.clamp(-self.clip, self.clip)


@method(paper="noisediffusion")
@dataclass(frozen=True)
class Slerp(Interpolation):
    """sin((1 - f) theta) / sin(theta) x_A + sin(f theta) / sin(theta) x_B, theta the angle between both: a baseline.

    Reference: Song et al., Denoising Diffusion Implicit Models, 2010.02502.
    """

    def between(self, ends: Ends, f: float) -> Tensor:
        x_a, x_b = ends.noisy
        return spherical(x_a[None], x_b[None], f)[0]


@method(paper="noisediffusion")
@dataclass(frozen=True)
class AddedNoise(Interpolation):
    """a slerp-weighted A + B with one fresh noise for both, instead of encoded ones: a baseline.

    z = a (cos(f pi / 2) A + sin(f pi / 2) B) + s eps.
    """

    def between(self, ends: Ends, f: float) -> Tensor:
        low, high = math.cos(f * math.pi / 2), math.sin(f * math.pi / 2)
        return combine((ends.a * low, ends.clean[0]), (ends.a * high, ends.clean[1]), (ends.s, ends.draw("fresh")))


@dataclass(frozen=True)
class Diagnosis:
    """How far encoded noise is from N(0, I); for noise that is, 0, 1, 0.0455, 0 and 0.

    Attributes:
        mean, std: of all entries.
        beyond: share of entries beyond two standard deviations of N(0, 1).
        excess: excess kurtosis.
        correlation: of neighbouring entries.
    """

    mean: float
    std: float
    beyond: float
    excess: float
    correlation: float

    @staticmethod
    def of(z: Tensor) -> Diagnosis:
        """Of a state (C, H, W) that should be N(0, I)."""
        z = z.double()
        centred = z - z.mean()
        var = centred.square().mean()
        pairs = (centred[..., 1:] * centred[..., :-1]).mean() + (centred[..., 1:, :] * centred[..., :-1, :]).mean()
        excess = centred.pow(4).mean() / var**2 - 3.0
        beyond = (z.abs() > 2.0).double().mean()
        return Diagnosis(*(float(v) for v in (z.mean(), var.sqrt(), beyond, excess, pairs / 2 / var)))


@dataclass(frozen=True, eq=False)
class Interpolated:
    """What `interpolate` returns.

    Attributes:
        images: one PIL image for each of `shares`.
        pixels: (n, 3, H, W) the same.
        shares: (n,) of the way from A to B.
        diagnoses: of the encoded noise of A and of B.
    """

    images: list[Image.Image]
    pixels: Tensor
    shares: tuple[float, ...]
    diagnoses: tuple[Diagnosis, Diagnosis]


@method(paper="noisediffusion", tags=("interpolation",))
@torch.no_grad()
def interpolate(
    model: Model,
    first: Picture,
    last: Picture,
    *,
    how: Interpolation | None = None,
    shares: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    prompt: Prompt | None = None,
    guidance: Guidance | float = 1.0,
    strength: float = 1.0,
    steps: int | None = None,
    seed: int = 0,
) -> Interpolated:
    """Pictures between two pictures: both are encoded by DDIM at guidance 1, mixed in the noise, and decoded.

    Args:
        model: of a Gaussian process.
        first, last: pictures A and B of one size.
        how: the rule; default `NoiseDiffusion()`. `Slerp()` and `AddedNoise()` are the baselines.
        shares: of the way, 0 to 1.
        prompt: what they show, for encoding and decoding.
        guidance: of the decoding.
        strength: share of the steps up to which they are encoded; 1 is pure noise.
        steps: of the full grid; default the model's.
        seed: of fresh noise.

    Raises:
        BadInput: shares outside of [0, 1], or a strength that leaves no step.

    Example:
        >>> interpolate(model, "a.png", "b.png", shares=(0, 0.5, 1)).images[1].save("between.png")

    Reference: Zheng et al., 2403.08840.
    """
    how = how or NoiseDiffusion()
    if not shares or not all(0.0 <= f <= 1.0 for f in shares):
        raise BadInput(f"shares={tuple(shares)}: give shares of the way, from 0 to 1")
    process = model.denoiser.process
    assert isinstance(process, Gaussian)
    x0 = model.encode([first, last])
    shape = tuple(x0.shape[1:])
    full = model.defaults.spacing.grid(process, steps or model.defaults.steps, shape)
    made = round(strength * full.n)
    if not 1 <= made <= full.n:
        raise BadInput(f"strength={strength}: no step of {full.n} is left; give at least {1 / full.n:.2g}, at most 1")
    grid = Grid(full.times[full.n - made :])
    size = (shape[1] * model.codec.space.factor, shape[2] * model.codec.space.factor)
    run: dict[str, Any] = {"sampler": DDIM(), "setting": model.setting(shape)}
    if not isinstance(guidance, Guidance):
        guidance = model.defaults.guide(float(guidance))
    noisy = sample(model.denoiser, x0, grid=grid.reversed(), cond=model.condition([prompt] * 2, size=size), **run).x
    t = Coef(float(grid.times[0]))
    a, s = process.alpha(t).item(), process.sigma(t).item()

    def draw(tag: str) -> Tensor:
        return Keyed(seed).normal(x0[:1], [0], f"interpolate/{tag}")[0]

    ends = Ends((x0[0], x0[1]), (noisy[0], noisy[1]), a, s, draw)
    states = [noisy[int(f)] if f in (0.0, 1.0) else how.between(ends, f) for f in shares]
    start = Start.exactly(torch.stack(states), float(grid.times[0]))
    cond = model.condition([prompt] * len(states), size=size)
    out = sample(model.denoiser, start, grid=grid, cond=cond, guidance=guidance, noise=seed, **run).x
    pixels = model.decode(out).clamp(-1, 1)
    eps = (noisy - a * x0) / s
    return Interpolated(to_pil(pixels), pixels, tuple(shares), (Diagnosis.of(eps[0]), Diagnosis.of(eps[1])))
