"""Checks of corruption processes and of spacings."""

from __future__ import annotations

import torch

from ...core.cond import Cond
from ...core.errors import SuffuseError
from ...core.grid import Spacing
from ...core.noise import Keyed
from ...core.prediction import X0
from ...core.process import Gaussian, Process
from ...core.value import Coef
from ...processes.continuous import VP, Flow
from ...processes.tables import Table
from .check import check
from .subject import NotHere, Subject, close

TIMES = (0.05, 0.3, 0.7, 0.95)


def _given(subject: Subject) -> tuple[Gaussian, torch.Tensor]:
    if not isinstance(subject.method, Gaussian):
        raise NotHere("it is not Gaussian")
    x0, source = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    process = subject.method.given(Cond({"source": source}))
    assert isinstance(process, Gaussian)
    return process, x0


@check(Process, "A posterior to the time at which the state stands leaves it alone.")
def no_move_leaves_alone(subject: Subject) -> None:
    process, x0 = _given(subject)
    for t in map(Coef, process.grid[:-1] if process.grid else TIMES):
        x = process.marginal(x0, t).mean + 0.1
        p = process.predict(x, t, x0, X0)
        for eta in (0.0, 1.0):
            law = process.posterior(x, p, t, t, eta)
            close(law.mean, x, f"the mean at t={t.item():g}, eta={eta:g},", 1e-9)


@check(Process, "A posterior with the true clean state leads from one marginal to the other.")
def posteriors_join_marginals(subject: Subject) -> None:
    process, x0 = _given(subject)
    times = list(process.grid) if process.grid else list(reversed(TIMES))
    for t, s in zip(times, times[1:], strict=False):
        t_, s_ = Coef(t), Coef(s)
        at, to = process.marginal(x0, t_), process.marginal(x0, s_)
        for eta in (0.0, 1.0):
            # the mean of the posterior is linear in the noise of x_t: two values give its share
            laws = [process.posterior(x, process.predict(x, t_, x0, X0), t_, s_, eta) for x in (at.mean, at.at(1.0))]
            close(laws[0].mean, to.mean, f"the mean from {t:g} to {s:g}, eta={eta:g},", 1e-9)
            carried = laws[1].mean - laws[0].mean
            std = getattr(laws[0], "std", Coef(0.0))
            total = (carried.square() + (std * std) * torch.ones_like(carried)).sqrt()
            close(total, to.std * torch.ones_like(carried), f"the deviation from {t:g} to {s:g}, eta={eta:g},", 1e-6)  # type: ignore[attr-defined]


@check(Process, "At time 0 there is data alone, and noise is a function of the key.")
def time_zero_is_data(subject: Subject) -> None:
    process, x0 = _given(subject)
    law = process.marginal(x0, Coef(0.0))
    draw = lambda like, tag="", kind="normal": getattr(Keyed(0), kind)(like, (0, 1, 2), tag)  # noqa: E731
    close(law.sample(draw), x0, "x_0", 1e-2 if process.grid else 1e-6)


@check(Process, "Noise-to-signal ratio and time are inverse functions.")
def time_and_ratio_are_inverse(subject: Subject) -> None:
    process, _ = _given(subject)
    if process.grid:
        raise NotHere("it has a grid of its own")
    for t in TIMES:
        back = process.time(process.rho(Coef(t))).item()
        assert abs(back - t) < 1e-6, f"time(rho({t})) is {back}"


@check(Spacing, "Its times fall from noise to data, as many as were asked for.")
def times_fall(subject: Subject) -> None:
    reasons = []
    for process in (VP(), Flow(), Table()):
        counts = []
        for n in (1, 7):
            try:
                times = subject.method.grid(process, n, (4, 8, 8)).times
            except SuffuseError as reason:
                reasons.append(str(reason))
                continue
            assert bool((times.diff() < 0).all()), f"{n} steps on {process}: {times.tolist()}"
            assert 0.0 <= times[-1] and times[0] <= 1.0, f"{n} steps on {process}: from {times[0]:g} to {times[-1]:g}"
            counts.append(len(times) - 1)
        given = len(set(counts)) <= 1  # a list of times has its own number
        assert given or counts == [1, 7], f"{counts} steps on {process}, [1, 7] were asked for"
    assert len(reasons) < 6, f"it makes no grid: {reasons[0]}"
