"""A perceptual loss on the predicted clean picture, beside the denoising loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from ..codecs.pixel import Pixels
from ..core.codec import Codec
from ..core.registry import method
from ..evaluation.reader_distance import ReaderDistance
from ..evaluation.scores import PairDistance
from ..training.denoising import Draw, Extra


@method(paper="resshift")
@dataclass(frozen=True, eq=False)
class PerceptualLoss(Extra):
    """d(decode(x0_hat), decode(x0)): the journal version's second loss, with its weight 1.

    Args:
        distance: LPIPS where its weights are at hand; the reader's features, which are bundled, know this project's
            small world only.
        codec: of a latent model; gradients pass through its decoder.
        scale: weight of the loss.

    Example:
        >>> from suffuse.restoration import PerceptualLoss
        >>> from suffuse.training import Denoising
        >>> objective = Denoising(extra=(PerceptualLoss(),))

    Differs from the paper: the target is the decoded clean state, which for pixels is the picture; what a codec
    loses is thus not in the loss.
    """

    distance: PairDistance = ReaderDistance()
    codec: Codec = field(default_factory=Pixels)
    scale: float = 1.0

    name: ClassVar[str] = "perceptual"

    def __call__(self, draw: Draw, parts: nn.ModuleDict) -> Tensor:
        return self.distance.distance(self.codec.decode(draw.pred.x0), self.codec.decode(draw.x0))
