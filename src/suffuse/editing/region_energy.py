"""Guidance by an energy of decoder features: regions look, at their new places, as they did at their old ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.cond import Cond
from ..core.errors import BadInput
from ..core.guidance import Guidance
from ..core.memory import rows_of
from ..core.plugin import Needs
from ..core.predict import Predict
from ..core.registry import method
from ..core.step import Step
from ..core.value import Coef, put, where
from ..guidance.cfg_plus_plus import Renoised
from .branches import Pairs, pairs_at
from .feature_probe import FeatureProbe, bilinear, centres
from .regions import Operation, Pointed, Weights


@method(paper="dragondiffusion")
@dataclass(frozen=True)
class RegionEnergy(Guidance):
    """x0 is that of eps + s grad_z E, and the noise stays eps; z is the target's state.

        E_edit    = w_e / (1 + 4 S(F(z)[m_new], F(z^src)[m_old]))
        E_content = w_c / (1 + 4 S(F(z), F(z^src) outside)) + w_v S(F(z), F(z^src) where vacated)
                    + w_f / (1 + 4 S(mean F(z) where vacated, mean F(z^src) outside))

    F are decoder features of the conditional branch, S is (1 + cos) / 2 averaged over a region and over the blocks. The
    source stands at the same time t, and with Direct Inversion on the path of its inversion.

    Args:
        operation: what is to become of the region.
        scale: s; the paper's values are 40 to 120. 0 is no guidance.
        until: share of the run after which it ends; the paper's step 30 of 50 is 0.6.
        dense: share of the run after which every second step is guided; above `until` all are.
        regional: E_edit moves the state inside of the edited region only, and E_content outside of it only.
        weights: w_e, w_c, w_v and w_f; None takes those of the operation.
        blocks: of the decoder whose features are compared.
        finer: places compared along each side, for each cell of the finest features.

    Raises:
        Refused: a network without such blocks, a sampler of several evaluations, or a run without a source branch.
        BadInput: numbers out of range, no mask, or a region that would leave the picture.

    Example:
        >>> edit(model, image, prompt, prompt, editor=[RegionEnergy(Move(16, 0)), KVBank()], mask=mask)

    Reference: Mou et al., DragonDiffusion: Enabling Drag-style Manipulation on Diffusion Models, 2307.02421.

    Differs from the paper: regions are compared at places between cells, by bilinear sampling, and scaled about their
    own centre; squares around drag points make one region.
    """

    operation: Operation
    scale: float = 40.0
    until: float = 30 / 50
    dense: float = 1.0
    regional: bool = False
    weights: Weights | None = None
    blocks: tuple[int, ...] = (1, 2)
    finer: int = 2

    needs = Needs.GAUSSIAN | Needs.COUPLES | Needs.GRADIENT | Needs.OUTERMOST | Needs.ONE_EVALUATION

    def __post_init__(self) -> None:
        if not (0.0 <= self.until <= 1.0 and self.dense >= 0.0 and self.finer >= 1 and self.blocks):
            raise BadInput(f"{self}: until lies in [0, 1], dense is 0 or more, finer 1 or more, and blocks not empty")

    @property
    def places(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.operation.places

    def neutral(self) -> RegionEnergy:
        """A scale of 0."""
        return replace(self, scale=0.0)

    def __call__(self, predict: Predict, x: Tensor, t: Coef, cond: Cond, at: Step) -> Any:
        p = predict(x, t, cond)
        if not self.scale or at.progress >= self.until or (at.progress >= self.dense and at.i % 2):
            return p
        pairs = targets, _ = pairs_at(at.samples, cond, self)
        slope = torch.zeros_like(x)
        slope[targets] = self.slope(predict, x, t, cond, at, pairs)
        clean = p.x0 - where(p.a > 0.0, p.s / p.a, 0.0) * (self.scale * slope)
        return Renoised(p.x, p.a, p.s, p.value, p.row, p.b, p.y, clean)

    def slope(self, predict: Predict, x: Tensor, t: Coef, cond: Cond, at: Step, pairs: Pairs) -> Tensor:
        """The gradient of the energy in the states of the targets."""
        targets, sources = pairs
        taken = self.operation.taken(rows_of("", at.samples), sources)
        pointed, probe = Pointed.at(cond, self.operation, targets, taken), FeatureProbe(self.blocks)
        with torch.enable_grad():
            z = x[targets].detach().requires_grad_()
            probe.look(predict, put(x, targets, z), t, cond)
            edit, content = self.energies(probe.maps, pairs, taken, pointed)
            if not self.regional:
                return torch.autograd.grad((edit + content).sum(), z)[0]
            (of_edit,) = torch.autograd.grad(edit.sum(), z, retain_graph=True)
            (of_content,) = torch.autograd.grad(content.sum(), z)
        inside = self.operation.on(x, pointed).inside
        return inside * of_edit + (1.0 - inside) * of_content

    def energies(self, maps: list[Tensor], pairs: Pairs, taken: list[int], pointed: Pointed) -> tuple[Tensor, Tensor]:
        """(B,) E_edit and E_content of features (rows, C, h, w) in which pairs, and the rows regions are from, are."""
        targets, sources = pairs
        finest = max(maps, key=lambda v: v.shape[2] * v.shape[3])
        places = centres(self.finer * finest.shape[2], self.finer * finest.shape[3], pointed.size).to(finest)
        region, w = self.operation.region(pointed, places), self.weights or self.operation.weights
        edit, content = [], []
        for f in maps:
            now, before, there = (bilinear(v, q.expand(len(targets), -1, 2), pointed.size) for v, q in (
                (f[targets], places), (f[sources].detach(), places),
                (f[taken].detach(), places if self.operation.averages else region.origin),
            ))  # fmt: skip
            like = alike_on_average if self.operation.averages else alike
            edit.append(w.edit / (1.0 + 4.0 * like(now, region.new, there, region.old)))
            outside, empty = 1.0 - region.free, region.old * (1.0 - region.new)
            kept = w.content / (1.0 + 4.0 * alike(now, outside, before, outside))
            if w.contrast:
                kept = kept + w.contrast * alike(now, empty, before, empty)
            if w.fill:
                kept = kept + w.fill / (1.0 + 4.0 * alike_on_average(now, empty, before, outside))
            content.append(kept)
        return torch.stack(edit).mean(0), torch.stack(content).mean(0)


def alike(a: Tensor, m: Tensor, b: Tensor, n: Tensor) -> Tensor:
    """(B,): S of features (B, N, C) place by place, averaged with weights m (B, N); n is not used."""
    return _mean(0.5 + 0.5 * F.cosine_similarity(a, b, dim=2)[..., None], m)[:, 0]


def alike_on_average(a: Tensor, m: Tensor, b: Tensor, n: Tensor) -> Tensor:
    """(B,): S of the mean of a over m and the mean of b over n."""
    return 0.5 + 0.5 * F.cosine_similarity(_mean(a, m), _mean(b, n), dim=1)


def _mean(v: Tensor, weight: Tensor) -> Tensor:
    """(B, C): mean of (B, N, C) over places; 0 where there are none."""
    return (v * weight[..., None].to(v)).sum(1) / weight.sum(1, keepdim=True).clamp(min=1.0).to(v)
