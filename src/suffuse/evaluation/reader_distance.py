"""RFD: distance of two pictures in the features of the bundled reader, where LPIPS has no weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from suffuse.core.registry import method

from .features import load_reader
from .scores import PairDistance


@method(tags=("metric",))
@dataclass(frozen=True)
class ReaderDistance(PairDistance):
    """sum_l mean_hw | y_l - y0_l |^2 over the layers of the reader's trunk, y_l features of unit length over channels.

    LPIPS with all weights 1, in a network that knows the small world and nothing else: figures are comparable among
    pictures of that world only.

    Args:
        folder: of a saved reader; None is the bundled one.

    Reference: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, 1801.03924.
    """

    folder: str | None = None

    @property
    def name(self) -> str:
        return "reader-feature distance"

    @property
    def protocol(self) -> str:
        return f"all layers of reader {load_reader(self.folder)[1]}'s trunk, at the pictures' own size"

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        reader, _ = load_reader(self.folder)
        x, y, total = first, second, first.new_zeros(len(first))
        for layer in reader.eval().requires_grad_(False).trunk:
            x, y = layer(x), layer(y)
            total = total + (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(1).mean((1, 2))
        return total
