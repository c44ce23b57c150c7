"""The benchmark of error against evaluations: both sides run the same course, and the rounds keep what is best."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from suffuse.guidance import CFG
from suffuse.processes import Flow, Table
from suffuse.samplers import DDIM, PNDM, DPMSolverPP, FlowShift, Heun, Karras, Trailing
from suffuse.testing.fixtures import conditions, fixture
from suffuse.testing.nfe_bench import Course, Ours, Point, Theirs, compete, distances, geometric, learned

SD = dict(
    beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, timestep_spacing="trailing", clip_sample=False
)


@pytest.fixture(scope="module")
def course():
    def of(name: str, **config) -> Course:
        denoiser = fixture(name)
        assert isinstance(denoiser.process, Flow if name == "sd3" else Table)
        return Course(denoiser, conditions(name, 2), (2, 4, 8, 8), CFG(2.0), config)

    return of


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return float((a - b).norm() / b.norm()) < 1e-4


@pytest.mark.parametrize(
    ("name", "own", "other"),
    [
        ("unet", Ours("", "", lambda n: DDIM(), Trailing()), Theirs("", "", "DDIMScheduler")),
        ("unet", Ours("", "", lambda n: DPMSolverPP(2), Trailing()), Theirs("", "", "DPMSolverMultistepScheduler")),
        (
            "unet",
            Ours("", "", lambda n: Heun(), Karras(), lambda budget: (budget + 1) // 2),
            Theirs("", "", "HeunDiscreteScheduler", dict(use_karras_sigmas=True, timestep_spacing="linspace")),
        ),
        (
            "unet",
            Ours("", "", lambda n: PNDM(), Trailing(), lambda budget: budget - 1),
            Theirs("", "", "PNDMScheduler", dict(skip_prk_steps=True, set_alpha_to_one=True)),
        ),
        ("sd3", Ours("", "", lambda n: DDIM(), FlowShift(1.0)), Theirs("", "", "FlowMatchEulerDiscreteScheduler")),
    ],
)
def test_both_sides_agree_where_they_are_the_same_method(course, name, own, other):
    place = course(name, **(SD if name == "unet" else dict(shift=1.0)))
    (a, spent), (b, took) = own(place, 5), other(place, 5)
    assert same(a, b) and spent == took == 5


def test_branches_of_guidance_count_once(course):
    place = course("unet", **SD)
    assert place.branches == 2 and place.run(sampler=DDIM(), spacing=Trailing(), steps=3)[1] == 3


class Named:
    """An arm whose error is known."""

    def __init__(self, solver: str, spacing: str, size: float, many: float):
        self.solver, self.spacing, self.sizes = solver, spacing, (size, many)


def test_a_solver_runs_with_the_spacing_that_was_best_in_its_trial():
    few, many = Named("a", "few", 1.0, 5.0), Named("a", "many", 2.0, 4.0)
    others = [Named(name, "", 3.0, k) for k, name in enumerate("bcd", 1)]

    def measure(arm, budget):
        return Point(arm, budget, budget, np.full(2, arm.sizes[budget > 8]))

    found = compete(measure, [few, many, *others], [4, 12, 50])
    assert [p.arm.spacing for p in found if p.arm.solver == "a"] == ["few", "many"]
    assert [p.arm.solver for p in found if p.budget == 50] == ["b", "c", "d"]


def test_errors_are_relative_and_few_large_ones_do_not_carry_the_mean():
    reference = torch.full((3, 4, 2, 2), 2.0) * torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1, 1)
    errors = distances(reference * torch.tensor([1.01, 0.99, 2.0]).reshape(3, 1, 1, 1), reference)
    assert errors == pytest.approx([0.01, 0.01, 1.0], rel=1e-4)
    assert geometric(errors) == pytest.approx(0.01 ** (2 / 3), rel=1e-4)


def test_one_fine_run_teaches_every_number_of_steps(course):
    place = course("unet", **SD)
    fit = learned(place, Karras(), 12)
    for n in (2, 4):
        end, spent = Ours("", "", fit)(place, n)
        assert spent == n and torch.isfinite(end).all()
    assert fit(4) is fit(4)
