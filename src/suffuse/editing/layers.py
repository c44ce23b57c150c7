"""Layers of a picture, each of which re-imagines a part of it over the known run that leads to it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..core.cond import Cond
from ..core.engine import State, sample
from ..core.errors import BadInput, Damaged
from ..core.files import atomic_write
from ..core.model import Model
from ..core.noise import Keyed
from ..core.recipe import hash_of
from ..images import Picture, mask_tensor, to_pil
from .inverter import Plan
from .keep_outside import KeepPath, composite, to_grid

WINDOW = 5
"""Cells a side over which the local standard deviation of a state is taken."""


@dataclass(frozen=True, eq=False)
class Stroke:
    """One layer: where and how a picture is re-imagined.

    Args:
        mask: (1, 1, H, W) in [0, 1], 1 where the picture may change; soft brushes blend.
        start: n / N, share of the run at which the noise is put in; early strokes change layout, late ones details.
        alpha: strength of the noise, 0 to 1.
        seed: of the noise.
        prompt: what is to be there; None is the picture's own.
        settle: share of the layer's own steps in which the outside moves too, before it is put back.
        hidden: left out of the picture.
    """

    mask: Tensor
    start: float = 0.5
    alpha: float = 1.0
    seed: int = 0
    prompt: str | None = None
    settle: float = 0.0
    hidden: bool = False

    def __post_init__(self) -> None:
        if not (0.0 <= self.start < 1.0 and 0.0 <= self.alpha <= 1.0 and 0.0 <= self.settle < 1.0):
            raise BadInput(
                f"Stroke(start={self.start}, alpha={self.alpha}, settle={self.settle}): start and settle lie in "
                "[0, 1), alpha in [0, 1]"
            )

    @property
    def plain(self) -> dict[str, Any]:
        """All but the mask."""
        names = ("start", "alpha", "seed", "prompt", "settle", "hidden")
        return {name: getattr(self, name) for name in names}

    @property
    def key(self) -> tuple[Any, ...]:
        """What its pixels depend on."""
        return (hash_of(self.mask), self.start, self.alpha, self.seed, self.prompt, self.settle)

    @property
    def shown(self) -> bool:
        """Whether it can change the picture: not hidden, somewhere, and by noise or by a prompt."""
        return not self.hidden and bool((self.mask > 0).any()) and (self.alpha > 0.0 or self.prompt is not None)


@dataclass(frozen=True, eq=False)
class Canvas:
    """A picture, the run {z_t} that leads to it, and the layers painted over it.

    It is a value: painting, hiding, reordering and dropping return another canvas, which shares the run and finished
    layers. A layer is made from the run and not from the layers below it, so that none touches another; where they
    overlap, later ones lie on top.

    Args:
        model, plan: that the run belongs to.
        prompt, negative_prompt: of the picture.
        states: of the run, before every step and after the last.
        pixels: (1, 3, H, W) the picture, in [-1, 1].
        strokes: the layers, the lowest first.
        made: pixels of finished layers.
    """

    model: Model
    plan: Plan
    prompt: str
    negative_prompt: str | None
    states: Sequence[State]
    pixels: Tensor
    strokes: tuple[Stroke, ...] = ()
    made: dict[Any, Tensor] = field(default_factory=dict, repr=False)

    def paint(
        self, mask: Picture, start: float = 0.5, alpha: float = 1.0, seed: int = 0, prompt: str | None = None,
        settle: float = 0.0,
    ) -> Canvas:  # fmt: skip
        """One layer more, on top: white of the mask may change; the other arguments are those of `Stroke`."""
        stroke = Stroke(mask_tensor(mask, self._size), start, alpha, seed, prompt, settle)
        return replace(self, strokes=(*self.strokes, stroke))

    def hide(self, k: int, hidden: bool = True) -> Canvas:
        """Layer k, counted from the lowest, hidden or shown again."""
        self._check([k])
        return replace(
            self, strokes=tuple(replace(s, hidden=hidden) if i == k else s for i, s in enumerate(self.strokes))
        )

    def arrange(self, order: Sequence[int]) -> Canvas:
        """These layers, `order[0]` the lowest; those that it does not name are dropped."""
        self._check(order)
        return replace(self, strokes=tuple(self.strokes[k] for k in order))

    @property
    def image(self) -> Image.Image:
        """The picture with its layers; those that are not finished are made."""
        return to_pil(self.render())[0]

    @torch.no_grad()
    def render(self) -> Tensor:
        """(1, 3, H, W) pixels, where no layer is the picture's own to the bit."""
        out = self.pixels
        for stroke in self.strokes:
            if stroke.shown:
                if stroke.key not in self.made:
                    self.made[stroke.key] = self.model.decode(self._run(stroke)).clamp(-1, 1)
                out = composite(out, self.made[stroke.key], stroke.mask)
        return out

    def save_layers(self, path: str | os.PathLike[str]) -> Path:
        """Write the layers to a safetensors file, whole or not at all."""
        masks = {f"mask.{k}": s.mask.contiguous() for k, s in enumerate(self.strokes)}
        return atomic_write(path, save(masks, {"strokes": json.dumps([s.plain for s in self.strokes])}))

    def load_layers(self, path: str | os.PathLike[str]) -> Canvas:
        """This canvas with the layers that `save_layers` wrote.

        Raises:
            Damaged: it is missing, or not a file of layers. BadInput: layers of another size.
        """
        try:
            with safe_open(path, "pt") as file:
                plain = json.loads(file.metadata()["strokes"])
                strokes = tuple(Stroke(file.get_tensor(f"mask.{k}"), **each) for k, each in enumerate(plain))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise Damaged(f"{path}: not a file of layers ({error}); save them again") from error
        return replace(self, strokes=tuple(replace(s, mask=mask_tensor(s.mask, self._size)) for s in strokes))

    @property
    def _size(self) -> tuple[int, int]:
        return (self.pixels.shape[-2], self.pixels.shape[-1])

    def _run(self, stroke: Stroke) -> Tensor:
        """The last N - n steps, from new noise in the mask, with the rest put back on the known run."""
        steps = self.plan.grid.n
        made = max(1, steps - round(stroke.start * steps))
        if made >= len(self.states):
            raise BadInput(f"start={stroke.start}: the run is known from {1 - (len(self.states) - 1) / steps:.2g} on")
        states = self.states[-1 - made :]
        known, mask = states[0], to_grid(stroke.mask, states[0].x.shape[-2:])
        path = Cond({"states": torch.stack([state.x for state in states], 1), "mask": mask})
        prompt = self.prompt if stroke.prompt is None else stroke.prompt
        cond = self.model.condition(prompt, self.negative_prompt, size=self._size, grid=self.plan.grid)
        kept = steps - made + round(stroke.settle * made)
        noise = Keyed(stroke.seed).normal(known.x, known.samples, "brush")
        run = sample(
            self.plan.denoiser, replace(known, x=renewed(known.x, mask, stroke.alpha, noise)),
            sampler=self.plan.sampler, grid=self.plan.grid, guidance=self.plan.guidance, noise=self.plan.noise,
            setting=self.plan.setting, cond=cond.with_alt(path=path),
            hooks=[KeepPath().during(kept / steps, 1.0)],
        )  # fmt: skip
        return run.x

    def _check(self, layers: Sequence[int]) -> None:
        if len({*layers}) < len(layers) or not all(0 <= k < len(self.strokes) for k in layers):
            raise BadInput(
                f"layers={list(layers)}: there are {len(self.strokes)}; give each once, by its number from 0"
            )


def renewed(z: Tensor, mask: Tensor, alpha: float, noise: Tensor) -> Tensor:
    """z' = (1 - m) z + m (sqrt(1 - alpha^2) z + alpha s noise), with s the local standard deviation of z.

    Args:
        z: (B, C, h, w) states.
        mask: (B, 1, h, w) in [0, 1].
        alpha: 0 keeps z, 1 puts noise in its place.
        noise: standard normal, like z.
    """
    mean, square = (F.avg_pool2d(v, WINDOW, 1, WINDOW // 2, count_include_pad=False) for v in (z, z.square()))
    std = (square - mean.square()).clamp(min=0.0).sqrt()
    return composite(z, (1.0 - alpha * alpha) ** 0.5 * z + alpha * std * noise, mask)
