"""The energy of regions, its gradient, and what a step makes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from suffuse.core.errors import BadInput, Refused
from suffuse.core.guidance import Guidance
from suffuse.editing import Appearance, Displaced, Drag, KVBank, Move, Paste, RegionEnergy
from suffuse.editing.region_energy import alike, alike_on_average
from suffuse.editing.regions import Pointed, Weights
from suffuse.samplers import Heun

from .dragging_toys import SIZE, mask, pointed, run
from .editing_toys import close, pictures, plan

ENERGY = RegionEnergy(Move(2, 1), 5.0, blocks=(0, 1))
POINTS = [[2.5, 2.5, 5.5, 3.5]]
OTHERS = (Paste(1, 0, of=1), Appearance(of=1), Drag(radius=1.0))


def energy(f, guidance=ENERGY, **changes):
    """Of features of a source and a target."""
    m = mask()[:1]
    guidance = replace(guidance, **changes)
    return guidance.energies([f], ([1], [0]), [0], Pointed(m, m))


def test_a_scale_of_nothing_and_no_time_are_no_guidance():
    plain = run().target
    assert torch.equal(run(ENERGY.neutral()).target, plain)
    assert torch.equal(run(replace(ENERGY, until=0.0)).target, plain)


def test_features_that_have_moved_have_the_least_energy():
    """On the cells themselves (finer=1): w_e / 5 + w_c / 5 where region and outside are as they were."""
    f = torch.randn(1, 6, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    there = torch.where(mask()[:1].roll((1, 2), (2, 3)) > 0, f.roll((1, 2), (2, 3)), f)
    plain = {"finer": 1, "weights": Weights(4.0, 6.0)}
    edit, content = energy(torch.cat([f, there]), **plain)
    assert edit.item() == pytest.approx(4 / 5, abs=1e-5) and content.item() == pytest.approx(6 / 5, abs=1e-5)
    assert energy(torch.cat([f, f]), **plain)[0].item() > 4 / 5 + 0.1
    assert energy(torch.cat([f, f]), finer=1, weights=Weights(0.0, 0.0, contrast=0.2))[1].item() == pytest.approx(0.2)


def test_similarity_is_between_0_and_1_and_of_means():
    a = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])
    b = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]])
    assert alike(a, torch.tensor([[1.0, 1.0, 0.0]]), b, b).item() == pytest.approx(0.75)
    assert alike(a, torch.tensor([[0.0, 0.0, 1.0]]), b, b).item() == pytest.approx(0.0)
    average = alike_on_average(a, torch.tensor([[1.0, 0.0, 1.0]]), b, torch.ones(1, 3))
    assert average.item() == pytest.approx(0.5)  # opposite features have no mean
    assert alike(a, torch.zeros(1, 3), b, b).item() == 0.0


def asked(guidance, points=None):
    """What the guidance makes of the first step: the prediction, the plain one, and the step."""
    seen = []

    class Ask(Guidance):
        def __call__(self, predict, x, t, cond, at):
            p = predict(x, t, cond)
            seen.append((p, guidance(predict, x, t, cond, at.scoped("own")), at, cond))
            return p

    run(Ask(), points=points, steps=2)
    return seen


def test_only_the_clean_state_of_targets_is_guided_and_the_noise_is_not():
    p, guided, at, cond = asked(ENERGY)[0]
    assert torch.equal(guided.eps, p.eps) and torch.equal(guided.x0[:2], p.x0[:2])
    shift = guided.x0 - p.x0
    assert shift[2:].abs().amax((1, 2, 3)).min() > 0
    assert torch.allclose(at.move(guided) - at.move(p), at.process.alpha(at.s) * shift, atol=1e-4)
    twice = asked(replace(ENERGY, scale=10.0))[0][1]
    assert torch.allclose(twice.x0 - p.x0, 2 * shift, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("operation", [Move(2, 1), *OTHERS])
def test_the_slope_is_that_of_the_energy(operation):
    """A short way against the gradient lowers the energy by its squared length."""
    points = POINTS if "points" in operation.places else None
    a, b = pointed(points=points)
    from suffuse.core.memory import rows_of
    from suffuse.core.predict import Predict
    from suffuse.core.value import Coef, put
    from suffuse.editing.branches import branches
    from suffuse.editing.feature_probe import FeatureProbe

    guidance, p, cond = RegionEnergy(operation, blocks=(0, 1)), plan("unet"), branches(a, b, 2)
    at = asked(guidance, points)[0][2]
    predict, pairs, t = Predict(p.denoiser, at, (), cond), ([2, 3], [0, 1]), Coef(0.5)
    x = torch.cat([pictures("unet"), pictures("unet").flip(2)])
    taken = operation.taken(rows_of("", range(4)), [0, 1])

    def total(z):
        probe = FeatureProbe((0, 1))
        probe.look(predict, put(x, [2, 3], z), t, cond)
        edit, content = guidance.energies(probe.maps, pairs, taken, Pointed.at(cond, operation, [2, 3], taken))
        return (edit + content).double()

    slope = guidance.slope(predict, x, t, cond, at, pairs)
    unit = slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    h = 1e-2
    found = (total(x[2:] + h * unit) - total(x[2:] - h * unit)) / (2 * h)
    assert torch.allclose(found.float(), slope.flatten(1).norm(dim=1), rtol=0.05)


def test_regional_gradients_are_the_parts_of_each_energy():
    inside = mask().roll((1, 2), (2, 3)).bool().expand(-1, 4, -1, -1)
    p, _, _, _ = asked(ENERGY)[0]
    parts = {}
    for name, weights in {"both": None, "edit": Weights(4, 0, 0, 0), "rest": Weights(0, 6, 0.2, 0.8)}.items():
        parts[name] = asked(replace(ENERGY, regional=True, weights=weights))[0][1].x0[2:] - p.x0[2:]
    assert (parts["edit"][~inside] == 0).all() and (parts["rest"][inside] == 0).all()
    assert torch.allclose(parts["both"], parts["edit"] + parts["rest"], atol=1e-4)


def test_every_second_step_after_a_while():
    steps = [not torch.equal(g.x0, p.x0) for p, g, *_ in asked(replace(ENERGY, until=1.0, dense=0.0))]
    assert steps == [True, False]


@pytest.mark.parametrize("operation", [Move(2, 1), *OTHERS])
def test_sources_and_other_pairs_are_untouched(operation):
    points = POINTS if "points" in operation.places else None
    editors = RegionEnergy(operation, 5.0, blocks=(0, 1)), KVBank()
    both = run(*editors, points=points)
    assert close(both.source, run().source, 1e-4) and not close(both.target, run(KVBank()).target, 1e-4)
    if operation.of is None:
        alone = run(*editors, points=points, rows=slice(1, 2))
        assert close(both.target[1:], alone.target, 1e-3)


def test_it_costs_one_evaluation_more_of_each_branch_while_it_acts():
    plain, guided = run(), run(replace(ENERGY, until=0.4))
    assert (guided.nfe - plain.nfe).tolist() == [2 * 2] * 2


def test_other_samplers_and_numbers_out_of_range():
    with pytest.raises(BadInput, match="until lies in"):
        replace(ENERGY, until=2.0)
    with pytest.raises(Refused, match="one evaluation a step"):
        from suffuse.core.engine import sample

        a, _ = pointed()
        sample(plan("unet").denoiser, (2, 4, 8, 8), sampler=Heun(), steps=2, cond=a, guidance=ENERGY)


def test_displaced_noise_and_energy_together():
    out = run(ENERGY, KVBank(), inversion=Displaced(Move(2, 1)))
    assert torch.isfinite(out.target).all()
