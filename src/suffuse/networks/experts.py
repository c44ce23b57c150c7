"""Experts by time: one frozen network and, for each range of times, a small trained change of it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..adapters.biases import Biases
from ..adapters.direct import Norms
from ..adapters.lora import LoRA
from ..backbones.encoder import Encoder
from ..core.errors import BadInput, Damaged, Refused
from ..core.files import atomic_write
from ..core.fingerprint import fingerprint
from ..core.patch import Patch
from ..core.value import Coef


class Experts(nn.Module):
    """Expert n of N reads states at times n / N <= t < (n + 1) / N: the network with a LoRA, and with changed biases
    and norms. Stored are the network once and N changes. A `Reader`.

    Reference: Go et al., Towards Practical Plug-and-Play Diffusion Models, 2212.05973.

    Args:
        net: any network of pictures (B, C, H, W) in [-1, 1] that returns one tensor; what it does to them first
            (`Preprocess`) belongs to it. It is frozen, and stays in evaluation mode.
        count: N.
        rank, alpha: of the LoRA in every linear layer and convolution.

    Differs from the paper: batch norms keep the statistics of clean pictures; their scales and shifts are learned.
    """

    def __init__(self, net: nn.Module, count: int = 5, rank: int = 16, alpha: float = 8.0):
        super().__init__()
        if count < 1:
            raise BadInput(f"count={count}: give the number of experts, at least 1; the paper has 5")
        self.net = net.eval().requires_grad_(False)
        self.count, self.rank, self.alpha = count, rank, alpha
        plain = Encoder(net)
        patches = _patches(plain, rank, alpha)
        self.changes = nn.ModuleList([nn.ModuleList([p.on(plain) for p in patches]) for _ in range(count)])
        # not registered: views share what is registered above
        self._views = tuple(plain.with_(*adapters) for adapters in self.changes)  # type: ignore[misc]

    def train(self, mode: bool = True) -> Experts:
        super().train(mode)
        self.net.eval()
        return self

    def forward(self, x: Tensor, t: Coef | Tensor | float) -> Tensor:
        """What the experts of these times read off states (B, C, H, W)."""
        chosen = (Coef(t).tensor(len(x)).reshape(len(x), -1)[:, 0] * self.count).long().clamp(0, self.count - 1)
        used = chosen.unique().tolist()
        if len(used) == 1:
            return self._views[used[0]](x)
        rows = [(chosen == n).nonzero()[:, 0].to(x.device) for n in used]
        return torch.cat([self._views[n](x[r]) for n, r in zip(used, rows, strict=True)])[torch.cat(rows).argsort()]

    def clean(self, x: Tensor) -> Tensor:
        """What the unchanged network, the teacher, reads off clean pictures."""
        return self.net(x)

    def share(self) -> float:
        """Trained numbers of one expert, in units of those of the network."""
        return _size(self.changes[0]) / _size(self.net)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the changes, without the network, to a .safetensors file."""
        about = {"count": self.count, "rank": self.rank, "alpha": self.alpha, "net": fingerprint(self.net)}
        return atomic_write(path, save(self.changes.state_dict(), {"experts": json.dumps(about)}))

    @classmethod
    def load(cls, path: str | os.PathLike[str], net: nn.Module) -> Experts:
        """Read what `save` wrote, for the same network.

        Raises:
            BadInput: there is no such file. Damaged: it holds no experts, or is not whole. Refused: those of another
                network.
        """
        if not Path(path).is_file():
            raise BadInput(f"path: there is no file {path}; give one that Experts.save wrote")
        try:
            with safe_open(path, "pt") as file:
                about = json.loads((file.metadata() or {})["experts"])
                weights = {name: file.get_tensor(name) for name in file.keys()}
            if about["net"] != fingerprint(net):
                raise Refused(f"{path}: experts of the network {about['net']}, not of this one; give theirs")
            experts = cls(net, about["count"], about["rank"], about["alpha"])
            experts.changes.load_state_dict(weights)
        except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise Damaged(f"{path}: holds no experts ({error}); copy it again") from error
        return experts.eval().requires_grad_(False)


def _patches(net: Encoder, rank: int, alpha: float) -> Sequence[Patch]:
    """What an expert changes of this network; biases and norms where it has them."""
    found: list[Patch] = [LoRA(rank, alpha, where="full")]
    for patch in (Biases(), Norms()):
        try:
            patch.sites(net.sites)
        except Refused:
            continue
        found.append(patch)
    return found


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
