"""What claims on scikit-learn's digits share: pictures, features of a classifier, distances in them."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from suffuse.evaluation.frechet import frechet
from suffuse.evaluation.moments import Moments
from suffuse.zoo.recipes.digits import CLASSES, data

N = 2000
"""Pictures that a Frechet distance is measured with."""


@lru_cache(maxsize=1)
def classifier(steps: int = 400) -> nn.Sequential:
    """A small classifier of all the digits, trained here in seconds; its last hidden layer has 48 units."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.SiLU(),
            nn.Flatten(), nn.Linear(512, 48), nn.SiLU(), nn.Linear(48, CLASSES),
        )  # fmt: skip
        optimiser = torch.optim.AdamW(net.parameters(), 2e-3)
        pictures, labels = data()
        for rows in torch.randint(len(pictures), (steps, 128)):
            loss = nn.functional.cross_entropy(net(pictures[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return net.eval().requires_grad_(False)


def accuracy() -> float:
    """Share of the digits that the classifier knows."""
    pictures, labels = data()
    return (classifier()(pictures).argmax(1) == labels).double().mean().item()


def moments(pictures: Tensor) -> Moments:
    """Of the classifier's last hidden layer, of pictures (n, 1, 8, 8) in [-1, 1]."""
    return Moments.of(classifier()[:-1](pictures.float().clamp(-1, 1)))


def distance(pictures: Tensor) -> float:
    """Frechet distance to all the digits."""
    return frechet(moments(pictures), moments(data()[0]))
