from __future__ import annotations

import torch

from suffuse.core.cond import Cond
from suffuse.core.prediction import X0
from suffuse.core.value import Coef
from suffuse.processes import VP
from suffuse.restoration import ResShift
from suffuse.testing.analytic import GaussianMixture

MEANS = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0)).double()
STDS = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
X = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(1)).double()


def test_it_is_the_posterior_mean_by_the_definition() -> None:
    t, law = 0.4, GaussianMixture(MEANS, VP(), std=STDS, weights=torch.arange(1.0, 6.0), kind=X0)
    alpha, sigma = float(law.process.alpha(Coef(t)).d), float(law.process.sigma(Coef(t)).d)
    away = X[:, None] - alpha * MEANS
    spread = alpha**2 * law.variances + sigma**2
    logits = torch.log(torch.arange(1.0, 6.0).double()) - 0.5 * (away**2).sum((2, 3)) / spread - 3.0 * spread.log()
    each = MEANS + (alpha * law.variances / spread)[:, None, None] * away
    wanted = (logits.softmax(1)[:, :, None, None] * each).sum(1)
    torch.testing.assert_close(law(X, t).x0, wanted, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(law(X, t).eps, (X - alpha * wanted) / sigma, atol=1e-12, rtol=1e-10)


def test_evidence_chooses_among_the_components() -> None:
    law = GaussianMixture(MEANS, VP(), kind=X0)
    evidence = torch.full((4, 5), -1e9)
    evidence[torch.arange(4), torch.tensor([2, 0, 4, 2])] = 0.0
    told = law(X, 0.5, Cond({"evidence": evidence})).x0
    for row, k in enumerate([2, 0, 4, 2]):
        alone = GaussianMixture(MEANS[[k]], VP(), kind=X0)(X[[row]], 0.5).x0
        torch.testing.assert_close(told[[row]], alone)


def test_a_process_between_pictures_is_centred() -> None:
    source, process = torch.randn(4, 2, 3).double(), ResShift()
    law = GaussianMixture(MEANS, process, kind=X0)
    t, cond = process.grid[2], Cond({"source": source})
    eta, kappa = float(process.eta(Coef(t)).d), process.kappa
    spread = (1 - eta) ** 2 * 0.01 + kappa**2 * eta
    away = (X - eta * source)[:, None] - (1 - eta) * MEANS
    logits = -0.5 * (away**2).sum((2, 3)) / spread
    each = MEANS + (1 - eta) * 0.01 / spread * away
    wanted = (logits.softmax(1)[:, :, None, None] * each).sum(1)
    torch.testing.assert_close(law(X, t, cond).x0, wanted, atol=1e-12, rtol=1e-10)
