from __future__ import annotations

import torch

from suffuse.training import EMA, Copy


def test_ema_is_its_formula():
    own, of = [torch.zeros(3), torch.tensor(1)], [torch.ones(3), torch.tensor(5)]
    mean = torch.zeros(3, dtype=torch.float64)
    for step in range(200):
        EMA(decay=0.9, warmup=10).update(own, of, step)
        decay = min(0.9, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay)
        assert torch.allclose(own[0].double(), mean, atol=1e-6)
    assert own[1] == 5  # whole numbers are copied


def test_ema_warmup_of_one_is_none():
    own = [torch.zeros(1)]
    EMA(decay=0.99, warmup=1).update(own, [torch.ones(1)], 0)
    assert torch.allclose(own[0], torch.tensor([0.01]))


def test_copy_moves_at_multiples_only():
    own, of = [torch.zeros(1), torch.tensor(0)], [torch.zeros(1), torch.tensor(0)]
    seen = []
    for step in range(7):
        of[0] += 1
        of[1] += 1
        Copy(every=3).update(own, of, step)
        seen.append((own[0].item(), own[1].item()))
    assert seen == [(0, 0), (0, 0), (3, 3), (3, 3), (3, 3), (6, 6), (6, 6)]
