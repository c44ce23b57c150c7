"""What an inversion returns, and how it is kept: a start state, extras of every step, and the run that it fits."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..core.cond import Cond
from ..core.errors import Damaged, SuffuseError
from ..core.expression import parse, unparse
from ..core.files import atomic_write
from ..core.plugin import Setting
from .inverter import Inverter


@dataclass(frozen=True, eq=False)
class Code:
    """A picture as an inverter found it in the model.

    Args:
        x: (B, ...) states at time `t`, from which decoding starts.
        t: time of the grid that they belong to, 1 for noise.
        inverter: what made it and what decodes it.
        made_for: the run that it fits; `Inverter.fits` says in which respects.
        target: (B, ...) states from which the edit starts, where it does not start from `x` as its source does.
        extras: name -> (B, ...) what decoding needs beside the start; hooks find it in `cond.alt["code"]`.
    """

    x: Tensor
    t: float
    inverter: Inverter
    made_for: Setting
    target: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, rows: Any) -> Code:
        target = None if self.target is None else self.target[rows]
        return replace(self, x=self.x[rows], target=target, extras={k: v[rows] for k, v in self.extras.items()})

    def check(self, setting: Setting) -> None:
        """Raise `Refused` where a run is not the one that this code fits."""
        setting.require(self.made_for, self.inverter.fits, f"the code of {self.inverter}")

    def beside(self, cond: Cond) -> Cond:
        """`cond` of source and target branches, with the extras of both in `alt["code"]`."""
        return cond.with_alt(code=Cond({k: torch.cat([v, v]) for k, v in self.extras.items()}))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a safetensors file, whole or not at all, that says what it was made for."""
        tensors = {"x": self.x, **{f"extras.{k}": v for k, v in self.extras.items()}}
        if self.target is not None:
            tensors["target"] = self.target
        about = {"inverter": unparse(self.inverter), "t": self.t, "made_for": asdict(self.made_for)}
        content = save({k: v.contiguous() for k, v in tensors.items()}, {"code": json.dumps(about)})
        return atomic_write(path, content)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Code:
        """Read what `save` wrote.

        Raises:
            Damaged: it is missing, or not a code.
        """
        try:
            with safe_open(path, "pt") as file:
                about = json.loads(file.metadata()["code"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            place = about["made_for"]
            made_for = Setting(**{**place, "times": tuple(place["times"]), "shape": tuple(place["shape"])})
            inverter = parse(about["inverter"], Inverter)  # type: ignore[type-abstract]
            x, target = tensors.pop("x"), tensors.pop("target", None)
            extras = {k.removeprefix("extras."): v for k, v in tensors.items()}
            return cls(x, about["t"], inverter, made_for, target, extras)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, SuffuseError) as error:
            raise Damaged(f"{path}: not a code of an inversion ({error}); invert the picture again") from error
