"""SuperDiff: several models or prompts on one stochastic path, weighed by their densities along it.

The density of each is followed without divergences. Along any path with the noise of the SDE, whatever its drift,

    d log q_i = <dx, s_i> + (div f + <f, s_i> - g^2 |s_i|^2 / 2) dtau        (the Ito density estimator)

Over a step from t to s this is the logarithm of  q_i(x_s) / q_i(x_t) = p_i(x_s | x_t) / q(x_t | x_s)  with the exact
forward kernel q and a normal reverse kernel p_i, whose mean is that of the posterior at the prediction of model i. Both
are finite up to pure noise, on flows too. Log-densities are of the state as it is, and grow where a model finds it
likely: one convention for both operators.

Reference: Skreta et al., The Superposition of Diffusion Models Using the Ito Density Estimator, 2412.17762.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.errors import BadInput, Refused
from ..core.guidance import Guidance
from ..core.noise import Stream
from ..core.plugin import Needs, Setting
from ..core.predict import Predict
from ..core.prediction import Affine
from ..core.process import Gaussian
from ..core.reflection import Branch, Branched, Given
from ..core.registry import method
from ..core.step import Step
from ..core.value import Coef, Value, batch_size, dot, flat
from .kinds import in_kind
from .weaker import asked


@dataclass(frozen=True)
class Kernels:
    """What one step needs of its forward kernel and of the reverse kernels: q(x_t | x_s) = N(ratio x_s, forward), and
    p_i(x_s | x_t) = N(mean_i, reverse), both per entry."""

    ratio: Coef
    forward: Coef
    reverse: Coef

    @classmethod
    def of(cls, process: Gaussian, t: Coef, s: Coef, spread: float) -> Kernels:
        """Those of a step from t to s; the reverse kernel is the posterior's of data with this standard deviation.

        With spread = inf it has the variance of the forward kernel, as the paper's Euler steps have.
        """
        rho, ratio = process.rho(s), process.alpha(t) / process.alpha(s)
        clear = 1.0 / process.rho(t)  # 0 at pure noise
        left = 1.0 - (rho * clear) * (rho * clear)
        shrink = clear * clear
        share = (1.0 + rho * rho / spread**2) / (1.0 / spread**2 + shrink) if spread < math.inf else 1.0 / shrink
        forward = process.sigma(t) * process.sigma(t) * left
        return cls(ratio, forward, process.alpha(s) * process.alpha(s) * left * share)

    def increments(self, x: Value, y: Value, means: Sequence[Value]) -> Tensor:
        """(B, M) float64: log q_i(y) - log q_i(x) of the step from x to y."""
        rows, entries = batch_size(x), flat(x).shape[1]
        forward, reverse = (c.tensor(rows).to(flat(x).device) for c in (self.forward, self.reverse))
        moved = forward > 0.0  # a step to the time at which it stands changes no density
        forward, reverse = torch.where(moved, forward, 1.0), torch.where(moved, reverse, 1.0)
        back = x - self.ratio * y
        common = 0.5 * entries * torch.log(forward / reverse) + 0.5 * dot(back, back) / forward
        each = [common - 0.5 * dot(y - m, y - m) / reverse for m in means]
        return torch.where(moved[:, None], torch.stack(each, 1), 0.0)


Superposed: TypeAlias = "str | Given"
"""A prompt for the run's own model, or what differs from the run."""


@dataclass(frozen=True)
class Superposition(Branched, Guidance):
    """What both operators share: M predictions, their log-densities along the run, and a mix with weights kappa.

    `remembered(state, SuperDiffOR, "log_densities")` gives (B, steps, M): the densities of every state that the network
    was asked about; "kappa" gives the weights in the same form.

    Args:
        others: what is superposed with the run's own prompt: a tuple of prompts, denoisers, patches, adapters, or
            `Branch`es of several of these. Models of another Gaussian process are read in the run's.
        w: guidance scale within each model, e_null + w (e_i - e_null); 1 is none, and asks for no null prediction.
        spread: standard deviation of the data, which the estimator's step assumes; exact for data N(mu, spread^2). inf
            is the estimator of the paper's Euler steps in sigma, which has no value at the pure noise of flows.
    """

    others: tuple[Superposed, ...]
    w: float = 7.5
    spread: float = 1.0

    always = Needs.GAUSSIAN | Needs.ONE_EVALUATION | Needs.SDE

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return super().needs | (Needs.NOTHING if self.w == 1.0 else Needs.UNCONDITIONAL)

    def __post_init__(self) -> None:
        if not self._branches:
            raise BadInput(f"{type(self).__name__}(others=()): nothing to superpose; give a prompt or a denoiser")
        if not self.spread > 0.0:
            raise BadInput(f"{type(self).__name__}(spread={self.spread}): a standard deviation is above 0")

    @abstractmethod
    def weights(self, step: Superposing) -> Tensor:
        """(B, M) kappa, rows of which sum to 1."""

    @property
    def _branches(self) -> tuple[Branch, ...]:
        """The models beside the run's own."""
        if not isinstance(self.others, tuple):
            raise BadInput(
                f"{type(self).__name__}(others={self.others!r:.40}): give a tuple such as ('a blue square',)"
            )
        return tuple(Branch(path=f"concept:{o}", prompt=o) if isinstance(o, str) else Branch.of(o) for o in self.others)

    @property
    def evaluations(self) -> int | None:  # type: ignore[override]
        """One for each model and prompt, and with guidance one more for each model."""
        branches = self._branches
        if any(b.guidance is not None for b in branches):
            return None
        networks = 1 + sum(b.denoiser is not None or bool(b.patches) for b in branches)
        return 1 + len(branches) + (networks if self.w != 1.0 else 0)

    def bind(self, setting: Setting) -> Self:
        return replace(self, others=tuple(branch.bind(setting) for branch in self._branches))

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        own, guided = self._predictions(predict, x, t, cond)
        z = own[0].x if own[0].b is None else own[0].x - own[0].b
        step = Superposing(at, z, own, guided, self._followed(at, z), self.spread)
        kappa = self.weights(step)
        p = guided[0].mix([Coef(k) for k in kappa.unbind(1)], guided)
        self._check(at, p)
        at.memory["before"] = (z, at.s, step.kernels.ratio, step.kernels.forward, step.kernels.reverse, step.means)
        at.memory["kappa"] = _appended(at.memory.get("kappa"), kappa)
        return p

    def _predictions(self, predict: Predict, x: Value, t: Coef, cond: Cond) -> tuple[list[Affine], list[Affine]]:
        """Predictions of the models themselves and with guidance, all in the form of the first."""
        rows: list[tuple[Predict, str, Cond, bool]] = [(predict, "", cond, True)]
        for k, branch in enumerate(self._branches):
            net, told = asked(branch, predict, cond)
            rows.append((net, branch.path if net is predict else f"model:{k}", told, branch.guidance is None))
        found: list[tuple[Affine, Affine]] = [None] * len(rows)  # type: ignore[list-item]
        for net in {id(net): net for net, *_ in rows}.values():
            mine = [k for k, row in enumerate(rows) if row[0] is net]
            prefix = "" if net is predict else f"{rows[mine[0]][1]}/"
            calls = [(rows[k][1] if k else "cond", x, t, rows[k][2]) for k in mine]
            with_null = self.w != 1.0 and all(rows[k][3] for k in mine)
            if with_null:
                calls.append((f"{prefix}null", x, t, cond.branch("null")))
            out = net.many(calls)
            for k, p in zip(mine, out, strict=False):
                found[k] = (p, p.mix([self.w, 1.0 - self.w], [p, out[-1]]) if with_null else p)
        row = found[0][0].row
        return [in_kind(p, row) for p, _ in found], [in_kind(g, row) for _, g in found]

    def _followed(self, at: Step, z: Value) -> Tensor:
        """(B, M) log-densities of this state, from those of the one before and the way that really led here."""
        before, trace = at.memory.get("before"), at.memory.get("log_densities")
        if before is None:
            # all models take pure noise for equally likely; of a run that begins later, densities count from there
            process, entries = at.process, flat(z).shape[1]
            spread = self.spread if self.spread < math.inf else 0.0
            alpha, sigma = process.alpha(at.t), process.sigma(at.t)
            variance = (alpha * alpha * spread**2 + sigma * sigma).tensor(batch_size(z)).to(flat(z).device)
            start = -0.5 * (dot(z, z) / variance + entries * torch.log(2.0 * math.pi * variance))
            now = start[:, None].expand(-1, 1 + len(self.others))
        else:
            x, s, ratio, forward, reverse, means = before
            if bool(torch.as_tensor(abs(s - at.t) > 1e-9).any()):
                raise Refused(
                    f"{type(self).__name__}: the run did not go on where its last step led, and densities are followed "
                    "along one path; leave out hooks that go back or repeat steps"
                )
            now = trace[:, -1] + Kernels(ratio, forward, reverse).increments(x, z, means)
        at.memory["log_densities"] = _appended(trace, now)
        return now

    def _check(self, at: Step, p: Affine) -> None:
        """Refuse samplers whose noise is not that of the SDE: the estimator would follow other densities."""
        noise = flat(at.move(p, 1.0) - at.move(p, 0.0)).double().mean(1).cpu()
        wanted = at.process.reverse_std(at.t, at.s).tensor(len(at.samples)).cpu()
        if bool(((noise - wanted).abs() > 0.01 * wanted + 1e-4).any()):
            raise Refused(
                f"{type(self).__name__}: the sampler adds noise of {float(noise[0]):.3g} and the SDE has "
                f"{float(wanted[0]):.3g}, and the Ito estimator needs all of it; use DDPM(), or DPMSolverPP(sde=True)"
            )


def _appended(trace: Tensor | None, now: Tensor) -> Tensor:
    """(B, n + 1, M)."""
    return now[:, None] if trace is None else torch.cat([trace, now[:, None]], 1)


@dataclass(frozen=True, eq=False)
class Superposing:
    """One step of a superposition, as an operator sees it.

    Args:
        at: the step.
        z: the state.
        own, guided: M predictions, without and with guidance.
        log_densities: (B, M) of the state.
        spread: of the reverse kernels.
    """

    at: Step
    z: Value
    own: Sequence[Affine]
    guided: Sequence[Affine]
    log_densities: Tensor
    spread: float

    @cached_property
    def kernels(self) -> Kernels:
        """Of this step."""
        return Kernels.of(self.at.process, self.at.t, self.at.s, self.spread)

    @cached_property
    def means(self) -> tuple[Value, ...]:
        """Means of the reverse kernels."""
        return tuple(self.at.process.posterior(self.z, p, self.at.t, self.at.s, 1.0).mean for p in self.own)

    @property
    def moved(self) -> list[Value]:
        """Where the sampler's step, with its own noise, would lead with each guided prediction alone."""
        if isinstance(self.at.run.noise, Stream):
            raise Refused(
                "SuperDiffAND: looks ahead at the noise of its step, which a generator cannot; give a seed instead"
            )
        z = self.at.noise(self.z)
        return [self.at.move(g, z) for g in self.guided]


@method(paper="superdiff")
@dataclass(frozen=True)
class SuperDiffOR(Superposition):
    """kappa_i ~ exp(T log q_i(x_t) + l_i): pictures of one model or of another, each in proportion to its density.

    The mixture of the models, sampled without training one. In high dimensions one model soon has all the weight.

    Args:
        others: what is superposed with the run's own prompt: a tuple of prompts, denoisers, patches, adapters, or
            `Branch`es of several of these. Models of another Gaussian process are read in the run's.
        w: guidance scale within each model, e_null + w (e_i - e_null); 1 is none, and asks for no null prediction.
        spread: standard deviation of the data, which the estimator's step assumes; exact for data N(mu, spread^2). inf
            is the estimator of the paper's Euler steps in sigma, which has no value at the pure noise of flows.
        T: how strongly densities decide; 0 is a fixed mix.
        bias: l_i, one for each model, the run's own first; () is none.

    Raises:
        BadInput: biases that are not one for each model. Refused: a sampler without the noise of the SDE; hooks that go
            back.

    Example:
        >>> model.generate("a red circle", guidance=SuperDiffOR(("a blue square",)), sampler=DDPM())

    Reference: Skreta et al., The Superposition of Diffusion Models Using the Ito Density Estimator, 2412.17762.

    Differs from the paper: densities take the exact kernels of the step instead of Euler's, see `spread`.
    """

    T: float = 1.0
    bias: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.bias) not in (0, 1 + len(self.others)):
            raise BadInput(
                f"SuperDiffOR(bias={self.bias}): {len(self.bias)} for {1 + len(self.others)} models; give one each, "
                "the run's own first"
            )

    def weights(self, step: Superposing) -> Tensor:
        log_q = step.log_densities
        bias = log_q.new_tensor(self.bias) if self.bias else log_q.new_zeros(log_q.shape[1])
        return (self.T * log_q + bias).softmax(1)


@method(paper="superdiff")
@dataclass(frozen=True)
class SuperDiffAND(Superposition):
    """kappa with d log q_1 = ... = d log q_M and sum_i kappa_i = 1: pictures that all models find equally likely.

    The next state is linear in kappa, and equal densities mean that it lies equally far from the means m_i of all
    reverse kernels: <x_s - m_1, m_i - m_1> = |m_i - m_1|^2 / 2 for every i, solved for each sample with the noise that
    the step will really add. Where models agree, weights are equal. To be the outermost guidance.

    Args:
        others: what is superposed with the run's own prompt: a tuple of prompts, denoisers, patches, adapters, or
            `Branch`es of several of these. Models of another Gaussian process are read in the run's.
        w: guidance scale within each model, e_null + w (e_i - e_null); 1 is none, and asks for no null prediction.
        spread: standard deviation of the data, which the estimator's step assumes; exact for data N(mu, spread^2). inf
            is the estimator of the paper's Euler steps in sigma, which has no value at the pure noise of flows.

    Raises:
        BadInput: nothing to superpose.
        Refused: a sampler without the noise of the SDE; a generator as the source of noise; hooks that go back.

    Example:
        >>> model.generate("a red circle", guidance=SuperDiffAND(("a blue square",), w=3), sampler=DDPM())

    Reference: Skreta et al., The Superposition of Diffusion Models Using the Ito Density Estimator, 2412.17762.

    Differs from the paper: densities take the exact kernels of the step instead of Euler's, see `spread`.
    """

    always = Superposition.always | Needs.OUTERMOST

    def weights(self, step: Superposing) -> Tensor:
        means, moved = step.means, step.moved
        apart = torch.stack([flat(m - means[0]).double() for m in means[1:]], 1)  # (B, M - 1, n)
        effect = torch.stack([flat(y - moved[0]).double() for y in moved[1:]], 1)
        system = apart @ effect.transpose(1, 2)
        ahead = flat(moved[0] - means[0]).double()
        wanted = 0.5 * (apart * apart).sum(2) - (apart @ ahead[..., None])[..., 0]
        even = torch.full_like(wanted, 1.0 / len(means))
        lacking = wanted - (system @ even[..., None])[..., 0]
        rest = even + (torch.linalg.pinv(system, rtol=1e-9) @ lacking[..., None])[..., 0]
        return torch.cat([1.0 - rest.sum(1, keepdim=True), rest], 1)
