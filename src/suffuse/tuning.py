"""Choosing how a network is computed: modes are tried on this machine, and the fastest that is exact enough stays.

What was measured is kept in a file, by network, shape, machine and versions, and not measured again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .core.denoiser import Denoiser, Network
from .core.environment import processor, versions
from .core.errors import BadInput, Damaged, nearest
from .core.files import read_json, write_json
from .core.tuned import Mode, Tuned

if TYPE_CHECKING:
    from .core.cond import Cond
    from .core.model import Model

ERRORS: Mapping[str, float] = {"exact": 1e-5, "near": 3e-2}
"""Largest relative difference of one prediction from the plain network's: float32 rounding, and that of bfloat16."""


@dataclass(frozen=True)
class Tried:
    """What came out for one mode.

    Args:
        mode: how the network was computed.
        time: share of the plain network's time, the median of interleaved pairs.
        low, high: its 95 % interval.
        error: relative difference of a prediction from the plain network's, in the Euclidean norm.
    """

    mode: Mode
    time: float
    low: float
    high: float
    error: float


@dataclass(frozen=True)
class Choice:
    """What was measured for one network.

    Args:
        network: name of the model.
        speed: "exact" or "near".
        rows: evaluations in one call.
        tried: the modes.
    """

    network: str
    speed: str
    rows: int
    tried: tuple[Tried, ...]

    @property
    def fastest(self) -> Tried | None:
        """The fastest of those that are exact enough and surely faster than the plain mode, or None."""
        sure = [t for t in self.tried if t.error <= ERRORS[self.speed] and t.high < 1.0]
        return min(sure, key=lambda t: t.time, default=None)

    def __str__(self) -> str:
        best, what = self.fastest, f"{self.network}, {self.rows} rows, {self.speed}"
        if best is None:
            return f"{what}: as it is"
        time = f"{best.time:.2f} [{best.low:.2f}, {best.high:.2f}] of the time"
        return f"{what}: {best.mode}, {time}, error {best.error:.0e}"


def chosen(kept: Mapping[str, Any]) -> Choice:
    """A choice as its file has it."""
    return Choice(**{**kept, "tried": tuple(Tried(**{**t, "mode": Mode(**t["mode"])}) for t in kept["tried"])})


def tuned(
    model: Model, speed: str = "exact", *, rows: int = 2, compiled: bool = False, rounds: int = 7, again: bool = False
) -> Model:
    """The model, computed in the fastest mode found on this machine; as it is where none is surely faster.

    Args:
        model: a loaded model; its patches and adapters stay around the tuned network.
        speed: "exact" is equal up to float32 rounding (1e-5 a prediction), "near" up to that of bfloat16 (3e-2).
        rows: evaluations in one network call that it is tuned for: 2 are one picture under CFG.
        compiled: try `torch.compile` too; the first picture of a shape then waits for it, a minute or more.
        rounds: pairs that are timed for each mode.
        again: measure even where the file knows this case.

    Raises:
        BadInput: an unknown speed.

    Example:
        >>> fast = suffuse.tuned(suffuse.load("shapes"), "near")
        >>> fast.generate("a red circle")
    """
    if speed not in ERRORS:
        raise BadInput(f"speed={speed!r}: {nearest(speed, ERRORS)}")
    base = _network(model.denoiser)
    case = _case(model, base, speed, rows, compiled)
    known = calibrations()
    if again or case not in known:
        found = measured(model, base, ERRORS[speed], rows, compiled, rounds)
        known = {**calibrations(), case: asdict(Choice(model.name, speed, rows, tuple(found)))}
        write_json(calibration_file(), known)
    best = chosen(known[case]).fastest
    return model if best is None else replace(model, denoiser=Tuned(base, best.mode).with_(*model.changes))


def measured(model: Model, base: Network, error: float, rows: int, compiled: bool, rounds: int) -> list[Tried]:
    """Every mode that makes sense here, timed in turns with the plain network on noise at the middle of the run.

    What came out faster is timed a second time at the end, and the slower of both counts: a busy machine deceives once
    more easily than twice.
    """
    from .evaluation.timing import paired

    x, cond = _example(model, rows)

    def evaluated(net: Denoiser) -> Any:
        with torch.no_grad():
            return net(x, 0.5, cond).value

    def timed(net: Tuned) -> tuple[float, float, float]:
        ratio = paired(lambda: evaluated(net), lambda: evaluated(base), rounds=max(5, rounds)).ratio
        return ratio.mean, *ratio.interval

    plain = evaluated(base)
    nets = [Tuned(base, mode) for mode in modes(base, error, compiled)]
    off = [float((evaluated(net) - plain).norm() / plain.norm()) for net in nets]
    first = [timed(net) for net in nets]
    both = [max(times, timed(net)) if times[2] < 1.0 else times for net, times in zip(nets, first, strict=True)]
    return [Tried(net.mode, *times, e) for net, times, e in zip(nets, both, off, strict=True)]


def modes(base: Network, error: float, compiled: bool) -> Sequence[Mode]:
    """The candidates; bfloat16 only where its rounding is allowed."""
    convolves = any(isinstance(m, torch.nn.Conv2d) and m.kernel_size != (1, 1) for m in base.net.modules())
    types = [None, "bfloat16"] if error > 1e-3 else [None]
    return [
        Mode(matmul, last, dtype, graph)
        for dtype, graph, last, matmul in product(
            types,
            (False, True) if compiled else (False,),
            (False, True) if convolves else (False,),
            ("highest", "medium"),
        )  # fmt: skip
        if dtype is None or matmul == "highest"  # of float32 products alone
    ]


def calibrations() -> dict[str, Any]:
    """What was measured on this machine, by case."""
    try:
        return read_json(calibration_file())
    except Damaged:
        return {}


def calibration_file() -> Path:
    """Where it is kept: in the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "suffuse" / "calibration.json"


def _network(denoiser: Denoiser) -> Network:
    inner: Any = denoiser
    while not isinstance(inner, Network):
        inner = inner.base
    return inner


def _example(model: Model, rows: int) -> tuple[torch.Tensor, Cond]:
    shape = (rows, *model.codec.space.shape(model.defaults.size))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(model.device)
    cond = model.condition([None] * rows)
    return x, model.denoiser.prepare(cond)


def _case(model: Model, base: Network, speed: str, rows: int, compiled: bool) -> str:
    """A name for all that decides what is fastest; weights do not."""
    config: Any = getattr(base.net, "config", {})
    parts = (
        type(base.net).__name__, sorted((k, str(v)) for k, v in dict(config).items()), model.defaults.size, speed,
        rows, compiled, torch.get_num_threads(), str(model.device), dict(processor()), dict(versions()),
        str(next(base.parameters()).dtype),
    )  # fmt: skip
    return hashlib.blake2b(json.dumps(parts, default=str).encode(), digest_size=8).hexdigest()
