"""The error of a denoiser on given pictures: per entry, for any conditions, on shared noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.denoiser import Denoiser
from ..core.errors import BadInput
from ..core.process import Gaussian
from ..core.value import Coef, combine

SPACES = ("eps", "value")


def errors(
    denoiser: Denoiser, x0: Tensor, cond: Cond, t: float, eps: Tensor, *, space: str = "eps", chunk: int = 64
) -> Tensor:
    """(B, ...) signed error of the prediction at x_t = a x0 + s eps, per entry.

    Networks of other kinds are converted to noise by the process, so errors of eps, v and x0 models compare; for flow
    models the noise error is (1 - t) times that of the velocity.

    Args:
        denoiser: of a Gaussian process.
        x0: clean states (B, ...).
        cond: B rows.
        t: time in (0, 1].
        eps: noise (B, ...); pass the same for every condition that is compared.
        space: "eps", or "value" for the error of what the network itself outputs.
        chunk: rows in one network call.
    """
    if space not in SPACES:
        raise BadInput(f"space={space!r}: errors are measured in {' or '.join(SPACES)}")
    process = denoiser.process
    assert isinstance(process, Gaussian)
    at, out = Coef(t), []
    for rows in torch.arange(len(x0)).split(chunk):
        c = cond[rows]
        own = process.given(c)
        assert isinstance(own, Gaussian)
        x = combine((own.alpha(at), x0[rows]), (own.sigma(at), eps[rows]))
        b = own.offset(at)
        p = denoiser(x if b is None else x + b, at, c)
        if space == "eps":
            out.append(p.eps - eps[rows])
        else:
            kx, ke, ky = p.row
            target = combine((kx, x0[rows]), (ke, eps[rows]))
            out.append(p.value - (target if p.y is None else target + ky * p.y))
    return torch.cat(out)


def trials(n: int, low: float = 0.02, high: float = 0.98) -> Iterator[tuple[int, float]]:
    """n times spread evenly over (low, high), every beginning of the order spread evenly too (van der Corput)."""
    for j in range(n):
        u, base, k = 0.0, 0.5, j + 1
        while k:
            u, base, k = u + base * (k & 1), base / 2, k >> 1
        yield j, low + (high - low) * u


def stack(conds: Sequence[Cond], rows: int) -> Cond:
    """Candidates as one Cond of K x rows rows, candidate by candidate; each has `rows` rows, or one for all."""
    for k, c in enumerate(conds):
        if c.rows not in (1, rows):
            raise BadInput(f"candidate {k} has {c.rows} rows; give one, or one for each of the {rows} pictures")
    return Cond.cat([c if c.rows == rows else c.repeat(rows) for c in conds])
