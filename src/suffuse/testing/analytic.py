"""Denoisers whose data law is known, so that what a sampler should give is known too.

Each one predicts exactly, in any process of its kind, at any time, and as any kind of prediction.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.denoiser import EMPTY, Denoiser, count_evaluation
from ..core.prediction import EPS, Affine, Kind, Logits
from ..core.process import Categorical
from ..core.process import Gaussian as GaussianProcess
from ..core.value import Coef, combine, sqrt


class GaussianMixture(Denoiser):
    """Data from sum_k w_k N(mu_k, v_k I).

    With x_t = alpha x0 + sigma eps and c_k = alpha^2 v_k + sigma^2 a component's x_t is N(alpha mu_k, c_k I), and

        E[x0 | x_t]  = sum_k r_k (mu_k + alpha v_k / c_k (x_t - alpha mu_k))
        E[eps | x_t] = sum_k r_k sigma / c_k (x_t - alpha mu_k),    r_k ~ w_k N(x_t; alpha mu_k, c_k I)

    which is finite at both ends of time. What is known of a sample besides, such as a measurement y, enters as
    cond["evidence"] (B, K): log p(y | component k), up to a number of the sample.

    Args:
        means: (K, ...) of the shape of a state.
        process: the corruption.
        std: (K,) or one standard deviation sqrt(v) of the components.
        weights: (K,) of the components, which need not sum to 1; default equal.
        kind: what it outputs, as a network would.
    """

    means: Tensor
    variances: Tensor
    log_weights: Tensor

    def __init__(self, means: Tensor, process: GaussianProcess, *, std: Tensor | float = 0.1,
                 weights: Tensor | None = None, kind: Kind = EPS):  # fmt: skip
        super().__init__()
        self.process, self.kind = process, kind
        weights = torch.ones(len(means)) if weights is None else weights
        self.register_buffer("means", means.double())
        self.register_buffer("variances", torch.as_tensor(std, dtype=torch.float64).expand(len(means)) ** 2)
        self.register_buffer("log_weights", torch.log(weights.double() / weights.sum()))

    def forward(self, x: Tensor, t: Coef | float | Tensor, cond: Cond = EMPTY) -> Affine:
        count_evaluation()
        t, process = Coef(t), self.process.given(cond)
        assert isinstance(process, GaussianProcess)
        k, n, offset = len(self.means), self.means[0].numel(), process.offset(t)
        state = (x if offset is None else x - offset).double().flatten(1)
        alpha, sigma = (c.tensor(len(x)).reshape(len(x), -1)[:, :1] for c in (process.alpha(t), process.sigma(t)))
        spread = alpha**2 * self.variances + sigma**2  # (B, K)
        means = self.means.reshape(k, n)
        # Without the (B, K, n) differences, which large mixtures have no room for.
        far = (state**2).sum(1, keepdim=True) - 2.0 * alpha * (state @ means.T) + alpha**2 * (means**2).sum(1)
        logits = self.log_weights - 0.5 * far / spread - 0.5 * n * torch.log(spread)
        r = (logits + cond["evidence"].double() if "evidence" in cond else logits).softmax(-1)
        gain, scaled = r * alpha * self.variances / spread, r * sigma / spread
        x0 = (r - alpha * gain) @ means + gain.sum(1, keepdim=True) * state
        eps = scaled.sum(1, keepdim=True) * state - alpha * (scaled @ means)
        value = process.target(x0.reshape(x.shape).to(x), eps.reshape(x.shape).to(x), t, self.kind)
        return process.predict(x, t, value, self.kind)

    def data(self, n: int, seed: int = 0) -> Tensor:
        """(n, ...) float64 draws of the data."""
        generator = torch.Generator().manual_seed(seed)
        k = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=generator)
        noise = torch.randn(n, *self.means.shape[1:], generator=generator, dtype=torch.float64)
        return combine((1.0, self.means[k]), (Coef(self.variances[k].sqrt()), noise))


class Gaussian(GaussianMixture):
    """Data from N(mean, std^2 I), whose probability flow is known in closed form.

    Args:
        mean: of the shape of a state.
        process: the corruption.
        std: standard deviation, > 0.
        kind: what it outputs, as a network would.
    """

    def __init__(self, mean: Tensor, process: GaussianProcess, *, std: float = 0.5, kind: Kind = EPS):
        super().__init__(mean[None], process, std=std, kind=kind)

    def flow(self, x: Tensor, t: Coef | float, s: Coef | float) -> Tensor:
        """Where the ODE takes x from t to s: alpha_s mu + sqrt(c_s / c_t) (x - alpha_t mu)."""
        process = self.process
        assert isinstance(process, GaussianProcess)
        alpha_t, alpha_s = process.alpha(Coef(t)), process.alpha(Coef(s))
        own = float(self.variances[0])
        c_t, c_s = (a * a * own + process.sigma(Coef(u)) ** 2 for a, u in ((alpha_t, t), (alpha_s, s)))
        mean = self.means[0].to(x)
        return sqrt(c_s / c_t) * (x - alpha_t * mean.expand_as(x)) + alpha_s * mean.expand_as(x)


class KnownLaw(Denoiser):
    """Discrete data from a list of states with known probabilities.

    The posterior of the clean state is  p(m | x_t) ~ p_m prod_i q(x_t,i | m_i);  a prediction holds its marginal of
    each entry, which is all that a network can say.

    Args:
        states: (M, ...) integer states.
        process: the corruption.
        probs: (M,) their probabilities, which need not sum to 1; default equal.
    """

    states: Tensor
    log_probs: Tensor

    def __init__(self, states: Tensor, process: Categorical, *, probs: Tensor | None = None):
        super().__init__()
        self.process = process
        probs = torch.ones(len(states)) if probs is None else probs
        self.register_buffer("states", states.long())
        self.register_buffer("log_probs", torch.log(probs.double() / probs.sum()))

    def forward(self, x: Tensor, t: Coef | float | Tensor, cond: Cond = EMPTY) -> Logits:
        count_evaluation()
        t, process = Coef(t), self.process
        assert isinstance(process, Categorical)
        keep = process.keep(t).tensor(len(x)).reshape(len(x), -1)[:, :1, None]
        state, clean = x.flatten(1), self.states.flatten(1)
        same = (state[:, None] == clean[None]).double()  # (B, M, n)
        chance = keep * same + (1.0 - keep) * process.limit(x)[state][:, None]
        p = (self.log_probs + torch.log(chance).sum(-1)).softmax(-1)  # (B, M)
        onehot = torch.nn.functional.one_hot(clean, process.K).double()
        marginal = torch.einsum("bm,mnk->bnk", p, onehot).reshape(*x.shape, process.K)
        return process.predict(x, t, torch.log(marginal), None)
