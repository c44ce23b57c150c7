"""Counting work: the arithmetic of a run, in all and by picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from suffuse.core.call import stack


class Operations(FlopCounterMode):
    """Floating-point operations of the matrix products, convolutions and attentions made while it is active.

    Attributes:
        of_sample: identity of a picture -> its operations. A call of the network, or of a part of it that a patch runs
            for some rows alone, counts in equal shares for its rows; what runs outside of it belongs to no picture.

    Example:
        >>> with Operations() as spent:
        ...     images = model.generate("a red circle", n=2, guidance=AdaptiveGuidance())
        >>> spent.total, spent.of_sample[1]
    """

    def __init__(self) -> None:
        super().__init__(display=False)
        # torch knows the formula for other devices alone
        aten, known = torch.ops.aten, self.flop_registry
        known[aten._scaled_dot_product_flash_attention_for_cpu] = known[aten._scaled_dot_product_flash_attention]
        self.of_sample: dict[int, float] = defaultdict(float)

    @property
    def total(self) -> int:
        """Of everything."""
        return self.get_total_flops()

    def _count_flops(self, func_packet: Any, out: Any, args: Any, kwargs: Any) -> Any:
        if func_packet not in self.flop_registry:
            return out
        before = self.total
        super()._count_flops(func_packet, out, args, kwargs)
        rows = stack.frame.rows if stack.frame else stack.context.rows if stack.context else ()
        for _, sample in rows:
            self.of_sample[sample] += (self.total - before) / len(rows)
        return out


def operations(work: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products, convolutions and attentions of one call."""
    with Operations() as counter:
        work()
    return counter.total
