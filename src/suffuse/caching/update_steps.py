"""The steps at which a cache is best updated, found exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.errors import BadInput


def update_steps(similarity: Tensor, count: int) -> frozenset[int]:
    """The `count` steps, the first among them, whose outputs are most like those of the steps that reuse them.

    phi(i, j) = sum_{i<k<j} S[i, k] is what an update at i is worth until the next at j, and
    DP_m(j) = max_{i<j} DP_{m-1}(i) + phi(i, j) the worth of the best m updates before j: O(count n^2).

    Args:
        similarity: (n, n), S[i, k] of the output at step i to the one that it replaces at step k.
        count: of updates, 1 to n.

    Example:
        >>> sorted(update_steps(probe["mid_block"].cosine, 10))
    """
    n = len(similarity)
    if not 1 <= count <= n:
        raise BadInput(f"count={count}: give 1 to {n} updates, as many as there are steps at most")
    totals = torch.cat([torch.zeros(n, 1, dtype=torch.float64), similarity.double().cumsum(1)], 1)  # before column j
    ends = torch.arange(n)
    phi = totals - totals[ends, ends + 1][:, None]  # (n, n + 1), the next update at j
    phi = phi.masked_fill(torch.arange(n + 1) <= ends[:, None], -torch.inf)
    worth, before = phi[0], []
    for _ in range(count - 1):
        worth, best = (worth[:n, None] + phi).max(0)
        before.append(best)
    steps, j = {0}, n
    for best in reversed(before):
        j = int(best[j])
        steps.add(j)
    return frozenset(steps)
