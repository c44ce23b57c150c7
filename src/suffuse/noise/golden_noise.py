"""Golden noise: pairs of noises collected by re-denoising, and a network that learned to go from one to the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.denoiser import Denoiser
from ..core.engine import grid_of, place_of, sample
from ..core.errors import BadInput, Refused
from ..core.hook import Hook, StepFunction
from ..core.plugin import Setting
from ..core.registry import method
from ..core.sampler import Sampler
from ..core.step import Step
from ..core.value import Value
from ..samplers.ancestral import DDIM
from .npnet import NPNet
from .redenoising import ReDenoise

Score = Callable[[Tensor, Sequence[int]], Tensor]
"""score(states, rows) -> (n,): how much the final states (n, C, H, W) of the prompts `rows` are preferred."""


@dataclass(frozen=True, eq=False)
class NoisePairs:
    """Noises and what re-denoising made of them.

    Attributes:
        noise, golden: (N, C, H, W) x_T and x'_T.
        text: (N, L, D) token states of the prompts.
        gain: (N,) by how much the picture from x'_T is preferred.
        made_for: where they were collected.
    """

    noise: Tensor
    golden: Tensor
    text: Tensor
    gain: Tensor
    made_for: Setting

    def __len__(self) -> int:
        return len(self.noise)

    def __getitem__(self, rows: Any) -> NoisePairs:
        return NoisePairs(self.noise[rows], self.golden[rows], self.text[rows], self.gain[rows], self.made_for)

    @property
    def preferred(self) -> NoisePairs:
        """Those whose picture became better."""
        return self[self.gain > 0]


@torch.no_grad()
def collect_pairs(
    denoiser: Denoiser,
    x: Sequence[int] | Tensor,
    score: Score,
    *,
    cond: Cond,
    redenoise: ReDenoise = ReDenoise(),  # noqa: B008  a frozen value
    sampler: Sampler = DDIM(),  # noqa: B008
    steps: int = 10,
    setting: Setting | None = None,
    batch: int = 64,
    **run: Any,
) -> NoisePairs:
    """Make a picture of each prompt from random noise and from the re-denoised one, and compare them.

    Args:
        denoiser, x, sampler, steps, run: of both runs, as for `sample`; x is a shape (N, C, H, W) or N start states.
        score: what prefers a picture, such as a reward model after the decoder.
        cond: N prompts, with "text".
        redenoise: what makes x'_T.
        setting: of the model, so that the network is refused elsewhere.
        batch: pictures at once.

    Returns:
        all N pairs; `pairs.preferred` are those to learn from.
    """
    n = len(x) if isinstance(x, Tensor) else x[0]
    whole = torch.arange(n)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for rows in whole.split(batch):
        begun, scores = [], []
        for hooks in ([], [redenoise]):
            begin = _Begin([])
            out = sample(
                denoiser, x[rows] if isinstance(x, Tensor) else (len(rows), *x[1:]), cond=cond[rows],
                hooks=[*hooks, begin], samples=rows.tolist(), sampler=sampler, steps=steps, setting=setting, **run,
            )  # fmt: skip
            begun.append(begin.seen[0])
            scores.append(score(out.x, rows.tolist()))
        found.append((*begun, scores[1] - scores[0]))
    noise, golden, gain = (torch.cat(part) for part in zip(*found, strict=True))
    grid = grid_of(denoiser.process, sampler, run.get("spacing"), steps, x)
    place = place_of(denoiser, grid, sampler, run.get("guidance"), setting)
    return NoisePairs(noise, golden, _text(cond.at(grid.node(0))), gain, place)


@dataclass(frozen=True, eq=False)
class _Begin(Hook):
    """Keeps the state that a run begins with, after the hooks around it."""

    seen: list[Value]

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        if at.first:
            self.seen.append(x)
        return step(x, at)


def _text(cond: Cond) -> Tensor:
    if "text" not in cond:
        raise BadInput(f"cond: has {', '.join(cond) or 'nothing'} and no 'text'; use a model that is told by text")
    text: Tensor = cond["text"]
    return text


@method(paper="golden-noise")
@dataclass(frozen=True)
class GoldenNoise(Hook):
    """The run starts from x'_T = NPNet(x_T, c) instead of x_T: noise that the prompt has been put into.

    x' = svd(x) + (2 sigmoid(alpha) - 1) e + beta residual(x + e),  e = AdaGroupNorm(x, c); min E |x' - x'_T|^2 over
    pairs of `ReDenoise` whose pictures became better. No evaluation of the denoiser is spent.

    Args:
        network: the fitted network; `GoldenNoise.fit` makes it, `save_method` and `load_method` keep it in a file.
        made_for: model and shape that it was fitted for; others are refused, as is a run that starts from a picture.

    Example:
        >>> pairs = collect_pairs(denoiser, shape, score, cond=cond, guidance=CFG(5.5))
        >>> golden = GoldenNoise.fit(pairs.preferred)
        >>> model.generate("a red circle", hooks=[golden])

    Reference: Zhou et al., Golden Noise for Diffusion Models: A Learning Framework, 2411.09502.

    Differs from the paper: see `NPNet` for the branch that has a network of its own, and `ReDenoise` for the pairs. Any
    score may filter them.
    """

    network: NPNet
    made_for: Setting

    def bind(self, setting: Setting) -> GoldenNoise:
        setting.require(self.made_for, ("model", "process", "shape"), "GoldenNoise")
        return self

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        if not at.first:
            return step(x, at)
        if not bool(torch.as_tensor(at.t == at.grid.node(0)).all()):
            raise Refused("GoldenNoise: this run begins in the middle of its grid, not from noise; leave image out")
        network = self.network.to(x.device)
        return step(network(x.float(), _text(step.cond.at(at.t)).float()).to(x.dtype), at)

    @classmethod
    def fit(
        cls,
        pairs: NoisePairs,
        *,
        epochs: int = 30,
        batch: int = 64,
        rate: float = 1e-4,
        width: int = 64,
        depth: int = 2,
        seed: int = 0,
    ) -> GoldenNoise:
        """Train a network on pairs by AdamW and the mean squared error.

        Args:
            pairs: what to learn; most often `pairs.preferred`.
            epochs, batch, rate: of the training. The paper's are for 100,000 pairs; fewer need more epochs.
            width, depth: of the residual branch.
            seed: of the first weights and the order of the pairs.

        Raises:
            BadInput: no pairs.
        """
        if not len(pairs):
            raise BadInput("pairs: none; collect more, or learn from those that are not preferred, too")
        generator = torch.Generator().manual_seed(seed)
        noise, golden, text = pairs.noise.float(), pairs.golden.float(), pairs.text.float()
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            network = NPNet(tuple(noise.shape[1:]), tuple(text.shape[1:]), width, depth).to(noise.device)
            optimiser = torch.optim.AdamW(network.parameters(), rate)
            for _ in range(epochs):
                for rows in torch.randperm(len(pairs), generator=generator).split(batch):
                    loss = torch.nn.functional.mse_loss(network(noise[rows], text[rows]), golden[rows])
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
        return cls(network.eval().requires_grad_(False), pairs.made_for)
