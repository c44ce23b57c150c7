"""One More Step: a small network makes the start that a noise table which ends too early takes for granted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from ..core.cond import Cond
from ..core.errors import BadInput, Refused
from ..core.hook import Hook, StepFunction
from ..core.plugin import Needs, Prompt, Setting
from ..core.process import Gaussian
from ..core.registry import method
from ..core.step import Step
from ..core.training import Batch
from ..core.value import Coef, Value, combine


class StartNet(nn.Module):
    """psi(z, c): a UNet told by text and by no time, which predicts v at pure noise, v = -x0.

    It attends below its first level only: what it is for is low frequencies, and there attention is cheap.

    Args:
        channels: of the latents.
        text: width of the text's token states.
        widths: channels of the levels; multiples of 8.
        size: side of the latents that it is built for; others run too.
    """

    def __init__(self, channels: int, text: int, widths: Sequence[int] = (32, 64), size: int = 16):
        super().__init__()
        self.channels, self.text, self.widths, self.size = channels, text, tuple(widths), size
        deeper = len(self.widths) - 1
        self.unet = UNet2DConditionModel(
            sample_size=size,
            in_channels=channels,
            out_channels=channels,
            layers_per_block=1,
            block_out_channels=self.widths,
            down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * deeper),
            up_block_types=(*["CrossAttnUpBlock2D"] * deeper, "UpBlock2D"),
            cross_attention_dim=text,
            attention_head_dim=8,
            norm_num_groups=8,
        )

    @property
    def config(self) -> Mapping[str, Any]:
        """The arguments that build it again."""
        return {"channels": self.channels, "text": self.text, "widths": self.widths, "size": self.size}

    def forward(self, z: Tensor, text: Tensor) -> Tensor:
        """-x0 for noise z (B, C, H, W) and token states (B, L, width)."""
        return self.unet(z, 0.0, text, return_dict=False)[0]


@method(paper="one-more-step")
@dataclass(frozen=True)
class OneMoreStep(Hook):
    """x_T = a_T x0_hat + s_T eps with x0_hat = -psi(z, c'), z and eps independent N(0, I): one step before the first.

    Tables such as Stable Diffusion's keep a_T = sqrt(abar_T) = 0.068 of the picture at their last timestep, and so the
    network expects to be told its mean there, which pure noise does not: pictures come out of medium brightness.
    psi is trained by |psi(z, c) + x0|^2 for z ~ N(0, I); the base network is not changed, and one psi serves every
    model of its latent space (LoRA, few-step, with control).

    Args:
        network: the fitted psi; `OneMoreStep.fit` makes it, `save_method` and `load_method` keep it in a file.
        made_for: process and shape that it was fitted for.
        prompt: c', what psi is told; None is the prompt of the picture.
        w: guidance scale of psi, psi_null + w (psi_c - psi_null).

    Raises:
        Refused: processes that end in pure noise, and runs that start before it (`Leading` spacings; use `Trailing`).

    Example:
        >>> model.generate("a red circle on a black background", hooks=[load_method("start.safetensors")])

    Reference: Hu et al., One More Step: A Versatile Plug-and-Play Module for Rectifying Diffusion Schedule Flaws and
    Enhancing Low-Frequency Controls, 2311.15744.

    Differs from the paper: noise is scaled by the standard deviation s_T, where the released code takes the variance.
    psi reads the base model's own text encoder.
    """

    network: StartNet
    made_for: Setting
    prompt: Prompt | None = None
    w: float = 1.0

    needs = Needs.GAUSSIAN

    def prompts(self) -> Mapping[str, Prompt]:
        return {} if self.prompt is None else {"start": self.prompt}

    def bind(self, setting: Setting) -> OneMoreStep:
        setting.require(self.made_for, ("process", "shape"), "OneMoreStep")
        return self

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        if not at.first:
            return step(x, at)
        process, end = at.process, Coef(1.0)
        if bool(torch.as_tensor(process.alpha(end) == 0.0).all()):
            raise Refused("OneMoreStep: this process ends in pure noise and needs no further step; leave it out")
        if not bool(torch.as_tensor(at.t == end).all()):
            raise Refused("OneMoreStep: this run does not start at the last timestep; use spacing=Trailing()")
        cond = step.cond.at(at.t)
        told = cond if self.prompt is None else cond.branch("start")
        if "text" not in told:
            raise Refused("OneMoreStep: this model is not told by text; leave it out")
        network = self.network.to(x.device)
        v = network(x, told["text"])
        if self.w != 1.0:
            null = network(x, cond.branch("null")["text"])
            v = null + self.w * (v - null)
        fresh = at.noise(x, tag="one-more-step")
        return step(combine((process.alpha(end), -v), (process.sigma(end), fresh)), at)

    @classmethod
    def fit(
        cls,
        source: Callable[[int], Batch],
        process: Gaussian,
        *,
        steps: int,
        rate: float = 2e-3,
        dropout: float = 0.1,
        widths: Sequence[int] = (32, 64),
        seed: int = 0,
        report: Callable[[int, float], None] = lambda step, loss: None,
    ) -> OneMoreStep:
        """Train psi by |psi(z, c) + x0|^2 with AdamW.

        Args:
            source: step -> batch with "x0" and the condition "text", such as latents of pictures with captions.
            process: of the base models.
            steps, rate: of the training; the rate falls to 0 by a cosine.
            dropout: share of the rows that are told the empty prompt, `cond.alt["null"]`; guidance needs some.
            widths: of psi.
            seed: of weights and noise.
            report: called with every step and its loss.
        """
        if steps < 1:
            raise BadInput(f"steps={steps}: give 1 or more; a minute of one core is enough for small latents")
        random = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            x0, text = source(0).data["x0"], source(0).cond["text"]
            network = StartNet(x0.shape[1], text.shape[2], widths, x0.shape[2])
            optimiser = torch.optim.AdamW(network.parameters(), rate)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
            for k in range(steps):
                batch = source(k)
                x0, told = batch.data["x0"].float(), _dropped(batch.cond, dropout, random)
                z = torch.randn(x0.shape, generator=random)
                loss = (network(z, told) + x0).square().mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                report(k, loss.item())
        place = Setting(process=str(process), shape=tuple(x0.shape[1:]))
        return cls(network.eval().requires_grad_(False), place)


def _dropped(cond: Cond, share: float, random: torch.Generator) -> Tensor:
    text: Tensor = cond["text"].float()
    if share == 0.0:
        return text
    lost = torch.rand(len(text), generator=random) < share
    return torch.where(lost[:, None, None], cond.alt["null"]["text"].float(), text)
