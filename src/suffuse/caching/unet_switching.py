"""Multi-UNet switching: two networks of one latent space take turns over the steps of a run."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..core.denoiser import Denoiser
from ..core.errors import BadInput, Refused
from ..core.hook import Hook, StepFunction
from ..core.model import Model
from ..core.plugin import Setting
from ..core.registry import method
from ..core.step import Step
from ..core.value import Value


@method(paper="a-sdm-inheritance", tags=("switching", "saves width"))
@dataclass(frozen=True, eq=False)
class MultiUNetSwitching(Hook):
    """A light network makes the steps between those of the run's own; with `.during(a, b)` in a part of the run.

    Args:
        light: the other denoiser, of the same process; it reads the same condition.
        every: the run's own network makes every so many steps; None leaves them all to the light one.

    Raises:
        BadInput: `every` below 1. Refused: a denoiser of another process.

    Example:
        >>> model.generate("a red circle", hooks=[MultiUNetSwitching(student).during(0.5, 1.0)])

    Reference: Zhang et al., A-SDM: Accelerating Stable Diffusion through Model Assembly and Feature Inheritance
    Strategies, 2406.00210.
    """

    light: Denoiser
    every: int | None = None

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise BadInput(f"MultiUNetSwitching(every={self.every}): give a number of steps, at least 1, or None")

    @classmethod
    def between(cls, model: Model, light: Model, every: int | None = None) -> MultiUNetSwitching:
        """For two loaded models.

        Raises:
            Refused: they have different latent spaces, where a state of one means nothing to the other.
        """
        if model.codec.space != light.codec.space:
            raise Refused(
                f"light: its latent space is {light.codec.space.name}, and the model's {model.codec.space.name}; only "
                "models of one autoencoder take turns"
            )
        return cls(light.denoiser, every)

    def neutral(self) -> MultiUNetSwitching:
        """The run's own network makes every step."""
        return replace(self, every=1)

    def bind(self, setting: Setting) -> MultiUNetSwitching:
        if str(self.light.process) != setting.process:
            raise Refused(
                f"MultiUNetSwitching: the light network knows {self.light.process}, and this run is of "
                f"{setting.process}; give light.under(process), or another network"
            )
        return self

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        own = self.every is not None and at.i % self.every == 0
        return step(x, at) if own else step.using(denoiser=self.light)(x, at)
