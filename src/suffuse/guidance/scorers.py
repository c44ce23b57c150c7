"""What gradient guidance may ask of an external network: the probability of a class, of a map, of a segmentation.

A reader is that network as a function of states and times; a scorer compares what it reads with what is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.codec import Codec
from ..core.cond import Cond
from ..core.errors import BadInput
from ..core.value import Coef
from .gradient import LogLikelihood, wanted


class Reader(Protocol):
    """An external network that is told the time, such as `ADMClassifier` or `Experts`."""

    def __call__(self, x: Tensor, t: Coef) -> Tensor:
        """What it reads off states (B, ...) at times t."""


class Preprocess(nn.Module):
    """What a network does to pictures in [-1, 1] first: resizing, and the mean and deviation of its training data.

    Differentiable, so that gradients pass it: `Clean(nn.Sequential(Preprocess(224, mean, std), net))`.

    Args:
        size: side of the resized square; None leaves it.
        mean, std: of each channel, of pictures in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size: int | None = None, mean: Sequence[float] = (0.5,), std: Sequence[float] = (0.5,)):
        super().__init__()
        self.size = size
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(tuple(value)).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (B, C, H, W) as the network knows them."""
        x = ((x + 1.0) / 2.0 - self.mean) / self.std
        if self.size is None:
            return x
        return F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)


@dataclass(frozen=True)
class Clean:
    """A network that knows clean pictures only, as a reader: it is not told the time.

    Args:
        net: called with pictures (B, C, H, W) in [-1, 1].
    """

    net: nn.Module

    def __call__(self, x: Tensor, t: Coef) -> Tensor:
        return self.net(x)


@dataclass(frozen=True)
class ClassScore:
    """log softmax(reader(x, t))[y] for a class y.

    Args:
        reader: (B, K) logits.
        target: y, the same for all; None takes "label" (B,) of the condition's alternative "target", or its own. Labels
            of K and above, such as a null class, ask for nothing.
    """

    reader: Reader
    target: int | None = None

    def __call__(self, x: Tensor, t: Coef, cond: Cond) -> Tensor:
        log_p = self.reader(x, t).float().log_softmax(1)
        classes = log_p.shape[1]
        if self.target is not None and not 0 <= self.target < classes:
            raise BadInput(f"target={self.target}: the classifier knows classes 0 to {classes - 1}; give one of them")
        y = _entry(cond, "label") if self.target is None else torch.full((len(x),), self.target, device=x.device)
        known = y < classes
        chosen = log_p.gather(1, torch.where(known, y, 0)[:, None])[:, 0]
        return torch.where(known, chosen, 0.0 * chosen)


@dataclass(frozen=True)
class MapScore:
    """-|reader(x, t) - y|^2 / (2 std^2), averaged over entries, for a map y, such as depth.

    Args:
        reader: a map for each picture.
        std: how far, in units of the map, an entry may be off.

    y is "map" of the condition's alternative "target", of the shape that the reader returns.
    """

    reader: Reader
    std: float = 1.0

    def __call__(self, x: Tensor, t: Coef, cond: Cond) -> Tensor:
        found, y = self.reader(x, t).float(), _entry(cond, "map")
        if found.shape != y.shape:
            shapes = f"{tuple(y.shape)} and the reader's {tuple(found.shape)}"
            raise BadInput(f"cond.alt['target']['map'] has shape {shapes}; they must agree")
        return -((found - y) ** 2).flatten(1).mean(1) / (2.0 * self.std**2)


@dataclass(frozen=True)
class MaskScore:
    """log softmax(reader(x, t))[y], averaged over pixels, for a segmentation y.

    Args:
        reader: (B, K, H, W) logits.

    y is "mask" (B, H, W) of the condition's alternative "target", integers; pixels below 0 ask for nothing.
    """

    reader: Reader

    def __call__(self, x: Tensor, t: Coef, cond: Cond) -> Tensor:
        logits, y = self.reader(x, t).float(), _entry(cond, "mask").long()
        return -F.cross_entropy(logits, y.clamp(min=-1), ignore_index=-1, reduction="none").flatten(1).mean(1)


@dataclass(frozen=True)
class Decoded:
    """A scorer of pictures on latent states: they are decoded first, with the gradient through the decoder.

    For predicted clean latents, `GradientGuidance(Decoded(model.codec, scorer), look_ahead=True)`.

    Args:
        codec: of the model.
        scorer: of pictures.
    """

    codec: Codec
    scorer: LogLikelihood

    def __call__(self, x: Tensor, t: Coef, cond: Cond) -> Tensor:
        return self.scorer(self.codec.decode(x), t, cond)


def _entry(cond: Cond, name: str) -> Any:
    """What is wanted, by name."""
    found = wanted(cond)
    if name not in found:
        raise BadInput(
            f"cond.alt['target'] has no {name!r}; say what to aim at by cond.with_alt(target=Cond({{{name!r}: ...}}))"
        )
    return found[name]
