"""Where a run evaluates: rules that place n steps on a process, after those of diffusers' schedulers.

Every rule places n times, at which the network is asked, and an `end`, where the state is left: 0 is pure data; the
first training timestep stands at t = 1 / N, which is where `set_alpha_to_one=False` and `final_sigmas_type="sigma_min"`
end. On a table of N training timesteps, timestep k stands at t = (k + 1) / N; formulas count as N = 1000.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import betaincinv

from ..core.errors import BadInput, nearest
from ..core.grid import Grid, Spacing
from ..core.registry import method
from ..core.value import Coef


def training_steps(process: Any) -> int:
    """N: training timesteps of a table, 1000 for a formula."""
    return getattr(process, "N", 1000)


class Placed(Spacing):
    """A spacing that places the n times of evaluation; the grid is these and `end`."""

    end: float

    @abstractmethod
    def times(self, process: Any, n: int, shape: Sequence[int]) -> np.ndarray:
        """(n,) float64 times from noise to data."""

    def grid(self, process: Any, n: int, shape: Sequence[int] = ()) -> Grid:
        times = np.append(self.times(process, n, shape), self.end)
        if times[0] > 1.0 or (np.diff(times[:n]) >= 0.0).any() or times[n] > times[n - 1]:
            raise BadInput(f"steps={n}: {self} cannot place so many on {training_steps(process)} timesteps; use fewer")
        return Grid(torch.from_numpy(times))


# by timestep ----------------------------------------------------------------------------------------------------------
@method()
@dataclass(frozen=True)
class Trailing(Placed):
    """Every N / n-th timestep from the last one down: the only even spacing that starts at pure noise.

    Args:
        end: time at which the state is left.

    Reference: Lin et al., Common Diffusion Noise Schedules and Sample Steps are Flawed, 2305.08891.
    """

    end: float = 0.0

    def times(self, process: Any, n: int, shape: Sequence[int]) -> np.ndarray:
        return process.even(n)[:n].numpy()


@method()
@dataclass(frozen=True)
class Leading(Placed):
    """Every (N // n)-th timestep, counted from the first one; the last timesteps before pure noise are left out.

    Stable Diffusion 1, 2 and XL ship with `Leading(offset=1, end=0.001)`.

    Args:
        offset: added to each timestep, steps_offset.
        skip_first: leave out the timestep `offset`, as multistep schedulers of diffusers do.
        end: time at which the state is left.
    """

    offset: int = 0
    skip_first: bool = False
    end: float = 0.0

    def times(self, process: Any, n: int, shape: Sequence[int]) -> np.ndarray:
        total, count = training_steps(process), n + self.skip_first
        k = np.arange(self.skip_first, count)[::-1] * (total // count) + self.offset
        return (k + 1) / total


@method()
@dataclass(frozen=True)
class Linear(Placed):
    """n times evenly from pure noise to the first timestep: "linspace".

    Args:
        whole: on a table, round to whole timesteps. Where not, sigma / alpha is linear between two of them.
        skip_first: place n + 1 and leave out the first timestep, as multistep schedulers of diffusers do.
        end: time at which the state is left.
    """

    whole: bool = True
    skip_first: bool = False
    end: float = 0.0

    def times(self, process: Any, n: int, shape: Sequence[int]) -> np.ndarray:
        total = training_steps(process)
        k = np.linspace(0, total - 1, n + self.skip_first)[::-1][:n]
        if not hasattr(process, "N"):
            return (k + 1) / total
        return (np.round(k) + 1) / total if self.whole else np.array([_between(process, v) for v in k.tolist()])


def _between(process: Any, k: float) -> float:
    """The time at which sigma / alpha is linear between the timesteps on either side of k."""
    low, share = int(k), k % 1
    if share == 0.0:
        return (k + 1) / process.N
    rho, above = (process.rho(Coef((j + 1) / process.N)) for j in (low, low + 1))
    return process.time((1 - share) * rho + share * above).item()


@method()
@dataclass(frozen=True)
class Skipping(Placed):
    """n of the timesteps that a latent consistency model was distilled on, evenly by their index.

    Args:
        original_steps: how many those were, evenly from the last timestep down.
        end: time at which the state is left.

    Reference: Luo et al., Latent Consistency Models, 2310.04378.
    """

    original_steps: int = 50
    end: float = 0.0

    def times(self, process: Any, n: int, shape: Sequence[int]) -> np.ndarray:
        total = training_steps(process)
        if n > self.original_steps:
            raise BadInput(f"steps={n}: the model was distilled on {self.original_steps} timesteps; 4 steps are usual")
        index = np.floor(np.linspace(0, self.original_steps, n, endpoint=False))
        return (self.original_steps - index) * (total // self.original_steps) / total


@method(paper="ddim")
@dataclass(frozen=True)
class Quadratic(Placed):
    """n times whose roots are even, from 1 to `t_min`: sqrt(t_i) = 1 - i / (n - 1) (1 - sqrt(t_min)).

    Args:
        t_min: last time of evaluation.
        end: time at which the state is left.

    Reference: Song et al., Denoising Diffusion Implicit Models, 2010.02502, appendix D.2.
    """

    t_min: float = 0.001
    end: float = 0.0

    def times(self, process: Any, n: int, shape: Sequence[int]) -> np.ndarray:
        return np.linspace(1.0, math.sqrt(self.t_min), n) ** 2


# by noise -------------------------------------------------------------------------------------------------------------
def _noise_range(process: Any, sigma_min: float | None, sigma_max: float | None) -> tuple[float, float]:
    """Ends of sigma / alpha: as given, else those of the first and the last timestep."""
    low = process.rho(Coef(1 / training_steps(process))).item() if sigma_min is None else sigma_min
    high = process.rho(Coef(1.0)).item() if sigma_max is None else sigma_max
    if not 0.0 < low < high < math.inf:
        raise BadInput(
            f"sigma_min={low:g}, sigma_max={high:g}: need 0 < sigma_min < sigma_max < inf; on a process that ends in "
            "pure noise give sigma_max=80"
        )
    return low, high


def _at_noise(process: Any, sigmas: np.ndarray) -> np.ndarray:
    return np.array([process.time(Coef(float(sigma))).item() for sigma in sigmas])


@method(paper="edm")
@dataclass(frozen=True)
class Karras(Placed):
    """sigma / alpha = (sigma_max^(1/rho) + i / (n - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho.

    Args:
        rho: how strongly steps shrink towards the data.
        sigma_min, sigma_max: ends, in units of sigma / alpha; default those of the first and the last timestep.
        end: time at which the state is left.

    Reference: Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2206.00364.
    """

    rho: float = 7.0
    sigma_min: float | None = None
    sigma_max: float | None = None
    end: float = 0.0

    def times(self, process: Any, n: int, shape: Sequence[int]) -> np.ndarray:
        low, high = _noise_range(process, self.sigma_min, self.sigma_max)
        return _at_noise(process, np.linspace(high ** (1 / self.rho), low ** (1 / self.rho), n) ** self.rho)


@method(paper="dpm-solver-plus-plus")
@dataclass(frozen=True)
class LogSNR(Placed):
    """Even in log(sigma / alpha): diffusers' "exponential" sigmas and "lu" lambdas.

    Args:
        sigma_min, sigma_max: ends, in units of sigma / alpha; default those of the first and the last timestep.
        end: time at which the state is left.

    Reference: Lu et al., DPM-Solver++, 2211.01095.
    """

    sigma_min: float | None = None
    sigma_max: float | None = None
    end: float = 0.0

    def times(self, process: Any, n: int, shape: Sequence[int]) -> np.ndarray:
        low, high = _noise_range(process, self.sigma_min, self.sigma_max)
        return _at_noise(process, np.exp(np.linspace(math.log(high), math.log(low), n)))


@method(paper="beta-sampling")
@dataclass(frozen=True)
class Beta(Placed):
    """sigma / alpha = sigma_min + q_i (sigma_max - sigma_min) with q_i the even quantiles of Beta(a, b), from 1 to 0.

    With a, b below 1 steps are dense at both ends: diffusers' "beta" sigmas.

    Args:
        a, b: shape of the distribution, above 0.
        sigma_min, sigma_max: ends, in units of sigma / alpha; default those of the first and the last timestep.
        end: time at which the state is left.

    Differs from the paper: it places timesteps by these quantiles, diffusers noise.

    Reference: Lee et al., Beta Sampling is All You Need, 2407.12173.
    """

    a: float = 0.6
    b: float = 0.6
    sigma_min: float | None = None
    sigma_max: float | None = None
    end: float = 0.0

    def times(self, process: Any, n: int, shape: Sequence[int]) -> np.ndarray:
        low, high = _noise_range(process, self.sigma_min, self.sigma_max)
        return _at_noise(process, low + betaincinv(self.a, self.b, np.linspace(1.0, 0.0, n)) * (high - low))


ALIGNED = {
    "SD1.5": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "SDXL": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "SVD": (700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}
"""The published schedules of ten steps, sigma / alpha."""


@method(paper="align-your-steps")
@dataclass(frozen=True)
class AlignYourSteps(Placed):
    """A published schedule of ten steps, optimised for one model; log(sigma / alpha) is interpolated to n steps.

    Args:
        model: "SD1.5", "SDXL" or "SVD", the model that it was optimised for.
        end: time at which the state is left.

    Differs from the paper: noise above that of the process at t = 1 is its own, which rounding in the tables exceeds.

    Reference: Sabour et al., Align Your Steps: Optimizing Sampling Schedules in Diffusion Models, 2404.14507.
    """

    model: str = "SD1.5"
    end: float = 0.0

    def __post_init__(self) -> None:
        if self.model not in ALIGNED:
            raise BadInput(f"AlignYourSteps(model={self.model!r}): no such schedule; {nearest(self.model, ALIGNED)}")

    def times(self, process: Any, n: int, shape: Sequence[int]) -> np.ndarray:
        table = np.log(ALIGNED[self.model])
        even = np.interp(np.linspace(0.0, 1.0, n + 1), np.linspace(0.0, 1.0, len(table)), table)[:n]
        return _at_noise(process, np.minimum(np.exp(even), process.rho(Coef(1.0)).item()))


# of flows -------------------------------------------------------------------------------------------------------------
def _shifted(t: Any, shift: float) -> Any:
    """shift t / (1 + (shift - 1) t)."""
    return shift * t / (1 + (shift - 1) * t)


@method()
@dataclass(frozen=True)
class FlowShift(Placed):
    """t = shift u / (1 + (shift - 1) u) with u even from 1 to the shifted first timestep: Stable Diffusion 3.

    Args:
        shift: how far steps move towards noise; larger pictures need more.
        skip_first: place n + 1 down to the data and leave out the last of them, as multistep schedulers of diffusers
            do; better in few steps, none of which is spent beside the data.
        end: time at which the state is left.

    Reference: Esser et al., Scaling Rectified Flow Transformers for High-Resolution Image Synthesis, 2403.03206.
    """

    shift: float = 3.0
    skip_first: bool = False
    end: float = 0.0

    def times(self, process: Any, n: int, shape: Sequence[int]) -> np.ndarray:
        if self.skip_first:
            return _shifted(np.linspace(1.0, 0.0, n + 1)[:n], self.shift)
        # the first timestep is shifted once here and again with all others, as in diffusers
        return _shifted(np.linspace(1.0, _shifted(1 / training_steps(process), self.shift), n), self.shift)


@method()
@dataclass(frozen=True)
class FlowDynamicShift(Placed):
    """FlowShift of exp(mu) with mu linear in the number of image tokens: Flux.

    Args:
        base_shift, max_shift: mu at `base_tokens` and at `max_tokens`.
        base_tokens, max_tokens: where they hold.
        patch: side of the square of latents that makes a token.
        end: time at which the state is left.
    """

    base_shift: float = 0.5
    max_shift: float = 1.15
    base_tokens: int = 256
    max_tokens: int = 4096
    patch: int = 2
    end: float = 0.0

    def times(self, process: Any, n: int, shape: Sequence[int]) -> np.ndarray:
        if len(shape) < 2:
            raise BadInput(f"shape={tuple(shape)}: FlowDynamicShift counts the tokens of images; give (B, C, H, W)")
        tokens = (shape[-2] // self.patch) * (shape[-1] // self.patch)
        slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
        mu = self.base_shift + slope * (tokens - self.base_tokens)
        return _shifted(np.linspace(1.0, 1 / n, n), math.exp(mu))


# given ----------------------------------------------------------------------------------------------------------------
@method()
@dataclass(frozen=True)
class Explicit(Spacing):
    """These times, or these timesteps, and no others; the number of steps follows from them.

    Args:
        times: times of evaluation, from 1 (noise) down.
        timesteps: timesteps of evaluation instead.
        end: time at which the state is left.
    """

    times: tuple[float, ...] = ()
    timesteps: tuple[float, ...] = ()
    end: float = 0.0

    def __post_init__(self) -> None:
        if bool(self.times) == bool(self.timesteps):
            raise BadInput(f"times={self.times}, timesteps={self.timesteps}: give one of the two, from noise to data")

    def grid(self, process: Any, n: int, shape: Sequence[int] = ()) -> Grid:
        times = self.times or tuple((k + 1) / training_steps(process) for k in self.timesteps)
        return Grid(torch.tensor([*times, self.end], dtype=torch.float64))
