"""Statistics of the set that pictures are compared with: measured once, kept in a file, refused where they misfit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from suffuse.core.errors import BadInput, Damaged, Refused
from suffuse.core.files import atomic_write

from .features import Features
from .moments import Moments


@dataclass(frozen=True, eq=False)
class Reference:
    """Features of a reference set.

    Args:
        features: name of the feature function.
        moments: their count, mean and covariance, all that a Frechet distance needs.
        rows: (n, d) the features themselves, for kernel distance, precision and recall; None where not kept.
    """

    features: str
    moments: Moments
    rows: Tensor | None = None

    @staticmethod
    def of(features: Features, images: Tensor | Iterable[Tensor], *, keep: bool = True, batch: int = 64) -> Reference:
        """Measure reference images (B, 3, H, W) in [-1, 1], or batches of them.

        Args:
            features: the feature function.
            images: the pictures.
            keep: keep the features of every picture, d numbers each.
            batch: pictures in one call of the network.
        """
        stream = images.split(batch) if isinstance(images, Tensor) else images
        moments, rows = Moments(), []
        for part in stream:
            found = features(part).float().cpu()
            moments = moments.merge(Moments.of(found))
            if keep:
                rows.append(found)
        if moments.n < 2:
            raise BadInput(f"images: {moments.n} reference pictures; give two or more")
        return Reference(features.name, moments, torch.cat(rows) if keep else None)

    def require(self, features: Features) -> None:
        """Refuse to compare with features of another network, other weights or another resize."""
        if features.name != self.features:
            raise Refused(f"reference: measured in {self.features}, not in {features.name}; measure it again in these")

    def every(self, what: str) -> Tensor:
        """The features of every picture; refused where they were not kept."""
        if self.rows is None:
            raise Refused(f"reference: keeps moments only and {what} needs every picture; make it with keep=True")
        return self.rows

    def against(self, n: int) -> str:
        """Start of the protocol of a comparison with n pictures."""
        return f"{n} pictures against {self.moments.n} of reference {self.digest}, in {self.features}"

    @property
    def digest(self) -> str:
        """Start of the SHA-256 of all its numbers and its features' name: what a protocol names it by."""
        return _digest(self.features, self._tensors())[:8]

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {"n": torch.tensor(self.moments.n), "mean": self.moments.mean, "scatter": self.moments.scatter}
        return tensors if self.rows is None else {**tensors, "rows": self.rows}

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file whose metadata holds the features' name and a hash of the content."""
        tensors = {k: v.contiguous() for k, v in self._tensors().items()}
        return atomic_write(path, save(tensors, {"features": self.features, "sha256": _digest(self.features, tensors)}))

    @staticmethod
    def load(path: str | Path) -> Reference:
        """Read a saved reference.

        Raises:
            Damaged: the file is missing, is no reference, or was altered.
        """
        try:
            with safe_open(path, "pt") as file:
                said = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            name, digest = said["features"], said["sha256"]
            moments = Moments(int(tensors["n"]), tensors["mean"], tensors["scatter"])
        except (OSError, KeyError, SafetensorError) as error:
            raise Damaged(f"reference {path}: {error}; measure it again with Reference.of") from error
        if _digest(name, tensors) != digest:
            raise Damaged(f"reference {path}: its content does not match its hash; measure it again with Reference.of")
        return Reference(name, moments, tensors.get("rows"))


def _digest(name: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(name.encode())
    for key, tensor in sorted(tensors.items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
