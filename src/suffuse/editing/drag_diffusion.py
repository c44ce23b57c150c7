"""DragDiffusion: the model is told the picture, one latent is dragged, and the rest follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..adapters.lora import LoRA
from ..core.model import Model
from ..core.patch import Adapter
from ..core.registry import method
from ..images import Picture
from .fitting import fit_to_image
from .key_value_bank import KVBank
from .latent_drag import LatentDrag
from .task import Edits, edit


@method(paper="dragdiffusion")
@dataclass(frozen=True)
class DragDiffusion:
    """Drags points of a picture: LoRA on the picture, `LatentDrag`, and the source's keys and values from a layer on.

    Args:
        drag: how the latent is optimised.
        rank, lora_steps, lora_rate, batch: of the LoRA on the attention of the network; no steps are no LoRA.
        bank: how the drag attends to its source, or None.

    Example:
        >>> DragDiffusion()(model, image, "a red circle", mask=mask, points=[(20, 30, 36, 30)]).images[0]

    Reference: Shi et al., DragDiffusion: Harnessing Diffusion Models for Interactive Point-based Image Editing,
    2306.14435.
    """

    drag: LatentDrag = LatentDrag()
    rank: int = 16
    lora_steps: int = 80
    lora_rate: float = 5e-4
    batch: int = 4
    bank: KVBank | None = KVBank(step=0.0, layer=10 / 16)

    def __call__(
        self,
        model: Model,
        image: Picture,
        prompt: str,
        *,
        points: Sequence[Sequence[float]],
        mask: Picture,
        steps: int = 50,
        seed: int = 0,
    ) -> Edits:
        """Drag what is at (x0, y0) to (x1, y1), for each of the points; the model is left as it was.

        Args:
            model: a loaded UNet model.
            image: one picture.
            prompt: what it shows.
            points: x0, y0, x1, y1 each, in pixels.
            mask: white where the picture may change.
            steps, seed: of the run, and of the LoRA.
        """
        known = model.with_(self.fitted(model, image, prompt, seed)) if self.lora_steps else model
        editors = () if self.bank is None else (self.bank,)
        return edit(
            known, image, prompt, prompt, inversion=self.drag, editor=editors, mask=mask, points=points, steps=steps,
            guidance=self.drag.w, seed=seed,
        )  # fmt: skip

    def fitted(self, model: Model, image: Picture, prompt: str, seed: int = 0) -> Adapter:
        """A LoRA with which the model knows the picture."""
        steps = (self.lora_steps, self.lora_rate)
        told = fit_to_image(
            model, image, prompt, embedding=(0, 1e-3), weights=LoRA(self.rank, where="attn-only"), fine_tuning=steps,
            batch=self.batch, seed=seed,
        )  # fmt: skip
        assert told.weights is not None
        return told.weights
