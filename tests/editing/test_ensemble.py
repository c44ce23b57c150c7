"""Ensembles of edits: every combination once, the best for each picture."""

from __future__ import annotations

import pytest
import torch

from suffuse import load
from suffuse.core.errors import BadInput
from suffuse.editing import CycleDiffusion, SDEdit, edit, edit_ensemble
from suffuse.samplers import DDIM

PROMPTS = ["a red circle", "a blue square"], ["a green circle", "a red square"]


def brightness(before, after, sources, targets):
    assert len(sources) == len(targets) == len(before)
    return after.mean((1, 2, 3)) * torch.tensor([1.0, -1.0])


def test_the_best_of_all_combinations():
    model, image = load("shapes"), torch.linspace(-1, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64)
    inversions = CycleDiffusion(strength=0.5), SDEdit(0.5)
    found = edit_ensemble(
        model, image, *PROMPTS, rank=brightness, inversions=inversions, scales=(1.0, 3.0), seeds=(4,), steps=2
    )
    assert len(found.members) == 4 and found.pixels.shape == (4, 2, 3, 64, 64) and found.scores.shape == (4, 2)
    assert all(
        found.scores[found.members.index(found.chosen(row)), row] == found.scores[:, row].max() for row in (0, 1)
    )
    best = found.chosen(1)
    how = dict(inversion=best.inversion, guidance=best.guidance, seed=best.seed, editor=(), sampler=DDIM(eta=0.1))
    again = edit(model, image, *PROMPTS, steps=2, **how)
    assert again.images[1].tobytes() == found.images[1].tobytes()


def test_nothing_to_try():
    with pytest.raises(BadInput, match="one of them is empty"):
        edit_ensemble(load("shapes"), torch.zeros(1, 3, 64, 64), "a", "b", rank=brightness, seeds=())
