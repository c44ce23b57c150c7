"""Windows told by a grid of embeddings: identities of the interpolation, and one window as the plain run."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from suffuse.core.cond import Cond
from suffuse.core.denoiser import EMPTY, Denoiser
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput
from suffuse.core.prediction import X0
from suffuse.core.value import Coef
from suffuse.guidance import CFG
from suffuse.processes.continuous import VP
from suffuse.resolution import Flat, GridPrior, MultiDiffusion, RepresentationGuided, augmentation_report
from suffuse.resolution.representation_guided import between, nearest
from suffuse.resolution.tiles import Box
from suffuse.resolution.views import View
from suffuse.samplers import DDIM

GRID = F.normalize(torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(0)), dim=-1)


class Told(Denoiser):
    """Predicts, everywhere, the embedding that it was told."""

    process = VP()

    def forward(self, x, t, cond=EMPTY):
        return self.process.predict(x, Coef(t), cond["text"][:, 0, :, None, None].expand_as(x), X0)


def run(grid, guidance, height=16, width=24, **changes):
    null = Cond({"text": torch.zeros_like(grid)})
    x = torch.zeros(len(grid), 4, height, width)
    how = {"sampler": DDIM(), "steps": 3, "noise": 1, "cond": Cond({"text": grid}, {"null": null})} | changes
    return sample(Told(), x, guidance=guidance, **how).x


def test_grid_points_have_their_own_embedding():
    for row in range(2):
        for column in range(3):
            assert torch.equal(between(GRID, row, column), GRID[:, row, column])
            assert torch.equal(nearest(GRID, row + 0.4, column - 0.4), GRID[:, row, column])


def test_slerp_keeps_length_and_halves_angles():
    for y, x in ((0.25, 0.5), (0.9, 1.7)):
        torch.testing.assert_close(between(GRID, y, x).norm(dim=-1), torch.ones(2))
    axes = torch.eye(4)[:2].view(1, 1, 2, 4)
    torch.testing.assert_close(between(axes, 0, 1 / 3)[0, :2], torch.tensor([3**0.5 / 2, 0.5]))


def test_parallel_embeddings_are_joined_by_a_line():
    a = GRID[:1, :1, :1]
    torch.testing.assert_close(between(torch.cat([a, a], 2), 0, 0.3), a[:, 0, 0])
    torch.testing.assert_close(between(torch.cat([a, 3 * a], 2), 0, 0.5), 2 * a[:, 0, 0])
    torch.testing.assert_close(between(torch.cat([a, -a], 2), 0, 0.25), 0.5 * a[:, 0, 0])


def test_every_window_is_told_its_place():
    method, size = RepresentationGuided(8), (16, 24)
    cond = Cond({"text": GRID}, {"null": Cond({"text": torch.zeros_like(GRID)})})
    told = method.told(cond, View("tile5", Box(4, 14, 8, 8), torch.ones(8, 8)), size)
    torch.testing.assert_close(told["text"], between(GRID, 0.5, 1.75)[:, None])
    assert torch.equal(told.alt["null"]["text"], torch.zeros(2, 1, 4))


def test_separate_windows_show_the_grid():
    found = run(GRID, RepresentationGuided(8, stride=1.0))
    expected = GRID.permute(0, 3, 1, 2).repeat_interleave(8, 2).repeat_interleave(8, 3)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    guided = run(GRID, RepresentationGuided(8, stride=1.0) | CFG(2.0))
    torch.testing.assert_close(guided, 2 * expected, atol=1e-4, rtol=1e-4)


def test_one_window_is_the_plain_run():
    part = GRID[:, 0, :1]
    plain = run(part, CFG(3.0), 8, 8)
    assert torch.equal(run(part, RepresentationGuided(8) | CFG(3.0), 8, 8), plain)
    assert torch.equal(run(part[:, :, None], RepresentationGuided(8) | CFG(3.0), 8, 8), plain)


def test_without_a_grid_it_is_multidiffusion():
    text = GRID[:, 0, :1]
    assert torch.equal(run(text, RepresentationGuided(8)), run(text, MultiDiffusion(8, 0.25, Flat())))


def test_grids_have_the_size_of_the_picture():
    with pytest.raises(BadInput, match="2x3 embeddings for a picture of 2x2"):
        run(GRID, RepresentationGuided(8), 16, 16)
    with pytest.raises(BadInput, match="stride=0"):
        RepresentationGuided(stride=0.0)


def test_a_prior_takes_and_draws_grids_of_length_one():
    torch.manual_seed(0)
    prior = GridPrior.untrained((4, 2, 3), classes=2, width=16, depth=1)
    batch = prior.batch(5 * GRID, torch.tensor([0, 1]), torch.arange(2))
    torch.testing.assert_close(batch.data[1, :, 0, 2], 2 * GRID[1, 0, 2])
    assert batch.cond.alt["null"]["label"].tolist() == [2, 2]
    drawn = prior.draw(torch.tensor([1, 0]), steps=2, guidance=2.0)
    assert drawn.shape == GRID.shape and torch.equal(drawn, prior.draw(torch.tensor([1, 0]), steps=2, guidance=2.0))
    torch.testing.assert_close(drawn.norm(dim=-1), torch.ones(2, 2, 3))
    with pytest.raises(BadInput, match="grids"):
        prior.batch(GRID[:, :1], torch.tensor([0, 1]), torch.arange(2))


def test_variants_teach_what_they_show():
    """Labels are signs; a classifier knows only the values that it has seen."""
    pictures = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)
    labels = torch.tensor([0, 1])
    test = torch.tensor([-2.0, -1.0, 1.0, 2.0]).view(4, 1, 1, 1)

    def learn(known, names):
        table = dict(zip(known.flatten().tolist(), names.tolist(), strict=True))
        return lambda images: torch.tensor([table.get(v, -1) for v in images.flatten().tolist()])

    report = augmentation_report(
        pictures, labels, (test, torch.tensor([0, 0, 1, 1])), lambda p, k: (k + 2) * p, learn, 1
    )
    assert (report.real.mean, report.augmented.mean, report.gain.mean) == (0.5, 1.0, 0.5)
    with pytest.raises(BadInput, match="variants=0"):
        augmentation_report(pictures, labels, (test, labels), lambda p, k: p, learn, 0)
