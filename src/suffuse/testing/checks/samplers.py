"""Checks of samplers, on data laws that are known in closed form."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...core.denoiser import EMPTY
from ...core.engine import place_of, sample
from ...core.grid import Grid
from ...core.hook import Session, StepFunction
from ...core.noise import Keyed
from ...core.plugin import Needs
from ...core.prediction import EPS, FLOW, X0, V
from ...core.process import Gaussian as GaussianProcess
from ...core.sampler import Sampler
from ...core.step import RunContext, Step
from ...core.value import Coef
from ...processes.categorical import Absorbing, Uniform
from ...processes.continuous import VP, Flow
from ..analytic import Gaussian, KnownLaw
from .check import check
from .subject import NotHere, Subject, close, equal

SHAPE = (1, 4, 4)
PROCESSES: tuple[GaussianProcess, ...] = (VP(), Flow())


def _known(process: GaussianProcess, kind: Any = EPS, shape: tuple[int, ...] = SHAPE) -> Gaussian:
    mean = torch.linspace(-1.0, 1.0, math.prod(shape), dtype=torch.float64).reshape(shape)
    return Gaussian(mean, process, std=0.5, kind=kind)


def _x(n: int, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(n, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _grid(start: float, stop: float, n: int) -> Grid:
    return Grid(torch.linspace(start, stop, n + 1, dtype=torch.float64))


def _gaussian(subject: Subject) -> None:
    if Needs.CATEGORICAL in subject.method.needs:
        raise NotHere("it samples categories")
    if hasattr(subject.method, "made_for"):
        raise NotHere("it was fitted for one grid, and refuses others")


def _deterministic(subject: Subject) -> None:
    _gaussian(subject)
    one, other = (
        sample(_known(VP()), _x(2), sampler=subject.method, grid=_grid(0.9, 0.1, 4), noise=k).x for k in (1, 2)
    )
    if not torch.equal(one, other):
        raise NotHere("it draws noise")


@check(Sampler, "A step to the time at which it stands changes nothing.")
def no_move_is_the_identity(subject: Subject) -> None:
    _gaussian(subject)
    for process in PROCESSES:
        times = [0.9, 0.7, 0.7, 0.4, 0.4, 0.4]
        saved = sample(
            _known(process), _x(2), sampler=subject.method, grid=Grid(torch.tensor(times)), save=lambda run: run.state.x
        ).saved
        for i in (1, 3, 4):
            close(saved[i + 1], saved[i], f"x after step {i + 1} of the times {times} on {process}", 1e-6)


@check(Sampler, "Rows that stand at different times move as each would alone.")
def times_differ_between_rows(subject: Subject) -> None:
    _gaussian(subject)
    starts = torch.tensor([0.9, 0.6, 0.5], dtype=torch.float64)
    for process in PROCESSES:
        whole = _moves(subject.method, process, [0, 1, 2], starts)
        for row in range(3):
            close(_moves(subject.method, process, [row], starts), whole[[row]], f"row {row} on {process}", 1e-6)


def _moves(sampler: Sampler, process: GaussianProcess, rows: list[int], starts: Tensor) -> Tensor:
    """Three steps of 0.1 by hand, each row from its own start."""
    denoiser, x, grid, session = _known(process), _x(3)[rows], _grid(0.9, 0.6, 3), Session()
    run, bound = RunContext(Keyed(0)), sampler.bind(place_of(denoiser, grid, sampler, None))
    for i in range(3):
        t, s = (
            Coef(starts[rows] - 0.1 * k) if len(rows) > 1 else Coef(float(starts[rows[0]]) - 0.1 * k)
            for k in (i, i + 1)
        )
        at = Step(i, 3, t, s, grid, process, tuple(rows), run, first=i == 0, last=i == 2)
        memory = bound.init(x, at) if i == 0 else session.sampler_memory
        x = StepFunction(session, denoiser, EMPTY, (), bound, memory)(x, at)
    return x


@check(Sampler, "It does not matter in which form the network predicts.")
def kinds_agree(subject: Subject) -> None:
    _gaussian(subject)
    for process in PROCESSES:
        first, *rest = (
            sample(_known(process, kind), _x(2), sampler=subject.method, grid=_grid(0.9, 0.0, 6)).x
            for kind in (X0, EPS, V, FLOW)
        )
        for kind, found in zip(("eps", "v", "flow"), rest, strict=True):
            close(found, first, f"{kind} against x0 on {process}", 1e-8)


@check(Sampler, "It asks the network once a step if it says so, and else more often.")
def evaluations_are_as_said(subject: Subject) -> None:
    _gaussian(subject)
    spent: list[int] = []
    inner = _known(VP())

    class Counting(Gaussian):
        def forward(self, *args: Any) -> Any:
            spent.append(1)
            return inner(*args)

    sample(Counting(inner.means[0], VP()), _x(1), sampler=subject.method, grid=_grid(0.9, 0.1, 5))
    if Needs.ONE_EVALUATION in subject.method.needs:
        assert len(spent) == 5, f"{len(spent)} evaluations in 5 steps, with Needs.ONE_EVALUATION"
    else:
        assert len(spent) > 5, (
            f"{len(spent)} evaluations in 5 steps; say Needs.ONE_EVALUATION, so that `at.move` is there"
        )


@check(Sampler, "Its error falls with the number of steps as fast as it declares.")
def it_converges_as_declared(subject: Subject) -> None:
    _gaussian(subject)
    power = subject.method.convergence
    if power is None:
        raise NotHere("it declares no convergence")
    for process in PROCESSES:
        known, x = _known(process), _x(2)
        exact, errors = known.flow(x, 0.9, 0.1), []
        for n in (32, 64):
            found = sample(known, x, sampler=subject.method, grid=_grid(0.9, 0.1, n)).x
            errors.append(float((found - exact).abs().max()))
        measured = math.log2(errors[0] / errors[1]) if errors[1] > 1e-11 else math.inf
        said = f"{power} is declared; errors {errors[0]:.2g}, {errors[1]:.2g} at 32, 64 steps"
        assert measured >= power - 0.25, f"order {measured:.2f} on {process}, {said}"


@check(Sampler, "Many steps draw the law of the data.")
def the_law_is_drawn(subject: Subject) -> None:
    _gaussian(subject)
    if Needs.CONSISTENCY in subject.method.needs:
        raise NotHere("it is for networks distilled to consistency")
    for process in PROCESSES:
        shape = (1, 16, 16)
        known = _known(process, FLOW, shape)
        x = process.sigma(Coef(1.0)) * _x(24, shape=shape) + process.alpha(Coef(1.0)) * known.data(24, 1)
        found = sample(known, x, sampler=subject.method, grid=_grid(1.0, 0.0, 100)).x - known.means
        # 6144 independent entries: one standard error is 0.0064 of the mean and 0.0045 of the deviation
        assert abs(found.mean()) < 0.03, (
            f"the mean is off by {float(found.mean()):.3f} on {process}, at a deviation of 0.5"
        )
        assert abs(found.std() - 0.5) < 0.03, f"the deviation is {float(found.std()):.3f} on {process}, not 0.5"


@check(Sampler, "A consistency function draws the law of the data in any number of steps.")
def consistency_draws_the_law(subject: Subject) -> None:
    if Needs.CONSISTENCY not in subject.method.needs:
        raise NotHere("it is for networks that predict the mean of x0")
    shape = (1, 16, 16)

    class Consistent(Gaussian):
        def forward(self, x: Any, t: Any, cond: Any = EMPTY) -> Any:
            return super().forward(x, t, cond).with_(x0=self.flow(x, t, 0.0))

    for process in PROCESSES:
        known = Consistent(_known(process, FLOW, shape).means[0], process, std=0.5, kind=FLOW)
        x = process.sigma(Coef(1.0)) * _x(24, shape=shape) + process.alpha(Coef(1.0)) * known.data(24, 1)
        for n in (1, 4):
            found = sample(known, x, sampler=subject.method, grid=_grid(1.0, 0.0, n)).x - known.means
            assert abs(found.mean()) < 0.03, f"{n} steps on {process}: the mean is off by {float(found.mean()):.3f}"
            assert abs(found.std() - 0.5) < 0.03, (
                f"{n} steps on {process}: the deviation is {float(found.std()):.3f}, not 0.5"
            )


@check(Sampler, "Running up to noise and down again leads back, the nearer the more steps.")
def inversion_leads_back(subject: Subject) -> None:
    _deterministic(subject)
    if Needs.CONSISTENCY in subject.method.needs:
        raise NotHere("it does not follow a trajectory")
    for process in PROCESSES:
        known, errors = _known(process), []
        data = known.data(2)
        for n in (32, 64):
            up = sample(known, data, sampler=subject.method, grid=_grid(0.1, 0.9, n)).x
            down = sample(known, up, sampler=subject.method, grid=_grid(0.9, 0.1, n)).x
            errors.append(float((down - data).abs().max()))
        assert errors[1] < max(0.7 * errors[0], 1e-10), (
            f"errors {errors[0]:.2g}, {errors[1]:.2g} at 32, 64 steps on {process}"
        )
        assert errors[1] < 0.2, f"error {errors[1]:.2g} at 64 steps on {process}, at a deviation of 0.5"


@check(Sampler, "It samples a known law of categories.")
def categories_are_drawn(subject: Subject) -> None:
    if Needs.GAUSSIAN in subject.method.needs:
        raise NotHere("it samples numbers")
    words, probs = torch.tensor([[0, 1], [1, 1], [2, 0]]), torch.tensor([0.5, 0.3, 0.2])
    for process in (Absorbing(4), Uniform(3)):
        known = KnownLaw(words, process, probs=probs)
        found = sample(known, (600, 2), sampler=subject.method, steps=20).x
        shares = torch.stack([(found == w).all(1).double().mean() for w in words])
        # the largest of three standard errors is 0.02; entries that are drawn in one step do not know of each other
        away = float((shares - probs).abs().max())
        assert away < 0.08, (
            f"the three words of {process} have shares {[round(v, 3) for v in shares.tolist()]}, not {probs.tolist()}"
        )


@check(Sampler, "Noise that is given is the only randomness.")
def only_given_noise(subject: Subject) -> None:
    _gaussian(subject)

    def draw(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return sample(_known(VP()), _x(2), sampler=subject.method, grid=_grid(0.9, 0.1, 4)).x

    with torch.random.fork_rng(devices=[]):
        equal(draw(1), draw(2), "a run under another global seed")
