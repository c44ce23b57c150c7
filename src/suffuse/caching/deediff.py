"""DeeDiff: each sample leaves the network at the first layer that is sure enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from diffusers.models.embeddings import Timesteps
from torch import Tensor, nn

from ..core.call import Call
from ..core.denoiser import Denoiser
from ..core.engine import State, sample
from ..core.errors import BadInput, Refused
from ..core.memory import rows_of
from ..core.noise import Noise
from ..core.patch import Adapter, Patch
from ..core.registry import method
from ..core.site import Site, Sites
from ..core.tokens import to_patches
from ..core.training import Batch, Loss, Objective, Roles
from ..core.value import Coef, combine
from ..training.denoising import Denoising, Draw, Extra
from .skipping import passed

TIMES = 64
"""Width of the embedding of time that an uncertainty is told."""


class ExitHead(nn.Module):
    """What one layer knows: an output g of every token, and u in (0, 1), how far off it takes itself to be.

    Args:
        width: of a token.
        out: of the network's output of one token.
    """

    def __init__(self, width: int, out: int):
        super().__init__()
        self.norm, self.output = nn.LayerNorm(width), nn.Linear(width, out)
        self.times = Timesteps(TIMES, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.doubt = nn.Linear(width + TIMES, 1)

    def forward(self, h: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(B, tokens, out) and (B, tokens), of tokens (B, tokens, width) at times (B,) in [0, 1]."""
        told = self.times(1000.0 * t)[:, None].to(h).expand(-1, h.shape[1], -1)
        return self.output(self.norm(h)), torch.sigmoid(self.doubt(torch.cat([h, told], 2)))[..., 0]


@method(paper="deediff", tags=("saves depth",))
@dataclass(frozen=True)
class DeeDiff(Patch):
    """A row leaves at the first layer i with mean u_i <= theta, and g_i is what the network says of it.

    u_i = sigmoid(w_t [L_i, temb] + b_t), one for each token, is learnt to be tanh|g_i(L_i) - target|: see `EarlyExit`.
    What is behind that layer is not computed for the row; long skips of a U-ViT are not asked for then. The last layer
    has no head of its own, for it is the network's own exit. `DeeDiff().on(denoiser)` makes the heads.

    Args:
        threshold: theta, 0 to 1, times the adapter's scale; at 0 no row leaves. `calibrated` finds the one for a share
            of the layers.

    Raises:
        BadInput: a threshold out of range. Refused: a network that is no row of transformer layers.

    Example:
        >>> exits = DeeDiff().on(denoiser)  # trained with EarlyExit
        >>> fast = calibrated(denoiser, exits, (64, 1, 8, 8), 0.6, sampler=DDIM(), steps=25)
        >>> sample(denoiser, (4, 1, 8, 8), sampler=DDIM(), steps=25, patches=[fast])

    Reference: Tang et al., DeeDiff: Dynamic Uncertainty-Aware Early Exiting for Accelerating Diffusion Model
    Generation, 2309.17074.
    """

    threshold: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold <= 1.0:
            raise BadInput(f"DeeDiff(threshold={self.threshold}): give a mean uncertainty, 0 to 1")

    def neutral(self) -> DeeDiff:
        """The setting that changes nothing."""
        return replace(self, threshold=0.0)

    def sites(self, net: Sites) -> Sequence[Site]:
        layers = [s for s in net.blocks if s.stage == "body"]
        ends = [s for s in net.units if s.role == "out" and isinstance(s.module, nn.Linear)]
        if len(layers) < 2 or not ends:
            raise Refused("DeeDiff: this network is no row of transformer layers; use DeepCache on a UNet")
        last: Any = ends[0].module
        sizes = f"{last.in_features} {last.out_features}"
        return [*(replace(s, note=sizes) for s in layers[:-1]), layers[-1], ends[0]]

    def make(self, site: Site) -> nn.Module:
        return ExitHead(*map(int, site.note.split())) if site.note else nn.Identity()

    def around(self, call: Call) -> Any:
        left: dict[Any, tuple[Tensor, int]] = call.scratch.setdefault("left", {})  # row -> what it left with, and where
        if call.site.role == "out":
            return self._exit(call, left)
        call.scratch["layer"] = call.scratch.get("layer", 0) + 1
        return call.split([row in left for row in call.rows], passed, lambda staying: self._layer(staying, left))

    def _layer(self, call: Call, left: dict[Any, tuple[Tensor, int]]) -> Any:
        out = call()
        threshold = call.scale * self.threshold
        if isinstance(call.part, ExitHead) and threshold > 0.0:
            g, u = call.part(image_of(out, call.site), times_of(call.t, len(call.rows)))
            for row, own, sure in zip(call.rows, g, (u.mean(1) <= threshold).tolist(), strict=True):
                if sure:
                    left[row] = own, call.scratch["layer"]
        return out

    def _exit(self, call: Call, left: dict[Any, tuple[Tensor, int]]) -> Any:
        out, depth = call(), call.scratch["layer"]
        if call.at is not None:
            ran = torch.tensor([left[row][1] if row in left else depth for row in call.rows])
            call.common[f"layers {call.at.i}"] = ran
        return torch.stack([left[row][0] if row in left else own for row, own in zip(call.rows, out, strict=True)])

    @staticmethod
    def layers(state: State, path: str = "") -> Tensor:
        """(B, n) layers that ran for each sample at each step on a path, from the state of a run (`Result.state`)."""
        found = {
            int(key[1].split()[1]): state.memory.find(key, rows_of(path, state.samples))
            for key in state.memory.entries
            if "DeeDiff" in key[0] and key[1].startswith("layers")
        }
        if not found:
            raise BadInput("DeeDiff.layers: this state is of a run without DeeDiff; give the state of a run with it")
        return torch.stack([found[i] for i in sorted(found)], 1)


@dataclass(frozen=True)
class EarlyExit(Objective):
    """L_simple + lambda sum_i |u_i - tanh|g_i - target||^2 + beta sum_i (1 - u_i) |g_i - target|^2, u_i there fixed.

    The role "exits" is the adapter of heads; give the phase `trains=("model", "exits")`, or "exits" alone for a frozen
    network. The target is that of the network's kind, patch by patch; the other tokens are not judged.

    Args:
        denoising: L_simple.
        doubt: lambda, weight of the uncertainties.
        layers: beta, weight of the outputs.
        aware: weigh outputs by 1 - u_i; without it all layers count alike.
        patch: side of a patch, in entries of the state.

    Reference: Tang et al., 2309.17074, whose lambda and beta are 1 too.

    Differs from the official code, in which the weights of the layers add up to one, uncertainties do not teach the
    layers, and all layers share the network's own exit; the sums and the heads g_i are those of the paper's equations.
    """

    denoising: Denoising = Denoising()
    doubt: float = 1.0
    layers: float = 1.0
    aware: bool = True
    patch: int = 2

    def __call__(self, roles: Roles, batch: Batch, noise: Noise, parts: nn.ModuleDict) -> Loss:
        model, exits, watch = roles["model"], roles["exits"], Watch()
        assert isinstance(model, Denoiser) and isinstance(exits, Adapter)
        seen = Roles({**roles, "model": model.with_(watch)})
        extra = (*self.denoising.extra, _Exits(self, exits, watch))
        return replace(self.denoising, extra=extra)(
            seen, batch, noise, nn.ModuleDict({**parts, "exits": nn.ModuleDict()})
        )


@dataclass(frozen=True, eq=False)
class _Exits(Extra):
    """The losses of the heads, on the layers' outputs of the same forward."""

    of: EarlyExit
    exits: Adapter
    watch: Watch

    name = "exits"
    scale = 1.0

    def __call__(self, draw: Draw, parts: nn.ModuleDict) -> Tensor:
        kx, ke, _ = draw.pred.row
        target = to_patches(combine((kx, draw.x0), (ke, draw.eps)), self.of.patch)
        total: Any = 0.0
        for name, head in heads(self.exits).items():
            h = self.watch.kept[name]
            g, u = head(h, times_of(draw.t, len(h)))
            g, u = g[:, -target.shape[1] :, : target.shape[2]], u[:, -target.shape[1] :]
            square = (g - target).square().mean(2)
            off = torch.tanh((g - target).abs().mean(2)).detach()
            weight = 1.0 - u.detach() if self.of.aware else 1.0
            total = total + self.of.doubt * (u - off).square().mean(1) + self.of.layers * (weight * square).mean(1)
        return total


@dataclass(frozen=True, eq=False)
class Watch(Patch):
    """Keeps the image tokens that leave every layer but the last, in the last call."""

    kept: dict[str, Tensor] = field(default_factory=dict)

    def sites(self, net: Sites) -> Sequence[Site]:
        return [s for s in net.blocks if s.stage == "body"][:-1]

    def around(self, call: Call) -> Any:
        out = call()
        self.kept[call.site.name] = image_of(out, call.site)
        return out


@torch.no_grad()
def calibrated(denoiser: Denoiser, exits: Adapter, x: Any, share: float, **run: Any) -> Adapter:
    """The exits with the threshold at which about this share of the layers runs, from one run of the whole network.

    Args:
        denoiser, x, run: as for `sample`; some dozens of samples.
        exits: trained heads.
        share: of the layers, above 0 and at most 1.

    Raises:
        BadInput: a share out of range.
    """
    if not 0.0 < share <= 1.0:
        raise BadInput(f"share={share}: give a share of the layers, above 0 and at most 1")
    doubts = _Doubts(exits)
    sample(denoiser, x, patches=[doubts], **run)
    u = torch.stack([torch.cat(v) for v in doubts.kept.values()])  # (heads, evaluations)
    lowest = torch.cummin(u, 0).values  # a row has left at layer i where this is at most theta
    depth = len(u) + 1
    levels = lowest.flatten().sort().values
    low, high = 0, len(levels) - 1
    while low < high:  # the more is allowed, the fewer layers run
        middle = (low + high) // 2
        ran = depth - (lowest <= levels[middle]).sum(0)
        low, high = (middle + 1, high) if float(ran.double().mean()) > share * depth else (low, middle)
    threshold = 0.0 if math.isclose(share, 1.0) else float(levels[low])
    return with_heads(exits, threshold)


@dataclass(frozen=True, eq=False)
class _Doubts(Patch):
    """Keeps the mean uncertainty of every row at every layer, for all evaluations of a run."""

    exits: Adapter
    kept: dict[str, list[Tensor]] = field(default_factory=dict)

    def sites(self, net: Sites) -> Sequence[Site]:
        return [s for s in net.blocks if s.name in heads(self.exits)]

    def around(self, call: Call) -> Any:
        out = call()
        _, u = self.exits.part(call.site.name)(image_of(out, call.site), times_of(call.t, len(call.rows)))
        self.kept.setdefault(call.site.name, []).append(u.mean(1))
        return out


def heads(exits: Adapter) -> dict[str, ExitHead]:
    """The heads by layer."""
    return {n: part for n, part in zip(exits.names, exits.parts, strict=True) if isinstance(part, ExitHead)}


def with_heads(exits: Adapter, threshold: float, only: Sequence[str] | None = None) -> Adapter:
    """The same heads at another threshold; with one of them alone and a threshold of 1, an exit of fixed depth."""
    parts = dict(zip(exits.names, exits.parts, strict=True))
    gone = set() if only is None else set(heads(exits)) - set(only)
    return Adapter(DeeDiff(threshold), {n: nn.Identity() if n in gone else part for n, part in parts.items()})


def image_of(out: Any, site: Site) -> Tensor:
    """The image tokens of what a layer returns."""
    return out[site.returns.index("image")] if isinstance(out, tuple) else out


def times_of(t: Coef, rows: int) -> Tensor:
    """(rows,) one time for each row."""
    return t.tensor(rows).reshape(rows, -1).mean(1)
