"""Muon: orthogonal steps for matrices, Adam for the rest."""

from __future__ import annotations

import pytest
import torch

from suffuse.training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(2, 16, 16), (2, 16, 40), (1, 12, 200), (1, 200, 12)])
def test_singular_values_come_near_one(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    spread = torch.logspace(0, -1.5, s.shape[1]).expand_as(s)
    found = orthogonal(u @ torch.diag_embed(spread) @ v)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.4 and values.max() < 1.3
    assert torch.nn.functional.cosine_similarity(found.flatten(), (u @ v).flatten(), 0) > 0.95


def test_the_step_has_the_size_of_an_adam_step() -> None:
    p = torch.zeros(64, 32, 3, 3, requires_grad=True)
    optimiser = Muon(lr=0.01).build([p])
    p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    optimiser.step()
    assert 0.1 < p.detach().square().mean().sqrt() / 0.01 < 0.3


def test_it_minimises_a_quadratic() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(16, 16, generator=generator), torch.randn(16, generator=generator)
    params = [torch.zeros_like(part, requires_grad=True) for part in target]
    optimiser = Muon(lr=0.05).build(params)
    for step in range(400):
        optimiser.param_groups[0]["lr"] = 0.05 * (1 - step / 400)
        optimiser.zero_grad()
        sum(((p - q) ** 2).sum() for p, q in zip(params, target, strict=True)).backward()
        optimiser.step()
    assert all((p - q).abs().max() < 0.05 for p, q in zip(params, target, strict=True))
