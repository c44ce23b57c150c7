"""Choosing how a model is computed: modes are tried on this machine, and the fastest that is exact enough stays.

What was measured is kept in a file, by network, shape, machine and versions, and not measured again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .core.denoiser import Denoiser
from .core.environment import processor, versions
from .core.errors import BadInput, Damaged, nearest
from .core.files import read_json, write_json
from .core.tuned import Mode, Tuned, TunedCodec

if TYPE_CHECKING:
    from .core.codec import Codec
    from .core.cond import Cond
    from .core.model import Model

ERRORS: Mapping[str, float] = {"exact": 1e-5, "near": 3e-2}
"""Largest relative difference of a prediction or decoded picture: float32 rounding, and that of bfloat16."""


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
    """What was measured for one network or decoder.

    Args:
        network: name of the model, or whose decoder it is.
        speed: "exact" or "near".
        rows: evaluations, or pictures, in one call.
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
    """The model, its network and its decoder each in the fastest mode found here; as they are where none surely is.

    Args:
        model: a loaded model; its patches and adapters stay around the tuned network, and it encodes as before.
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
    base, codec, pictures = model.network, _plain(model.codec), max(1, rows // 2)
    shape = codec.space.shape(model.defaults.size)
    x = torch.randn(rows, *shape, generator=torch.Generator().manual_seed(0)).to(model.device)

    @cache  # only what is measured needs it
    def cond() -> Cond:
        return model.denoiser.prepare(model.condition([None] * rows))

    def predicted(net: Denoiser) -> torch.Tensor:
        return net(x, 0.5, cond()).value

    def decoded(codec: Codec) -> torch.Tensor:
        return codec.decode(x[:pictures])

    modes = {"mode": Part(model.name, base, shape, rows, Tuned, predicted, compiled).fastest(speed, rounds, again)}
    if next(codec.parameters(), None) is not None:
        decoder = Part(f"decoder of {model.name}", codec, shape, pictures, TunedCodec, decoded)
        modes["decoder"] = decoder.fastest(speed, rounds, again)
    return in_modes(model, **modes)


def in_modes(model: Model, mode: Mode | None = None, decoder: Mode | None = None) -> Model:
    """The model with its network and its decoder computed in these modes, `Model.modes`; plainly for None."""
    base, codec = model.network, _plain(model.codec)
    network: Denoiser = base if mode is None else Tuned(base, mode)
    return replace(
        model,
        denoiser=network.with_(*model.changes),
        codec=codec if decoder is None else TunedCodec(codec, decoder),
    )


@dataclass(frozen=True, eq=False)
class Part:
    """A network or a decoder that may be computed in several modes.

    Args:
        name: for people.
        plain: the module as it is.
        shape: of one state.
        rows: evaluations or pictures in one call.
        made: the module in a mode.
        asked: something that it computes, to be timed and compared.
        compiled: whether torch.compile is tried.
    """

    name: str
    plain: torch.nn.Module
    shape: Sequence[int]
    rows: int
    made: Callable[[Any, Mode], Any]
    asked: Callable[[Any], torch.Tensor]
    compiled: bool = False

    def fastest(self, speed: str, rounds: int, again: bool) -> Mode | None:
        """The mode that surely is, from the file of choices or measured now; None where the plain one is."""
        case, known = self._case(speed), calibrations()
        if again or case not in known:
            found = self.measured(modes(self.plain, ERRORS[speed], self.compiled), rounds)
            known = {**calibrations(), case: asdict(Choice(self.name, speed, self.rows, tuple(found)))}
            write_json(calibration_file(), known)
        best = chosen(known[case]).fastest
        return None if best is None else best.mode

    @torch.no_grad()
    def measured(self, modes: Sequence[Mode], rounds: int) -> list[Tried]:
        """Every mode, timed in turns with the plain module.

        What came out faster is timed a second time at the end, and the slower of both counts: a busy machine deceives
        once more easily than twice.
        """
        from .evaluation.timing import paired

        def timed(other: Any) -> tuple[float, float, float]:
            ratio = paired(lambda: self.asked(other), lambda: self.asked(self.plain), rounds=max(5, rounds)).ratio
            return ratio.mean, *ratio.interval

        truth, others = self.asked(self.plain), [self.made(self.plain, mode) for mode in modes]
        off = [float((self.asked(other) - truth).norm() / truth.norm()) for other in others]
        first = [timed(other) for other in others]
        both = [max(t, timed(other)) if t[2] < 1.0 else t for other, t in zip(others, first, strict=True)]
        return [Tried(mode, *times, e) for mode, times, e in zip(modes, both, off, strict=True)]

    def _case(self, speed: str) -> str:
        """A name for all that decides what is fastest; the values of weights do not."""
        weights, configured = list(self.plain.parameters()), [getattr(m, "config", None) for m in self.plain.modules()]
        configs = [sorted((k, str(v)) for k, v in dict(config).items()) for config in configured if config]
        parts = (
            type(self.plain).__name__, configs, [tuple(p.shape) for p in weights], tuple(self.shape), speed, self.rows,
            self.compiled, torch.get_num_threads(), str(weights[0].device), str(weights[0].dtype), dict(processor()),
            dict(versions()),
        )  # fmt: skip
        return hashlib.blake2b(json.dumps(parts, default=str).encode(), digest_size=8).hexdigest()


def modes(plain: torch.nn.Module, error: float, compiled: bool) -> Sequence[Mode]:
    """The candidates; bfloat16 only where its rounding is allowed."""
    convolves = any(isinstance(m, torch.nn.Conv2d) and m.kernel_size != (1, 1) for m in plain.modules())
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


def _plain(codec: Codec) -> Codec:
    return codec.base if isinstance(codec, TunedCodec) else codec
