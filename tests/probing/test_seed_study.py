"""Studies of seeds on pictures whose seeds are known to matter."""

from __future__ import annotations

import pytest
import torch

from suffuse.core.errors import BadInput
from suffuse.probing import SeedStudy

P, S = 12, 4


def study():
    """Seed s puts a spot in corner s; the prompt gives the colour; seed 2 scores best."""
    torch.manual_seed(0)
    pixels = torch.zeros(P, S, 3, 32, 32) + 0.05 * torch.randn(P, S, 3, 32, 32)
    for s, (y, x) in enumerate(((4, 4), (4, 20), (20, 4), (20, 20))):
        pixels[:, s, :, y : y + 8, x : x + 8] += torch.rand(P, 3, 1, 1)
    scores = torch.tensor([0.1, 0.2, 0.9, 0.3]).expand(P, S) + torch.linspace(0, 0.1, P)[:, None]
    return SeedStudy(pixels.clamp(-1, 1), {"good": scores}, (10, 11, 12, 13))


def test_seeds_are_ranked_and_recognised():
    found = study()
    assert found.ranked("good") == (12, 13, 11, 10)
    assert bool(found.recognised(range(8), range(8, 12)).all())
    assert found.of_prompts([0, 1]).ranked("good") == (12, 13, 11, 10)


def test_variance_is_split_exactly():
    shares = study().shares("good")
    scores = study().scores["good"].double()
    assert shares.seed == pytest.approx(float(scores.mean(0).var(unbiased=False) / scores.var(unbiased=False)))
    assert shares.seed + shares.prompt == pytest.approx(1.0) and abs(shares.rest) < 1e-9  # scores add up here


def test_dimensions_see_where_things_are():
    places = study().dimensions()
    assert places["x"].mean(0).argsort().tolist()[2:] in ([1, 3], [3, 1])
    assert places["y"].mean(0).argsort().tolist()[2:] in ([2, 3], [3, 2])
    assert bool((places["grayness"] <= 1.0).all())


def test_clusters_give_one_seed_each():
    assert sorted(study().diverse("good", 4)) == [10, 11, 12, 13]
    assert study().diverse("good", 1) == (12,)


def test_what_does_not_fit_is_named():
    with pytest.raises(BadInput, match="good"):
        SeedStudy(torch.zeros(2, 3, 3, 8, 8), {"good": torch.zeros(2, 2)})
