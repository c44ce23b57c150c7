"""Statistical rates: errors against known scores."""

from __future__ import annotations

import pytest
import torch

from suffuse.core.denoiser import EMPTY, Denoiser
from suffuse.core.errors import BadInput
from suffuse.core.prediction import X0
from suffuse.core.value import Coef
from suffuse.probing import rates
from suffuse.probing.statistical_rates import TIMES, score_error
from suffuse.processes.continuous import VP

A = torch.linalg.qr(torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]


class Shrunk(Denoiser):
    """The exact mean, times a factor."""

    process = VP()

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x, t, cond=EMPTY):
        a, s = self.process.alpha(Coef(t)), self.process.sigma(Coef(t))
        mean = a / (a * a + s * s) * (x.double() @ A @ A.T)
        return self.process.predict(x, Coef(t), self.factor * mean.float(), X0)


def test_the_exact_score_has_no_error_and_a_shrunk_one_a_known_one():
    x0 = (torch.randn(4000, 2, dtype=torch.float64) @ A.T).float()
    assert score_error(Shrunk(1.0), x0, A, torch.Generator().manual_seed(0)) < 1e-8
    # eps is off by alpha / sigma times a tenth of the mean, whose mean square is d alpha^2 / (alpha^2 + sigma^2)
    process = VP()
    expected = 0.0
    for t in map(Coef, TIMES):
        a, s = process.alpha(t).item(), process.sigma(t).item()
        expected += (0.1 * a / s) ** 2 * 2 * a**2 / (a**2 + s**2) / len(TIMES)
    found = score_error(Shrunk(0.9), x0, A, torch.Generator().manual_seed(0))
    assert abs(found / expected - 1) < 0.1


def test_errors_fall_with_more_data():
    few, many = rates((8, 256), (6,), (2,), steps=80, batch=32, drawn=128)
    assert (few.n, many.n, many.ambient, many.intrinsic) == (8, 256, 6, 2)
    assert many.score_error < few.score_error and many.distance < few.distance
    with pytest.raises(BadInput, match="intrinsic=7"):
        rates((8,), (6,), (7,))
