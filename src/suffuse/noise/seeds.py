"""Seeds as things to choose: a bank of them as a source of noise."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core.errors import BadInput, Damaged
from ..core.files import read_json, write_json
from ..core.noise import Keyed, Noise, PerSample
from ..core.plugin import Setting
from ..core.registry import method


@method(paper="good-seed")
@dataclass(frozen=True)
class SeedBank(Noise):
    """Picture k draws all its noise from seed number k mod n of the bank: the start and every stochastic step.

    `model.generate(prompt, seed=s)` and picture k of a bank whose seed number k is s are the same.

    Args:
        seeds: the bank, the best first.
        made_for: model, sampler and size that they were chosen for; `check` refuses others.

    Example:
        >>> bank = SeedBank.load("seeds.json")
        >>> model.generate("a red circle", noise=bank, n=4)  # its four best seeds

    Reference: Xu et al., Good Seed Makes a Good Crop: Discovering Secret Seeds in Text-to-Image Diffusion Models.
    """

    seeds: tuple[int, ...]
    made_for: Setting = Setting()

    def __post_init__(self) -> None:
        if not self.seeds:
            raise BadInput("SeedBank(seeds=()): a bank without seeds; give at least one")

    def origin(self, sample: int) -> tuple[int, int]:
        return self.seeds[sample % len(self.seeds)], 0

    def draw(self, kind: str, like: Tensor, samples: Sequence[int], key: str) -> Tensor:
        sources = {int(k): Keyed(self.origin(int(k))[0]) for k in samples}
        return PerSample(sources).draw(kind, like, samples, key)

    def check(self, setting: Setting) -> SeedBank:
        """Itself; raises `Refused` where a run is not the one that it was made for."""
        setting.require(self.made_for, ("model", "sampler", "shape"), f"a bank of {len(self.seeds)} seeds")
        return self

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as JSON."""
        return write_json(path, {"seeds": self.seeds, "made_for": asdict(self.made_for)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SeedBank:
        """Read what `save` wrote. Raises `Damaged` where it is not a bank of seeds."""
        try:
            about = read_json(path)
            place: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in about["made_for"].items()}
            return cls(tuple(map(int, about["seeds"])), Setting(**place))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Damaged(f"{path}: not a bank of seeds ({error}); search it again") from error
