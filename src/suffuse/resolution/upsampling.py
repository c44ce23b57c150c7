"""Upsampling stages: a diffusion model that is told a small picture draws a large one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..core.cond import Cond
from ..core.denoiser import EMPTY, Denoiser
from ..core.engine import sample
from ..core.errors import BadInput
from ..core.noise import Noise
from ..core.registry import method
from ..core.sampler import Sampler
from ..samplers.ancestral import DDPM


@method(paper="adm")
@dataclass(frozen=True, eq=False)
class Upsampler:
    """x ~ p(x | small picture, y): the second stage behind a model of small pictures; stages may follow one another.

    Guidance belongs to the first stage alone, as in the paper: the small picture already is of its class.

    Args:
        denoiser: of large pictures; it reads "source", the small ones, and "label" where it has classes.
        size: height and width of what it makes.
        sampler, steps: of the run.

    Example:
        >>> small = sample(base, (4, 3, 64, 64), sampler=DDPM(), steps=250, cond=cond, guidance=guidance).x
        >>> large = Upsampler(read_denoiser("64_256_upsampler.safetensors"), (256, 256), steps=250)(small, cond)

    Reference: Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis, 2105.05233, section 4.4.
    """

    denoiser: Denoiser
    size: tuple[int, int]
    sampler: Sampler = DDPM()
    steps: int = 25

    def __call__(
        self, pictures: Tensor, cond: Cond = EMPTY, *, noise: Noise | int = 0, samples: Sequence[int] | None = None
    ) -> Tensor:
        """(B, C, *size) of pictures (B, C, h, w) in [-1, 1].

        Args:
            pictures: small ones.
            cond: one row for each; its alternatives, which guide the first stage, are left out.
            noise: Noise or seed.
            samples: identity of each row for the noise; default 0, 1, 2, ...
        """
        if pictures.ndim != 4 or pictures.shape[2] > self.size[0] or pictures.shape[3] > self.size[1]:
            shape = tuple(pictures.shape)
            raise BadInput(f"pictures of shape {shape}: give (B, C, h, w), no larger than size={self.size}")
        told = Cond(cond.entries) | {"source": pictures.clamp(-1, 1)}
        shape = (*pictures.shape[:2], *self.size)
        return sample(
            self.denoiser, shape, sampler=self.sampler, steps=self.steps, cond=told, noise=noise, samples=samples
        ).x
