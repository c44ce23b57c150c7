"""RAS: only the regions of a picture that are in focus run at a step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.call import Call
from ..core.engine import State
from ..core.errors import BadInput
from ..core.memory import rows_of
from ..core.registry import method
from ..core.step import Step
from .token_subset import TokenSubset


@method(paper="ras", tags=("saves tokens",))
@dataclass(frozen=True)
class RAS(TokenSubset):
    """At most steps only a share r of the image tokens runs; the others reuse their last output, and attention finds
    their last keys and values.

    A token's metric is m = std over channels of the last change of the state, averaged over its patch, and n the number
    of steps that it was left out so far. Of the share 1 - r that is left out, `high` are the tokens with the largest
    m exp(-k n), the rest those with the smallest m exp(k n): what was left out often comes back at either end. The
    branches of a guidance leave out the same tokens.

    Args:
        ratio: r, mean share of the tokens that run at a sparse step, above 0 to 1; 1 is the plain network.
        high: share of the tokens left out that is taken from the high end, 0 to 1: where the background is. The paper's
            code uses 1, and 0.3 on SD3; on `shapes-flow` it is at the low end, 0.
        starvation: k >= 0; the paper uses 0.1 to 1.
        dense: share of the run at its start where all tokens run, 0 to 1.
        resets: places in the run, 0 to 1, of single steps where all tokens run.
        drift: how much r grows from the first to the last step, -2 to 2.
        text: whether text tokens run at sparse steps where image and text attend jointly; else their keys and values
            are remembered too.

    Raises:
        BadInput: numbers out of range. Refused: a network that is no transformer.

    Example:
        >>> load("shapes-flow").generate("a red circle", patches=[RAS(ratio=0.5)])

    Reference: Liu et al., Region-Adaptive Sampling for Diffusion Transformers, 2502.10389.

    Differs from the paper: any sampler, the change of the state being the guided update of its last step; the count of
    steps left out favours such tokens at both ends, where the released code multiplies by exp(k n) at both, which keeps
    leaving out what it left out at the high end; the text may be left out.
    """

    ratio: float = 0.5
    high: float = 1.0
    starvation: float = 1.0
    dense: float = 0.15
    resets: tuple[float, ...] = (0.43, 0.72)
    drift: float = 0.0
    text: bool = True

    def __post_init__(self) -> None:
        if not (0.0 < self.ratio <= 1.0 and -2.0 <= self.drift <= 2.0):
            raise BadInput(f"RAS(ratio={self.ratio}, drift={self.drift}): ratio is in (0, 1], drift in [-2, 2]")
        if not all(0.0 <= share <= 1.0 for share in (self.high, self.dense, *self.resets)) or self.starvation < 0.0:
            raise BadInput(
                f"RAS(high={self.high}, dense={self.dense}, resets={self.resets}, starvation={self.starvation}): "
                "shares are in [0, 1], starvation is 0 or more"
            )

    def neutral(self) -> RAS:
        """The setting that changes nothing."""
        return replace(self, ratio=1.0, drift=0.0)

    def share(self, at: Step) -> float:
        """Share of the tokens that run at this step."""
        if at.i < round(self.dense * at.n) or at.i in (round(place * at.n) for place in self.resets):
            return 1.0
        return min(max(self.ratio + self.drift * (at.progress - 0.5), 0.0), 1.0)

    def metric(self, call: Call, change: Tensor) -> Tensor:
        """(B, H, W) by which tokens are ranked, of the last change of the state (B, C, H, W)."""
        return change.std(1, correction=0)

    def skipped(self, call: Call) -> Tensor:
        samples = [s for _, s in call.rows]
        unique = list(dict.fromkeys(samples))
        once = call.take([samples.index(s) for s in unique])
        scope = once.memory.shared
        asked = [replace(scope, rows=(row,)).age("skip") == 0 for row in scope.rows]
        skip = once.split(asked, lambda c: c.memory.shared["skip"], self._decided)
        return skip[torch.tensor([unique.index(s) for s in samples])]

    def _decided(self, call: Call) -> Tensor:
        """(B, tokens) what each sample leaves out at this step, decided by the first branch that asks."""
        scope, x = call.memory.shared, call["x"]
        none = x.new_zeros(len(x), *self.grid(call), dtype=torch.long)
        times = call.split(scope.held("times"), lambda c: c.memory.shared["times"], lambda c: none[: len(c.rows)])
        skip = call.split(scope.held("x"), self._chosen, lambda c: none[: len(c.rows)].flatten(1).bool())
        scope["x"], scope["skip"], scope["times"] = x, skip, times + skip.view_as(times)
        return skip

    def _chosen(self, call: Call) -> Tensor:
        assert call.at is not None
        scope, x, (rows, columns) = call.memory.shared, call["x"], self.grid(call)
        tokens = rows * columns
        out = tokens - max(round(self.share(call.at) * tokens), 1)
        high = round(self.high * out)
        m = self.metric(call, x - scope["x"])
        m = m.view(len(x), rows, m.shape[1] // rows, columns, -1).mean((2, 4)).flatten(1)
        starved = torch.exp(self.starvation * scope["times"].flatten(1))
        skip = torch.zeros_like(m, dtype=torch.bool)
        skip.scatter_(1, (m / starved).topk(high).indices, True)
        low = (m * starved).masked_fill(skip, torch.inf).topk(out - high, largest=False).indices
        return skip.scatter(1, low, True)

    @staticmethod
    def focus(state: State) -> Tensor:
        """(B, rows, columns) at how many steps of a run each token was left out, from its state (`Result.state`)."""
        for key in state.memory.entries:
            if key[1] == "times" and "RAS" in key[0]:
                return state.memory.find(key, rows_of("", state.samples))
        raise BadInput("RAS.focus: this state is of a run without RAS; give the state of a run with patches=[RAS()]")
