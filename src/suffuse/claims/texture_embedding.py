"""An embedding of textures that is learnt from pictures alone: crops of one place are alike, all others are not."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suffuse.evaluation.features import Features

STEPS, PAIRS, RATE, TEMPERATURE = 800, 256, 2e-3, 0.2
SHIFT, COLOUR, CONTRAST, NOISE = 8, 0.8, 0.8, 0.05
"""Pixels between two crops at most, and how much their colours, contrast and pixels differ: colours and contrast as
strongly as in SimCLR, but each channel shifted by itself, as scaling alone keeps the sign of a colour."""


@dataclass(frozen=True, eq=False)
class Contrasted(Features):
    """Features of a small convolutional network, trained with the loss of SimCLR:

        -log( exp(cos(a_i, b_i) / tau) / sum_j exp(cos(a_i, b_j) / tau) ),  a_i and b_i two crops of picture i.

    Reference: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, 2002.05709.
    """

    net: nn.Module

    @staticmethod
    def learnt(pictures: Tensor, side: int, width: int, seed: int) -> Contrasted:
        """From crops of this side of pictures (N, 3, H, W), without labels; `width` numbers."""
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = nn.Sequential(
                nn.Conv2d(3, 32, 5, 2, 2), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(),
                nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, width),
            )  # fmt: skip
            head = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 64))
        optimiser = torch.optim.Adam([*net.parameters(), *head.parameters()], RATE)
        for _ in range(STEPS):
            views = two_crops(pictures, side, PAIRS, generator)
            a, b = (F.normalize(head(net(v)), dim=1) for v in views)
            near = a @ b.mT / TEMPERATURE
            same = torch.arange(PAIRS)
            loss = F.cross_entropy(near, same) + F.cross_entropy(near.mT, same)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return Contrasted(net.eval().requires_grad_(False))

    @property
    def name(self) -> str:
        digest = hashlib.sha256(b"".join(p.numpy().tobytes() for p in self.net.parameters())).hexdigest()[:8]
        return f"contrastive network {digest}"

    def __call__(self, images: Tensor) -> Tensor:
        return torch.cat([self.net(part) for part in images.split(1024)])


def two_crops(pictures: Tensor, side: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(n, 3, side, side) twice: of n places, near each other, in other colours."""
    height, width = pictures.shape[-2:]

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    rows = torch.randint(len(pictures), (n,), generator=generator)
    place, views = draw(n, 2), []
    room = torch.tensor([height - side, width - side])
    for _ in range(2):
        corner = (place * room + SHIFT * (2 * draw(n, 2) - 1)).round().long()
        corner = torch.minimum(corner.clamp(min=0), room)
        inside = torch.arange(side)
        y, x = corner[:, :1] + inside, corner[:, 1:] + inside
        crop = pictures.permute(0, 2, 3, 1)[rows[:, None, None], y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)
        crop = crop * (1 + CONTRAST * (2 * draw(n, 1, 1, 1) - 1)) + COLOUR * (2 * draw(n, 3, 1, 1) - 1)
        views.append(crop + NOISE * torch.randn(crop.shape, generator=generator))
    return views[0], views[1]
