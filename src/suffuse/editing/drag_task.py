"""Moving, scaling, dragging, pasting and restyling regions: two published methods as presets of one task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..core.model import Model
from ..core.plugin import Prompt
from ..core.registry import method
from ..images import Picture
from ..personalization.ip_adapter import IPAdapter
from .direct_inversion import DirectInversion
from .displaced import Displaced
from .drag_hooks import RegionalSDE, TimeTravel
from .inverter import Inverter
from .key_value_bank import Chosen, Concatenated, KVBank
from .region_energy import RegionEnergy
from .regions import Appearance, Drag, Operation, Paste
from .task import Edits, edit

BANKS: Mapping[type, Callable[[Operation], KVBank]] = {
    Drag: lambda operation: KVBank(mixing=Concatenated()),
    Paste: lambda operation: KVBank(step=0.0, until=35 / 50, mixing=Chosen(operation)),
    Appearance: lambda operation: KVBank(step=0.0, until=35 / 50, mixing=Chosen(operation)),
}
"""How the target attends to the source under an operation, where not as in a move."""


@method(paper="dragondiffusion")
@dataclass(frozen=True)
class DragonDiffusion:
    """An operation on a region, by an energy of features and a bank of keys and values, without training.

    Args:
        operation: `Move`, `Paste`, `Drag` or `Appearance`.
        scale: of the energy's gradient; 40 to 120.
        bank: attend to the source's keys and values.
        blocks: of the decoder whose features are compared, 0 next to the middle.

    Example:
        >>> DragonDiffusion(Move(16, 0))(model, image, "a red circle", mask=mask).images[0]

    Reference: Mou et al., DragonDiffusion: Enabling Drag-style Manipulation on Diffusion Models, 2307.02421.

    Differs from the paper: the source is decoded beside the target instead of from a stored path; see `RegionEnergy`.
    """

    operation: Operation
    scale: float = 40.0
    bank: bool = True
    blocks: tuple[int, ...] = (1, 2)

    @property
    def inversion(self) -> Inverter:
        """How the picture is found, and from where the edit starts."""
        return DirectInversion() if self.operation.averages else Displaced(self.operation)

    @property
    def energy(self) -> RegionEnergy:
        """The guidance."""
        return RegionEnergy(self.operation, self.scale, blocks=self.blocks)

    @property
    def editors(self) -> tuple[Any, ...]:
        """What `suffuse.editing.edit` needs, beside the inversion."""
        bank = BANKS.get(type(self.operation), lambda operation: KVBank())(self.operation)
        return (self.energy, bank) if self.bank else (self.energy,)

    def told(self, model: Model, image: Picture | Sequence[Picture]) -> Model:
        """The model with what it is told beside the prompts."""
        return model

    def __call__(
        self,
        model: Model,
        image: Picture | Sequence[Picture],
        source: Prompt | Sequence[Prompt],
        target: Prompt | Sequence[Prompt] | None = None,
        *,
        mask: Picture | Sequence[Picture] | None = None,
        points: Sequence[Sequence[float]] | None = None,
        steps: int = 50,
        guidance: float = 4.0,
        seed: int = 0,
    ) -> Edits:
        """Edit pictures; see `suffuse.editing.edit`.

        Args:
            model: a loaded UNet model.
            image: pictures.
            source, target: what they show before and after; without `target` the same.
            mask: the region; of a `Drag`, what may change.
            points: of a `Drag`, x0, y0, x1, y1 each, in pixels.
            steps, guidance, seed: of the run.
        """
        return edit(
            self.told(model, image), image, source, source if target is None else target, inversion=self.inversion,
            editor=self.editors, mask=mask, points=points, steps=steps, guidance=guidance, seed=seed,
        )  # fmt: skip


@method(paper="diffeditor")
@dataclass(frozen=True)
class DiffEditor(DragonDiffusion):
    """DragonDiffusion with noise in the region, gradients by region, and steps made again.

    With eta=0, times=1, regional=False and dense=1 it is DragonDiffusion.

    Args:
        operation, scale, bank, blocks: as of `DragonDiffusion`.
        eta: of `RegionalSDE`; 0 is none.
        times: of `TimeTravel`; 1 is none.
        regional: each energy moves the state in its own region only.
        dense: share of the run after which every second step is guided; 1 is all.
        image_prompt: shows the model the picture itself, in the paper's steps 10 to 20 of 50, or None.
        shown: scale of the image prompt.

    Example:
        >>> DiffEditor(Move(16, 0))(model, image, "a red circle", mask=mask).images[0]
        >>> ip = IPAdapter.load("ip_sd15_64.safetensors", "image_encoder/", model)
        >>> DiffEditor(Move(16, 0), image_prompt=ip)(model, image, "a red circle", mask=mask).images[0]

    Reference: Mou et al., DiffEditor: Boosting Accuracy and Flexibility on Diffusion-based Image Editing, 2402.02583.

    Differs from the paper: as DragonDiffusion; no image prompt is bundled. Its own, a resampler to 64 tokens, has the
    layout of IP-Adapter Plus and is read by `IPAdapter.load` as a safetensors file.
    """

    eta: float = 0.4
    times: int = 3
    regional: bool = True
    dense: float = 10 / 50
    image_prompt: IPAdapter | None = None
    shown: float = 0.1

    def told(self, model: Model, image: Picture | Sequence[Picture]) -> Model:
        # Silent at first: the inversion does not look at the picture, and `editors` has the prompt for its steps.
        return model if self.image_prompt is None else self.image_prompt.shown(model, image, 0.0)

    @property
    def energy(self) -> RegionEnergy:
        return replace(super().energy, dense=self.dense, regional=self.regional)

    @property
    def editors(self) -> tuple[Any, ...]:
        added: list[Any] = [RegionalSDE(self.operation, self.eta)] if self.eta else []
        if self.times != 1:
            added.append(TimeTravel(self.times))
        if self.image_prompt is not None:
            added.append(self.image_prompt.prompt.scaled(self.shown).during(10 / 50, 20 / 50))
        return (*super().editors, *added)
