"""How pictures are made from resolved arguments: `Model.generate` resolves them, `Generation` runs them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..images import mask_tensor, save_pngs, to_pil, to_tensor
from .arguments import fitting
from .cond import Cond
from .conditioner import Size
from .engine import Start, sample
from .errors import BadInput, Refused
from .grid import Grid, Spacing
from .guidance import Guidance
from .hook import Hook, StepFunction
from .noise import Noise
from .plugin import Needs, Prompt
from .process import Process
from .recipe import Recipe, hash_of, of_picture, recipe
from .sampler import Sampler
from .step import Step
from .value import Value

if TYPE_CHECKING:
    from .model import Model


CALLBACK = "callback_on_step_end"
"""What recipes call a callback that has changed latents."""


@dataclass(frozen=True)
class StepEnd(Hook):
    """diffusers' callback: function(model, step, timestep, {"latents": x}) after every step; may return latents.

    Args:
        function: the callback.
        model: what it is told.
        changed: called where it returns other latents than it was given.
    """

    function: Callable[[Any, int, float, dict[str, Value]], Mapping[str, Value] | None]
    model: Any
    changed: Callable[[], None]

    def __call__(self, step: StepFunction, x: Value, at: Step) -> Value:
        out = step(x, at)
        returned = self.function(self.model, at.i, at.process.timestep(at.t).item(), {"latents": out}) or {}
        if not isinstance(returned, Mapping):
            raise BadInput(f"callback_on_step_end returned {returned!r:.60}; return None or {{'latents': x}}")
        latents = returned.get("latents", out)
        if latents is not out:
            if getattr(latents, "shape", None) != out.shape:
                raise BadInput(f"callback_on_step_end returned {latents!r:.60} as latents; return {tuple(out.shape)}")
            self.changed()
        return latents


@dataclass(frozen=True, eq=False)
class Source:
    """A picture that a run starts from, and where it may change.

    Args:
        pixels: (B, 3, H, W) in [-1, 1].
        mask: (B, 1, H, W), 1 where the picture is to change, 0 where it is to stay; None changes all.
        strength: share of the steps that are made, 0 to 1.
    """

    pixels: Tensor
    mask: Tensor | None
    strength: float

    @classmethod
    def of(cls, image: Any, mask: Any, strength: float | None, size: Size, rows: int, device: Any) -> Source | None:
        """From arguments as a user gives them; `image` and `mask` one for all rows, or for each prompt."""
        if image is None:
            given = "mask_image" if mask is not None else "strength" if strength is not None else None
            if given:
                raise BadInput(f"{given}: needs a picture to start from; give image")
            return None
        strength = (1.0 if mask is not None else 0.8) if strength is None else strength
        if not 0.0 < strength <= 1.0:
            raise BadInput(f"strength={strength}: must be above 0 and at most 1")
        pixels = fitting("image", to_tensor(image, size), rows).to(device)
        kept = None if mask is None else fitting("mask_image", mask_tensor(mask, size), rows).to(device)
        return cls(pixels, kept, strength)

    def first(self, grid: Grid) -> int:
        """The step of the grid at which the run begins."""
        made = min(int(grid.n * self.strength), grid.n)
        if made < 1:
            raise BadInput(
                f"strength={self.strength}: no step of {grid.n} is left; give at least {1 / grid.n:.2g}, or more steps"
            )
        return grid.n - made

    def prepare(
        self, model: Model, cond: Cond, process: Process, grid: Grid, noise: Noise, ids: Sequence[int]
    ) -> tuple[Start, Cond]:
        """Where a run on these rows starts, and the condition by which it knows what is to stay.

        Noise is drawn once: the kept part of the picture moves along the line from it to the noise that the run
        started from, so that both parts belong together at every step.
        """
        x0 = model.encode(self.pixels)
        z = noise.normal(x0, ids, "start")
        t = grid.node(self.first(grid))

        def draw(like: Tensor, tag: str = "", kind: str = "normal") -> Tensor:
            return z

        # Without strength, what is painted over owes nothing to the picture below it, as in diffusers' inpainting.
        fresh = self.mask is not None and self.strength >= 1.0
        x = (process.prior(x0) if fresh else process.marginal(x0, t)).sample(draw)
        if self.mask is not None:
            cond = self._known(model, cond, x0, z)
        return Start.exactly(x, t.item()), cond

    def _known(self, model: Model, cond: Cond, x0: Tensor, z: Tensor) -> Cond:
        assert self.mask is not None
        if model.defaults.inpainting is not None:
            mask = F.adaptive_avg_pool2d(self.mask, (x0.shape[-2], x0.shape[-1]))
            return cond.with_alt(known=Cond({"x0": x0, "noise": z, "mask": mask}))
        hard = (self.mask >= 0.5).to(self.mask)
        kept = model.encode(self.pixels * (1.0 - hard))
        return cond | {"source": torch.cat([F.interpolate(hard, x0.shape[-2:]), kept], 1)}

    def __getitem__(self, rows: Any) -> Source:
        return Source(self.pixels[rows], None if self.mask is None else self.mask[rows], self.strength)

    def composite(self, pixels: Tensor) -> Tensor:
        """`pixels` where the mask says so, the source's own elsewhere."""
        return pixels if self.mask is None else self.pixels + self.mask * (pixels - self.pixels)


@dataclass(frozen=True, eq=False, repr=False)
class Images:
    """What `Model.generate` returns.

    Attributes:
        images: PIL images.
        latents: (B, C, h, w) final states; `model.decode(latents)` gives pixels as a tensor.
        nfe: (B,) network evaluations spent on each.
        recipes: what rebuilds each.
    """

    images: list[Image.Image]
    latents: Tensor
    nfe: Tensor
    recipes: list[Recipe]

    def __repr__(self) -> str:
        width, height = self.images[0].size
        return f"Images({len(self.images)} of {width} x {height} pixels, {self.nfe.tolist()} evaluations)"

    def save(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write PNG files with their recipes: to this file, or as 000.png, 001.png, ... into this folder."""
        return save_pngs(self.images, path, self.recipes)


@dataclass(frozen=True, eq=False)
class Generation:
    """Pictures to be made: every argument of `Model.generate`, resolved.

    Args:
        prompts, negatives: words of every picture.
        cond: one row a picture.
        ids: identity of every picture.
        grid: times of the full run.
        source: picture to start from, or None.
        latents: start states, or None.
        shape: (C, h, w) of one state.
        batch: pictures made at once.
        callback: diffusers' callback, or None.
        lost: what of all this a recipe cannot hold.
    """

    model: Model
    prompts: Sequence[Prompt | None]
    negatives: Sequence[Prompt | None]
    cond: Cond
    ids: Sequence[int]
    grid: Grid
    spacing: Spacing
    sampler: Sampler
    guidance: Guidance
    patches: Sequence[Any]
    hooks: Sequence[Hook]
    noise: Noise
    source: Source | None
    latents: Tensor | None
    shape: tuple[int, ...]
    batch: int
    progress: Callable[[Step], None] | None
    callback: Callable[..., Mapping[str, Value] | None] | None
    lost: Sequence[str] = ()

    def run(self) -> Images:
        """Make them, `batch` at a time."""
        latents: list[Tensor] = []
        nfe: list[Tensor] = []
        pictures: list[Image.Image] = []
        lost: list[str] = []
        hooks = self._hooks(lambda: lost.append(CALLBACK))
        for part in self._parts():
            start, cond = self._start(part)
            result = sample(
                self.model.denoiser, start, sampler=self.sampler, grid=self.grid, cond=cond, guidance=self.guidance,
                patches=self.patches, hooks=hooks, noise=self.noise, samples=self.ids[part],
                setting=self.model.setting(self.shape), progress=self.progress,
            )  # fmt: skip
            pixels = self.model.decode(result.x)
            pictures += to_pil(pixels if self.source is None else self.source[part].composite(pixels))
            latents.append(result.x)
            nfe.append(result.nfe)
        return Images(pictures, torch.cat(latents), torch.cat(nfe), self.recipes(lost[:1]))

    def recipes(self, lost: list[str]) -> list[Recipe]:
        """What rebuilds each picture; `lost` is what happened in the run that a recipe cannot hold."""
        source, factor = self.source, self.model.codec.space.factor
        shared = recipe(
            parts={
                "sampler": self.sampler,
                "spacing": self.spacing,
                "guidance": self.guidance,
                "patches": [*self.model.added, *self.patches],
                "hooks": self.hooks,
            },
            plain={
                **self.model.identity,
                "steps": self.grid.n,
                "height": self.shape[1] * factor,
                "width": self.shape[2] * factor,
                "strength": None if source is None else source.strength,
            },
            lost=[*self.lost, *lost],
        )

        def own(row: int) -> Recipe:
            tensors = {
                "image": None if source is None else source.pixels,
                "mask": None if source is None else source.mask,
                "latents": self.latents,
            }
            hashes = {name: None if v is None else hash_of(v[row : row + 1]) for name, v in tensors.items()}
            prompts = {"prompt": self.prompts[row], "negative_prompt": self.negatives[row]}
            seed, sample = self.noise.origin(self.ids[row]) or (None, self.ids[row])
            return of_picture(shared, prompts, seed=seed, sample=sample, **hashes)

        return [own(row) for row in range(len(self.ids))]

    def _parts(self) -> Iterator[slice]:
        rows = len(self.ids)
        plugins = [b for p in (self.sampler, self.guidance, *self.patches, *self.hooks) for b in p.bare]
        coupled = [p for p in plugins if Needs.COUPLES in p.needs]
        if coupled and self.batch < rows:
            raise Refused(
                f"batch={self.batch}: {coupled[0]} lets all {rows} pictures influence each other; leave batch out"
            )
        return (slice(k, min(k + self.batch, rows)) for k in range(0, rows, self.batch))

    def _start(self, part: slice) -> tuple[Start, Cond]:
        cond = self.cond[part] if self.cond.entries else self.cond
        process = self.model.denoiser.process.given(cond)
        if self.source is not None:
            return self.source[part].prepare(self.model, cond, process, self.grid, self.noise, self.ids[part])
        first = self.grid.node(0).item()
        if self.latents is not None:
            return Start.exactly(self.latents[part], first), cond
        like = torch.zeros(len(self.ids[part]), *self.shape, device=self.model.device)
        return Start(first, lambda process: process.prior(like)), cond

    def _hooks(self, changed: Callable[[], None]) -> list[Hook]:
        """The callback around all, what keeps the masked part innermost."""
        first = [] if self.callback is None else [StepEnd(self.callback, self.model, changed)]
        keeps = self.source is not None and self.source.mask is not None and self.model.defaults.inpainting
        return [*first, *self.hooks, *([keeps] if keeps else [])]
