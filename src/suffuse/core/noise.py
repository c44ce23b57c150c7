"""Noise as a function of (seed, sample, key) instead of a stream.

Any draw can be repeated, skipped or looked at ahead of time, and image i of a batch gets the noise that it would get
alone. `samples` are the identities of the rows, `key` names the use of the draw ("start", "step/7", ...).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .value import Tree, Value


class Noise(ABC):
    """A source of random numbers; batch size and order of calls do not change what a row receives."""

    @abstractmethod
    def draw(self, kind: str, like: Tensor, samples: Sequence[int], key: str) -> Tensor:
        """Noise of one kind ("normal", "uniform") shaped like the tensor `like`."""

    def _of(self, kind: str, like: Value, samples: Sequence[int], key: str) -> Value:
        if isinstance(like, Tree):
            return Tree({k: self._of(kind, v, samples, f"{key}/{k}") for k, v in like.parts.items()})
        return self.draw(kind, like, samples, key)

    def normal(self, like: Value, samples: Sequence[int], key: str) -> Value:
        """Standard normal, shaped like `like` (B, ...), in its dtype and on its device."""
        return self._of("normal", like, samples, key)

    def uniform(self, like: Value, samples: Sequence[int], key: str) -> Value:
        """Uniform in [0, 1), shaped like `like`."""
        return self._of("uniform", like, samples, key)

    def gumbel(self, like: Value, samples: Sequence[int], key: str) -> Value:
        """Standard Gumbel, -log(-log u); its argmax with logits is a draw of the categorical law."""
        u = torch.clamp(self.uniform(like, samples, key), 1e-20)
        return -torch.log(torch.clamp(-torch.log(u), 1e-20))

    def fold(self, k: int | str) -> Noise:
        """Independent noise for the k-th repetition of the same step."""
        return Folded(self, str(k))

    def origin(self, sample: int) -> tuple[int, int] | None:
        """(seed, sample) by which `Keyed` draws the same for this sample; None where no seed does."""
        return None


@dataclass(frozen=True)
class Folded(Noise):
    """`inner` under a longer key."""

    inner: Noise
    suffix: str

    def draw(self, kind: str, like: Tensor, samples: Sequence[int], key: str) -> Tensor:
        return self.inner.draw(kind, like, samples, f"{key}#{self.suffix}")


@dataclass(frozen=True)
class Keyed(Noise):
    """The default: Philox counters keyed by BLAKE2b(seed, sample, key), the same on every machine and device.

    Args:
        seed: any integer.
    """

    seed: int = 0

    def origin(self, sample: int) -> tuple[int, int]:
        return self.seed, sample

    def draw(self, kind: str, like: Tensor, samples: Sequence[int], key: str) -> Tensor:
        shape = tuple(like.shape[1:])
        out = np.empty((len(samples), *shape), dtype=np.float64 if like.dtype == torch.float64 else np.float32)
        for row, sample in enumerate(samples):
            digest = hashlib.blake2b(f"{self.seed}/{int(sample)}/{key}".encode(), digest_size=16).digest()
            generator = np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64)))
            if kind == "normal":
                out[row] = generator.standard_normal(shape, dtype=out.dtype.type)
            else:
                out[row] = generator.random(shape, dtype=out.dtype.type)
        return torch.from_numpy(out).to(like.device, like.dtype)


@dataclass(frozen=True)
class Recorded(Noise):
    """Noise read from a table {key: (B, ...)}; keys that it lacks come from `otherwise`.

    Decoding with the noise that an encoder wrote, and log-probabilities of recorded steps, are this.
    """

    table: Mapping[str, Tensor]
    samples: Sequence[int]
    otherwise: Noise | None = None

    def draw(self, kind: str, like: Tensor, samples: Sequence[int], key: str) -> Tensor:
        if key not in self.table:
            if self.otherwise is None:
                raise KeyError(f"no noise was recorded under {key!r}; recorded: {', '.join(self.table)}")
            return self.otherwise.draw(kind, like, samples, key)
        rows = [list(self.samples).index(int(s)) for s in samples]
        return self.table[key][rows].to(like.device, like.dtype)


@dataclass(frozen=True)
class Shifted(Noise):
    """`inner` after a function of the drawn tensor and its key; moved means, other laws, correlated noise."""

    inner: Noise
    function: Callable[[Tensor, str], Tensor]

    def draw(self, kind: str, like: Tensor, samples: Sequence[int], key: str) -> Tensor:
        return self.function(self.inner.draw(kind, like, samples, key), key)


@dataclass(frozen=True)
class Stream(Noise):
    """A torch.Generator read in the order of the calls, as diffusers' pipelines do; for parity with them.

    It cannot look ahead, repeat a step or match another batch split; use `Keyed` for everything else.
    """

    generator: torch.Generator

    def draw(self, kind: str, like: Tensor, samples: Sequence[int], key: str) -> Tensor:
        make = torch.randn if kind == "normal" else torch.rand
        return make(like.shape, generator=self.generator, device=self.generator.device, dtype=like.dtype).to(
            like.device
        )

    def fold(self, k: int | str) -> Noise:
        return self


@dataclass(frozen=True)
class PerSample(Noise):
    """A source of noise for each sample, which draws as the first of that source alone.

    Args:
        sources: sample -> its source, such as `Keyed(seed)`, or a `Stream` as diffusers takes a list of generators.
    """

    sources: Mapping[int, Noise]

    def draw(self, kind: str, like: Tensor, samples: Sequence[int], key: str) -> Tensor:
        rows = [self.sources[int(k)].draw(kind, like[i : i + 1], [0], key) for i, k in enumerate(samples)]
        return torch.cat(rows)

    def fold(self, k: int | str) -> Noise:
        return PerSample({sample: source.fold(k) for sample, source in self.sources.items()})

    def origin(self, sample: int) -> tuple[int, int] | None:
        return self.sources[sample].origin(0)
