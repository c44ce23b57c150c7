"""A network that predicts: the neutral form in which samplers, guidances and objectives see every checkpoint."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .call import Binding, Call, Frame, stack, using
from .cond import Cond
from .errors import Diverged, Refused
from .memory import Rows, rows_of
from .patch import Adapter, Patch
from .prediction import Affine, Prediction, V
from .process import Gaussian, Process
from .site import Sites
from .tap import bind
from .value import Coef, Value, batch_size, leaves, minimum, sqrt

if TYPE_CHECKING:
    from .family import Family
    from .guidance import Guidance

EMPTY = Cond()


class Denoiser(nn.Module, ABC):
    """Maps (x_t, t, cond) to a Prediction. Views of one denoiser share its weights."""

    process: Process

    @abstractmethod
    def forward(self, x: Value, t: Coef | float | Tensor, cond: Cond = EMPTY) -> Prediction:
        """Prediction for states x (B, ...) at times t (a number, (B,), or finer)."""

    @property
    def sites(self) -> Sites | None:
        """Sites for patches, or None where there is no network to patch."""
        return None

    def prepare(self, cond: Cond) -> Cond:
        """All that depends on the condition alone, computed once a run."""
        return cond

    def with_(self, *items: Patch | Adapter) -> Denoiser:
        """A view with patches or adapters, the first outermost. O(1); weights are shared."""
        view: Denoiser = self
        for item in reversed(items):
            view = View(view, item)
        return view

    def under(self, process: Gaussian) -> Denoiser:
        """The same network in another Gaussian process: equal noise-to-signal ratio, state rescaled.

        With more noise than it knows, the network is asked at its own last time.
        """
        return Under(self, process)

    def guided(self, guidance: Guidance) -> Denoiser:
        """The guided prediction as a denoiser, such as a teacher with CFG."""
        return Guided(self, guidance)


class Network(Denoiser):
    """A neural network of a known family, trained on a process to output one kind of prediction.

    Args:
        net: the module.
        family: how to call it; a file of `suffuse.backbones`.
        process: the corruption it was trained on.
        kind: what it outputs (`prediction.EPS`, `V`, `FLOW`, ...).
    """

    def __init__(self, net: nn.Module, family: Family, process: Process, kind: Any):
        super().__init__()
        self.net, self.family, self.process, self.kind = net, family, process, kind
        self._sites: Sites | None = None

    @property
    def sites(self) -> Sites:
        if self._sites is None:
            self._sites = self.family.sites(self.net)
        return self._sites

    def __deepcopy__(self, memo: dict[int, Any]) -> Network:
        return Network(copy.deepcopy(self.net, memo), self.family, self.process, self.kind)

    def forward(self, x: Value, t: Coef | float | Tensor, cond: Cond = EMPTY) -> Prediction:
        t = Coef(t)
        cond = cond.at(t)
        context, bindings = stack.context, stack.bindings
        if not bindings:
            return self._evaluate(x, t, cond, context.rows if context else None)
        rows = context.rows if context else rows_of("", range(batch_size(x)))
        frame = Frame(bindings, t, cond, rows, context, self.process)
        chain = frame.chain(None)
        with using(frame=frame):
            if not chain:
                return self._evaluate(x, t, cond, rows)
            call = Call(None, self._root, (x, t, cond), {}, frame, chain, rows)
            return call._binding.patch.around(call)

    def _root(self, x: Value, t: Coef, cond: Cond) -> Prediction:
        """What patches of the whole network wrap; they may have taken rows of it, or changed what it is given."""
        assert stack.frame is not None
        with using(frame=replace(stack.frame, t=t, cond=cond)):
            return self._evaluate(x, t, cond, stack.frame.rows)

    def _evaluate(self, x: Value, t: Coef, cond: Cond, rows: Rows | None) -> Prediction:
        count_evaluation(rows)
        unknown = [k for k in cond if k not in self.family.reads and not any(k in b.patch.reads for b in stack.bindings)
                   and k not in getattr(self.process, "reads", ())]  # fmt: skip
        if unknown:
            raise Refused(f"cond[{unknown[0]!r}]: neither {self.family.name} nor an active patch reads it; leave it "
                          f"out, this network reads {', '.join(self.family.reads) or 'nothing'}")  # fmt: skip
        process = self.process.given(cond)
        scale = process.scale(t)
        value = self.family.call(
            self.net, x if scale is None else scale * x, process.timestep(t).tensor(batch_size(x)), cond
        )
        return process.predict(x, t, value, self.kind)


class Derived(Denoiser):
    """A denoiser made of another one, whose weights it shares."""

    def __init__(self, base: Denoiser):
        super().__init__()
        self.base, self.process = base, base.process

    @property
    def sites(self) -> Sites | None:
        return self.base.sites

    def prepare(self, cond: Cond) -> Cond:
        return self.base.prepare(cond)


class View(Derived):
    """A denoiser with one patch or adapter active while it runs."""

    def __init__(self, base: Denoiser, item: Patch | Adapter):
        super().__init__(base)
        if base.sites is None:
            raise Refused(f"{item}: {type(base).__name__} has no network to patch; use a loaded model")
        self.adapter = item if isinstance(item, Adapter) else None
        self.binding: Binding = bind(item, base)

    def forward(self, x: Value, t: Coef | float | Tensor, cond: Cond = EMPTY) -> Prediction:
        with using(bindings=(*stack.bindings, self.binding)):
            return self.base(x, t, cond)


class Under(Derived):
    """`base` read in another Gaussian process; see `Denoiser.under`."""

    def __init__(self, base: Denoiser, process: Gaussian):
        super().__init__(base)
        if not isinstance(base.process, Gaussian):
            raise Refused(
                f"under({process}): {type(base.process).__name__} is not Gaussian; only Gaussian processes exchange"
            )
        self.process = process

    def forward(self, x: Value, t: Coef | float | Tensor, cond: Cond = EMPTY) -> Affine:
        own, other, t = self.process, self.base.process, Coef(t)
        assert isinstance(own, Gaussian) and isinstance(other, Gaussian)
        there = minimum(other.time(minimum(own.rho(t), other.rho(Coef(1.0)))), 1.0)
        p = self.base(_length(other, there) / _length(own, t) * x, there, cond)
        # v tells x0 and eps at both ends of any process
        return own.predict(x, t, p.combined(-own.sigma(t), own.alpha(t)), V)


def _length(process: Gaussian, t: Coef) -> Coef:
    """sqrt(alpha^2 + sigma^2), which is 0 nowhere."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    return sqrt(alpha * alpha + sigma * sigma)


class Guided(Derived):
    """`base` with a guidance as one denoiser."""

    def __init__(self, base: Denoiser, guidance: Guidance):
        super().__init__(base)
        self.guidance = guidance

    def forward(self, x: Value, t: Coef | float | Tensor, cond: Cond = EMPTY) -> Prediction:
        from .predict import Predict
        from .step import outside

        return Predict(self.base, outside(self.process, t, batch_size(x)), (self.guidance,), cond)(x, Coef(t), cond)


def count_evaluation(rows: Rows | None = None) -> None:
    """Count one evaluation for each row of the current call. Every denoiser that computes calls it, views do not."""
    if stack.context is not None:
        stack.context.count(stack.context.rows if rows is None else rows)


def check_finite(x: Value, where: str) -> None:
    """Raise `Diverged` if a state holds NaN or infinity."""
    for v in leaves(x):
        # one reduction: a sum is finite exactly when its terms are, short of overflow
        if v.is_floating_point() and not math.isfinite(v.sum().item()):
            raise Diverged(f"{where}: the network returned NaN or infinity; use float32 or bfloat16, a lower guidance "
                           "scale, or another checkpoint")  # fmt: skip
