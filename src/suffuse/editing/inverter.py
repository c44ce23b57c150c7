"""The contract of inversions: from a picture to a code, and what decoding a code needs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from ..core.cond import Cond
from ..core.denoiser import Denoiser
from ..core.engine import place_of
from ..core.errors import BadInput
from ..core.grid import Grid
from ..core.guidance import Guidance
from ..core.hook import Hook
from ..core.noise import Keyed, Noise
from ..core.plugin import Plugin, Setting
from ..core.sampler import Sampler
from ..guidance.cfg import CFG
from ..samplers.ancestral import DDIM

if TYPE_CHECKING:
    from .code import Code


@dataclass(frozen=True, eq=False)
class Plan:
    """How a code is decoded; inversion needs to know it beforehand.

    Args:
        denoiser: the model.
        grid: times of the full run.
        sampler, guidance, noise: of decoding.
        setting: of a loaded model, so that codes remember its weights.
        guide: the guidance that a scale means to this model; of inversion.
    """

    denoiser: Denoiser
    grid: Grid
    sampler: Sampler = DDIM()
    guidance: Guidance = CFG(7.5)
    noise: Noise = Keyed(0)
    setting: Setting | None = None
    guide: Callable[[float], Guidance] = CFG

    @property
    def place(self) -> Setting:
        """What codes are made for."""
        return place_of(self.denoiser, self.grid, self.sampler, self.guidance, self.setting)

    def first(self, strength: float, what: object) -> int:
        """The step at which decoding begins when the last share `strength` of the steps is made."""
        made = round(self.grid.n * strength)
        if not (0.0 < strength <= 1.0 and made):
            raise BadInput(f"{what}: makes {made} of {self.grid.n} steps; give a strength above 0, at most 1")
        return self.grid.n - made


class Inverter(Plugin):
    """Finds the code of a picture. Frozen dataclass; one that has to act during decoding is also a `Hook`."""

    fits: ClassVar[Sequence[str]] = ("model", "process", "times")
    """Fields of the `Setting` in which decoding must be as it was planned."""

    @abstractmethod
    def encode(self, plan: Plan, x0: Tensor, cond: Cond) -> Code:
        """The code of states x0 (B, ...) that `cond` describes."""

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """What runs around every step of decoding."""
        return (self,) if isinstance(self, Hook) else ()
