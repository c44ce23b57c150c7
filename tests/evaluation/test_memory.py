"""The meter of memory, on work whose tensors are known."""

from __future__ import annotations

import torch

from suffuse.evaluation.memory import peak_memory

MB = 2**20


def test_what_lives_at_once_counts():
    x = torch.zeros(MB // 4)  # 1 MB that was there before

    def two_then_one():
        y = x + 1
        z = y * 2
        del y
        return z.add_(1).view(2, -1)

    assert peak_memory(two_then_one) == 2 * MB
    assert peak_memory(lambda: [x + k for k in range(5)]) == 5 * MB
    assert peak_memory(lambda: sum((x + k).sum() for k in range(5))) < 1.1 * MB
    assert peak_memory(lambda: x.view(2, -1)[0]) == 0
    assert peak_memory(lambda: x.mul_(1)) == 0


def test_freed_inside_a_longer_chain():
    x = torch.ones(MB // 4)

    def chain():
        h = x
        for _ in range(10):
            h = h * 2
        return h

    assert peak_memory(chain) == 2 * MB
