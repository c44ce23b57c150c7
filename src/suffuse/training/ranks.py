"""One training run over several processes: each takes its slice of the batch, gradients are averaged."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from ..core.errors import BadInput
from ..core.training import Batch


class Ranks:
    """Process k of n.

    Where torch.distributed is initialised the processes train one model; where it is not, each trains its own on its
    share of the data.
    """

    def __init__(self, shard: tuple[int, int]):
        self.k, self.n = shard
        if not 0 <= self.k < self.n:
            raise BadInput(f"shard={shard} is not (k, n) with 0 <= k < n; process 0 of 2 is (0, 2)")
        self.joined = self.n > 1 and dist.is_available() and dist.is_initialized()
        if self.joined and (dist.get_rank(), dist.get_world_size()) != shard:
            here = (dist.get_rank(), dist.get_world_size())
            raise BadInput(f"shard={shard} does not match torch.distributed, where this is {here}; use shard={here}")

    @property
    def writes(self) -> bool:
        """Whether this process writes the checkpoints."""
        return self.k == 0 or not self.joined

    def own(self, batch: Batch) -> Batch:
        """This process's rows of the global batch."""
        if self.n == 1:
            return batch
        size, rest = divmod(len(batch), self.n)
        if rest or not size:
            raise BadInput(f"shard=(k, {self.n}) cannot share a batch of {len(batch)}; use a multiple of {self.n}")
        return batch[self.k * size : (self.k + 1) * size]

    def wait(self) -> None:
        """Until every process is here, so that what process 0 wrote before is on disk."""
        if self.joined:
            dist.barrier()

    def agree(self, step: int, tensors: Sequence[Tensor]) -> None:
        """Give every process the tensors of process 0; all must stand at the same step."""
        if not self.joined:
            return
        first = torch.tensor(step)
        dist.broadcast(first, 0)
        if self.any(first.item() != step):
            raise BadInput(
                f"folder: process {self.k} is at step {step}, process 0 at {first}; all must read one folder"
            )
        for tensor in tensors:
            dist.broadcast(tensor.detach(), 0)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; the same answer in all."""
        if not self.joined:
            return flag
        raised = torch.tensor(float(flag))
        dist.all_reduce(raised)
        return raised.item() > 0

    def average(self, params: Sequence[Tensor], values: Tensor) -> Tensor:
        """Average the gradients of `params` in place, and `values` (n,), over the processes, in one exchange.

        A parameter without a gradient in some processes counts as zero there; without one in all of them it keeps none.
        """
        if not self.joined:
            return values
        seen = torch.tensor([p.grad is not None for p in params], dtype=torch.float32, device=values.device)
        grads = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten().float() for p in params]
        flat = torch.cat([values.float(), seen, *grads])
        dist.all_reduce(flat)
        flat /= self.n
        values, seen, flat = flat.split([len(values), len(params), flat.numel() - len(values) - len(params)])
        for p, present, grad in zip(params, seen.tolist(), flat.split([p.numel() for p in params]), strict=True):
            p.grad = grad.view_as(p).to(p.dtype) if present else None
        return values
