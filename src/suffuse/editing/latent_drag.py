"""Dragging by one latent: what is at handle points is drawn to targets, step by step, and the handles are tracked."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.cond import Cond
from ..core.errors import BadInput
from ..core.predict import Predict
from ..core.registry import method
from ..core.step import outside
from ..core.value import Coef
from .branches import place
from .code import Code
from .direct_inversion import DirectInversion
from .feature_probe import FeatureProbe, bilinear
from .inverter import Inverter, Plan


@method(paper="dragdiffusion")
@dataclass(frozen=True)
class LatentDrag(Inverter):
    """argmin over z_t of sum_i sum_q |F(q + d_i) - sg F(q)| + lambda |(z_{t-1} - z*_{t-1}) (1 - M)|, q around h_i.

    d_i is one cell from handle h_i towards its target g_i, F are decoder features on a grid of half the picture's side.
    After every step of Adam each handle goes where, nearby, features are most like those that it had in the picture:
    h_i <- argmin |F(q) - F_0(h_i^0)|. A picture is done when its handles are at their targets. All distances are in
    cells of that grid, which are 2 pixels wide; nothing is read beyond the border.

    Args:
        strength: share of the steps that are inverted; the latent that is optimised is where decoding begins.
        iterations: of Adam, at most; 0 moves nothing.
        rate: of Adam.
        keep: lambda, for what may not change.
        block: of the decoder, 0 next to the middle.
        patch: reach of the square around a handle that is drawn along.
        search: reach of the square in which a handle is looked for.
        near: distance at which a handle is at its target.
        w: guidance scale of a generated picture; above 1, features of both branches are used, weighted as 1 - c and c
            with c = w / (2 w - 1).

    Raises:
        BadInput: numbers out of range, or neither points nor a mask. Refused: a network without such a block.

    Example:
        >>> edit(model, image, prompt, prompt, inversion=LatentDrag(), editor=KVBank(0.0, 10 / 16), guidance=1.0,
        ...      mask=mask, points=[(20, 30, 36, 30)])

    Reference: Shi et al., DragDiffusion: Harnessing Diffusion Models for Interactive Point-based Image Editing,
    2306.14435.

    Differs from the paper: handles are not rounded to cells, and the source is kept on the path of its inversion.
    """

    strength: float = 0.7
    iterations: int = 80
    rate: float = 0.01
    keep: float = 0.1
    block: int = 2
    patch: int = 1
    search: int = 3
    near: float = 2.0
    w: float = 1.0

    places = ("mask", "points")

    def __post_init__(self) -> None:
        if not (self.iterations >= 0 and self.patch >= 0 and self.search >= 0 and self.w >= 1.0):
            raise BadInput(f"{self}: iterations, patch and search are 0 or more, w is 1 or more")

    def encode(self, plan: Plan, x0: Tensor, cond: Cond) -> Code:
        code = DirectInversion(strength=self.strength).encode(plan, x0, cond)
        first = plan.first(self.strength, self)
        with torch.enable_grad():
            z, _ = self.dragged(plan, code.x, plan.grid.node(first), plan.grid.node(first + 1), cond)
        return replace(code, target=z)

    def dragged(self, plan: Plan, x: Tensor, t: Coef, s: Coef, cond: Cond) -> tuple[Tensor, Tensor]:
        """The optimised states, and where the handles (B, P, 2) have got to, in pixels; x are states at t before s."""
        mask, points = place(cond, "mask", self), place(cond, "points", self)
        size = (mask.shape[2], mask.shape[3])
        fixed = 1.0 - (F.interpolate(mask.to(x), x.shape[2:]) > 0.5).to(x)
        first, targets = points[..., :2].to(x), points[..., 2:].to(x)
        with torch.no_grad():
            before, kept = self.seen(plan, x, t, s, cond, size)
        looks = bilinear(before, first, size)
        leaves = [v[None].detach().clone().requires_grad_() for v in x]  # so that Adam leaves those alone that are done
        adam, handles = torch.optim.Adam(leaves, self.rate), first
        for k in range(self.iterations):
            now, moved = self.seen(plan, torch.cat(leaves), t, s, cond, size)
            if k:
                handles = self.tracked(now.detach(), handles, looks, size)
            away = (targets - handles).norm(dim=2) / 2.0 >= self.near
            live = away.any(1)
            if not bool(live.any()):
                break
            loss = self.supervision(now, handles, targets, away, size)
            loss = loss + self.keep * ((moved - kept) * fixed).abs().flatten(1).sum(1)
            slopes = torch.autograd.grad(loss.sum(), leaves)
            for leaf, slope, go in zip(leaves, slopes, live.tolist(), strict=True):
                leaf.grad = slope if go else None
            adam.step()
        return torch.cat(leaves).detach(), handles

    def seen(self, plan: Plan, z: Tensor, t: Coef, s: Coef, cond: Cond, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Features (B, C, H / 2, W / 2) at z, and the state at s that DDIM makes of it."""
        process, grid, probe = plan.denoiser.process, (size[0] // 2, size[1] // 2), FeatureProbe((self.block,))
        predict = Predict(plan.denoiser, outside(process, t, len(z)), (), cond)
        p = probe.look(predict, z, t, cond)
        features = probe.joined(grid)
        if self.w > 1.0:
            pu, c = probe.look(predict, z, t, cond.branch("null")), self.w / (2.0 * self.w - 1.0)
            features = torch.cat([(1.0 - c) * probe.joined(grid), c * features], 1)
            p = p.mix([self.w, 1.0 - self.w], [p, pu])
        return features, process.given(cond).posterior(z, p, t, s, 0.0).mean

    def supervision(self, f: Tensor, handles: Tensor, targets: Tensor, away: Tensor, size: tuple[int, int]) -> Tensor:
        """(B,): what is around each handle that is away from its target, against what is one cell further."""
        q = handles[:, :, None] + square(self.patch).to(f)
        d = 2.0 * F.normalize(targets - handles, dim=2)[:, :, None]
        gap = (bilinear(f, q + d, size) - bilinear(f, q, size).detach()).abs().mean(3).sum(2)
        return (gap * away.to(f)).sum(1)

    def tracked(self, f: Tensor, handles: Tensor, looks: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, P, 2): the place near each handle whose features are most like `looks` (B, P, C)."""
        q = handles[:, :, None] + square(self.search).to(f)
        q = torch.minimum(q.clamp(min=1.0), q.new_tensor([size[1] - 1.0, size[0] - 1.0]))
        best = (bilinear(f, q, size) - looks[:, :, None]).abs().sum(3).argmin(2)
        return torch.take_along_dim(q, best[:, :, None, None], 2)[:, :, 0]


def square(reach: int) -> Tensor:
    """((2 reach + 1)^2, 2): x and y in pixels of cells, 2 pixels wide, around one."""
    steps = 2.0 * torch.arange(-reach, reach + 1).float()
    return torch.stack([steps.repeat(len(steps)), steps.repeat_interleave(len(steps))], 1)
