"""Metrics that give every picture a score: the figure is the mean, with the bootstrap's interval over pictures."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from suffuse.core.metric import Estimate, Metric

from . import statistics
from .pictures import Pictures

Scores = tuple[Tensor, ...]


class Scored(Metric):
    """Mean of a score of single pictures. Its state is the scores, so one picture more is one number more."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the figure."""

    @property
    @abstractmethod
    def protocol(self) -> str:
        """How it is measured."""

    @abstractmethod
    def score(self, pictures: Pictures) -> Tensor:
        """(B,) float64."""

    def init(self) -> Scores:
        return ()

    def measure(self, batch: Pictures) -> Scores:
        return (self.score(batch).detach().double().cpu(),)

    def merge(self, first: Scores, second: Scores) -> Scores:
        return first + second

    def result(self, state: Scores) -> Mapping[str, Estimate]:
        values = torch.cat(state).numpy() if state else ()
        return {self.name: statistics.mean(values).under(f"{self.protocol}; mean and bootstrap over pictures")}


class PairDistance(Scored):
    """A score that is a distance of each picture to its reference, and differentiable: a training loss as well."""

    @abstractmethod
    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        """(B,) of pictures (B, 3, H, W) in [-1, 1]."""

    def score(self, pictures: Pictures) -> Tensor:
        pictures.pairs(self.name)
        assert pictures.references is not None
        with torch.no_grad():
            return self.distance(pictures.images.float(), pictures.references.float())
