"""What a user holds: a conditioner, a denoiser and a codec, with the settings that they were released with."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..images import Picture, to_tensor
from .arguments import check_parts, fitting, identities, listed, noise_of, one_of, spread, start_states, whole
from .codec import Codec
from .cond import Cond
from .conditioner import Conditioner, Size
from .denoiser import Denoiser, Network, View
from .errors import BadInput
from .fingerprint import fingerprint, version
from .generation import Generation, Images, Source
from .grid import Grid, Spacing
from .guidance import Guidance
from .hook import Hook
from .noise import Noise
from .plugin import Needs, Plugin, Prompt, Setting
from .prompt import Encoded
from .released import Defaults, Layout
from .sampler import Sampler
from .step import Step
from .tuned import Mode, Tuned, TunedCodec

if TYPE_CHECKING:
    from ..editing.code import Code
    from ..editing.task import Edits
    from ..resolution.progressive import Progressive


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A loaded checkpoint. `suffuse.load` makes one; a changed model is a view that shares its weights.

    Args:
        conditioner: prompts to conditions.
        codec: pictures to states and back.
        denoiser: what predicts.
        defaults: how it is run.
        layout: how it is written.
        name: what it was loaded as.
        named: adapters of the files that its name tells of.
        exchanged: "conditioner" or "codec" -> class of what stands in the checkpoint's place.
    """

    conditioner: Conditioner
    codec: Codec
    denoiser: Denoiser
    defaults: Defaults
    layout: Layout
    name: str = ""
    named: Sequence[Any] = ()
    exchanged: Mapping[str, str] = field(default_factory=dict)
    _prints: dict[Any, str] = field(default_factory=dict, repr=False)

    # making pictures
    @torch.no_grad()
    def generate(
        self,
        prompt: Prompt | Sequence[Prompt] | None = None,
        *,
        negative_prompt: Prompt | Sequence[Prompt] | None = None,
        image: Picture | Sequence[Picture] | Images | None = None,
        mask_image: Picture | Sequence[Picture] | None = None,
        strength: float | None = None,
        steps: int | None = None,
        guidance: Guidance | float | None = None,
        sampler: Sampler | None = None,
        spacing: Spacing | None = None,
        patches: Sequence[Any] = (),
        hooks: Sequence[Hook] = (),
        seed: int | Sequence[int] | None = None,
        noise: Noise | None = None,
        n: int | None = None,
        samples: Sequence[int] | None = None,
        batch: int | None = None,
        height: int | None = None,
        width: int | None = None,
        latents: Tensor | None = None,
        truncate: bool = False,
        upscale: Progressive | None = None,
        progress: Callable[[Step], None] | None = None,
        preview: Callable[[Images], None] | None = None,
        callback_on_step_end: Callable[..., Mapping[str, Tensor] | None] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_images_per_prompt: int | None = None,
    ) -> Images:
        """Pictures of a prompt; from another picture, or in the masked part of one, where `image` is given.

        Args:
            prompt: text, a value such as `Blend` (suffuse.conditioning), or name or number of a class; a list makes
                pictures of each.
            negative_prompt: what guidance leads away from; `Switch` makes it another one in later steps. Refused where
                guidance asks about the prompt alone, as with a scale of 1 or one that is an input of the network.
            image: picture to start from; with `upscale` the first phase, also what an earlier `generate` returned.
            mask_image: white where `image` is to change, black where it is to stay; grey blends.
            strength: share of the steps made from `image`, 0 to 1; default 0.8, with a mask 1.
            steps: steps of the full grid (diffusers' `num_inference_steps`).
            guidance: a guidance, or its scale (`guidance_scale`); a scale of 1 or less is none.
            sampler, spacing, patches, hooks: plug-ins.
            seed, generator, noise: one source of noise; default seed 0. A list has one for each picture; a `generator`
                is read in diffusers' order.
            n: pictures of each prompt (`num_images_per_prompt`).
            samples: identities of the pictures, default 0, 1, 2, ...; `samples=[3]` makes the fourth of a batch alone.
            batch: pictures made at once; default all.
            height, width: in pixels; default those of `image`, to the nearest that can be made, else the model's own.
            latents: (B, C, h, w) start states instead of noise.
            truncate: cut off the end of a prompt that is too long, instead of refusing it.
            upscale: how pictures become larger than the model's own size, such as `DemoFusion()`: the first phase has
                the model's size and the proportions of `height` and `width`, or is `image`.
            progress: called with each step before it is made.
            preview: called with the pictures of each phase of `upscale`.
            callback_on_step_end: function(model, step, timestep, {"latents": x}); may return changed latents.

        Raises:
            BadInput: an argument that cannot be used. Refused: parts that do not go together. Diverged: NaN.
        """
        check_parts(sampler=sampler, spacing=spacing, patches=patches, hooks=hooks)
        chosen = self.defaults.guided_by(one_of("guidance", guidance, "guidance_scale", guidance_scale, None))
        asked = one_of("steps", steps, "num_inference_steps", num_inference_steps, None)
        steps = whole("steps", self.defaults.steps if asked is None else asked)
        n = whole("n", one_of("n", n, "num_images_per_prompt", num_images_per_prompt, 1))
        spacing = spacing or (sampler and sampler.spacing) or self.defaults.spacing
        sampler = sampler or self.defaults.sampler
        pictures = image.images if isinstance(image, Images) else image
        own = None
        if pictures is not None and (upscale is not None or None in (height, width)):
            own = to_tensor(pictures).shape[-2:]
        large = size = self.defaults.sized(height, width, own)
        if upscale is not None:
            if mask_image is not None or strength is not None:
                raise BadInput("mask_image, strength: of a run of one size; leave them out with upscale")
            size = self._first_size(upscale, large, own)
        shape = self.codec.space.shape(size)
        grid = spacing.grid(self.denoiser.process, steps, shape)
        if asked is not None and grid.n != steps:
            raise BadInput(f"steps={asked}: {spacing!r:.40} has {grid.n} steps of its own; leave steps out")
        prompts = [p for p in listed(prompt) for _ in range(n)]
        negatives = spread("negative_prompt", listed(negative_prompt), len(prompts))
        ids = identities(samples, len(prompts))
        plugins = (chosen, sampler, *hooks, *patches)
        asking = [p for plugin in plugins for p in plugin.bare if Needs.UNCONDITIONAL in p.needs and p != p.neutral()]
        if not asking and any(p not in (None, "") for p in negatives):
            raise BadInput(f"negative_prompt: {chosen} asks about the prompt alone; give guidance such as CFG(5)")
        if latents is not None and image is not None:
            raise BadInput("latents and image: two starts of one run; give one of them")
        generation = Generation(
            model=self, prompts=prompts, negatives=negatives, sampler=sampler, spacing=spacing, guidance=chosen,
            patches=patches, hooks=hooks, shape=shape, progress=progress, callback=callback_on_step_end,
            cond=self._encode(prompts, negatives, plugins, size=size, grid=grid, truncate=truncate),
            ids=ids,
            grid=grid,
            noise=noise_of(seed, generator, noise, ids),
            source=Source.of(pictures, mask_image, strength, large, len(prompts), self.device),
            latents=None if latents is None else start_states(latents, shape, len(prompts)).to(self.device),
            batch=len(prompts) if batch is None else whole("batch", batch),
            lost=["image: states of an earlier run"] if upscale and isinstance(image, Images) else (),
        )  # fmt: skip
        if upscale is None:
            return generation.run()

        from ..resolution.progressive import enlarged

        def encode(size: Size, grid: Grid) -> Cond:
            return self._encode(prompts, negatives, plugins, size=size, grid=grid, truncate=truncate)

        start = None
        if image is not None:
            x0 = image.latents if isinstance(image, Images) else self.encode(to_tensor(image, size))
            start = fitting("image", x0, len(prompts))
        sizes = upscale.sizes(size, large, self.defaults.multiple)
        return enlarged(generation, start, upscale, sizes, encode, preview)

    def _first_size(self, upscale: Progressive, large: Size, own: Sequence[int] | None) -> Size:
        """Size of the first phase: that of the picture, as near as the model can, or the method's choice."""
        from ..resolution.progressive import Progressive

        if not isinstance(upscale, Progressive):
            raise BadInput(f"upscale: {upscale!r:.60} is no way to larger pictures; give one such as DiffuseHigh()")
        if own is None:
            return upscale.first(self.defaults.size, large, self.defaults.multiple)
        return self.defaults.near(own)

    def upscale(
        self,
        image: Picture | Sequence[Picture] | Images,
        prompt: Prompt | Sequence[Prompt] | None = None,
        *,
        factor: float = 2.0,
        height: int | None = None,
        width: int | None = None,
        method: Progressive | None = None,
        **settings: Any,
    ) -> Images:
        """Larger pictures with details that the model knows: `generate` from pictures, by a method of `upscale`.

        Args:
            image: pictures, or what `generate` or an earlier `upscale` returned, from whose states it goes on exactly.
            prompt: what they show.
            factor: how much larger, where neither `height` nor `width` is given.
            height, width: in pixels.
            method: default `DiffuseHigh()`.
            settings: those of `generate`.

        Raises:
            BadInput: a factor of 1 or less, or a size below the picture's.
        """
        from ..resolution.diffusehigh import DiffuseHigh

        if (height is None) != (width is None):
            raise BadInput(f"height={height}, width={width}: give both, or a factor")
        if not 1.0 < factor < math.inf:
            raise BadInput(f"factor={factor}: give how much larger, a number above 1, such as 2")
        own = to_tensor(image.images if isinstance(image, Images) else image).shape[-2:]
        if height is None or width is None:
            height, width = self.defaults.near([factor * side for side in own])
        if height < own[0] or width < own[1]:
            raise BadInput(f"height={height}, width={width}: the picture is larger, {own[0]} x {own[1]}; scale it down")
        return self.generate(
            prompt, image=image, upscale=method or DiffuseHigh(), height=height, width=width, **settings
        )

    def condition(
        self,
        prompt: Prompt | Sequence[Prompt] | None = None,
        negative_prompt: Prompt | Sequence[Prompt] | None = None,
        *,
        n: int = 1,
        plugins: Sequence[Any] = (),
        size: Size | None = None,
        grid: Grid | None = None,
        truncate: bool = False,
    ) -> Cond:
        """The condition of `n` pictures a prompt, for `sample` and `trace`, with the alternative "null".

        What `plugins` ask to be encoded for them is among the alternatives. Prompts that change over the run need its
        `grid`.
        """
        prompts = [p for p in listed(prompt) for _ in range(n)]
        negatives = spread("negative_prompt", listed(negative_prompt), len(prompts))
        size = size or self.defaults.size
        return self._encode(prompts, negatives, plugins, size=size, grid=grid, truncate=truncate)

    def encode_prompt(self, prompt: Prompt, truncate: bool = False) -> Encoded:
        """A prompt encoded once, for many runs: `model.generate(model.encode_prompt("a red circle"))`."""
        return self.conditioner.encode_prompt(prompt, self.defaults.size, truncate)

    def _encode(
        self, prompts: Sequence[Any], negatives: Sequence[Any] | None, plugins: Sequence[Any], **how: Any
    ) -> Cond:
        """Prompts with all that plug-ins ask for beside them."""
        plugged = [p for p in plugins if isinstance(p, Plugin)]
        bare = [inner for p in plugged for inner in p.bare]
        phrases = [tuple(dict.fromkeys(text for p in bare for text in p.phrases(prompt))) for prompt in prompts]
        asks = any(type(p).phrases is not Plugin.phrases for p in bare)
        others = {k: p for part in plugged for k, p in part.prompts().items()}
        return self.conditioner.encode(prompts, negatives, others=others, phrases=phrases if asks else (), **how)

    def invert(
        self, image: Picture | Sequence[Picture], prompt: Prompt | Sequence[Prompt] | None = None, **settings: Any
    ) -> Code:
        """Find pictures in the model: `suffuse.editing.invert` on it, with DDIM inversion unless told otherwise.

        `edit` decodes the code, and `generate(prompt, latents=code.x, sampler=DDIM(), guidance=1.0, steps=...)` leads
        back from it.
        """
        from ..editing.task import invert

        return invert(self, image, prompt, **settings)

    def edit(
        self,
        image: Picture | Sequence[Picture] | None,
        source: Prompt | Sequence[Prompt],
        target: Prompt | Sequence[Prompt],
        **settings: Any,
    ) -> Edits:
        """Change pictures from what one prompt says to what another says: `suffuse.editing.edit` on this model."""
        from ..editing.task import edit

        return edit(self, image, source, target, **settings)

    @torch.no_grad()
    def encode(self, image: Picture | Sequence[Picture]) -> Tensor:
        """(B, C, h, w): the states of pictures, which are resized to the nearest size that the model can make."""
        pixels = to_tensor(image)
        near = self.defaults.near(pixels.shape[-2:])
        if near != tuple(pixels.shape[-2:]):
            pixels = to_tensor(image, near)
        return self.codec.encode(pixels.to(self.device))[0]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """(B, 3, H, W), nominally in [-1, 1]: the pictures of states; `suffuse.images.to_pil` makes them PIL images."""
        return self.codec.decode(latents)

    # changing it
    def with_(self, *items: Any) -> Model:
        """A view with patches or adapters, the first outermost; weights are shared."""
        return replace(self, denoiser=self.denoiser.with_(*items))

    def baked(self) -> Model:
        """A copy with its adapters merged into the weights (diffusers' `fuse_lora`), which can be saved as a model."""
        from ..adapters.merging import baked

        return baked(self)

    def with_conditioner(self, conditioner: Conditioner) -> Model:
        """The same model told otherwise what to make."""
        return self._exchanged(conditioner=conditioner)

    def with_codec(self, codec: Codec) -> Model:
        """The same model with another way between pictures and states, such as `TiledVAE` for large pictures."""
        return self._exchanged(codec=codec)

    def _exchanged(self, **part: Any) -> Model:
        return replace(self, **part, exchanged={**self.exchanged, **{k: type(v).__name__ for k, v in part.items()}})

    def to(self, device: torch.device | str | torch.dtype | None = None, dtype: torch.dtype | None = None) -> Model:
        """Move its modules, in place, and return it; a number type may come first, as in torch."""
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        for module in (self.conditioner, self.codec, self.denoiser):
            module.to(device=device, dtype=dtype)
        return self

    # what it is
    def __repr__(self) -> str:
        size, own = sum(p.numel() for p in self.net.parameters()) / 1e6, self.defaults
        net = f"{type(self.net).__name__} of {size:.3g} M parameters, {self.dtype} on {self.device}"
        how = f"{own.sampler}, {own.steps} steps, {own.guidance}, {own.size[0]} x {own.size[1]} pixels"
        changes = "".join(f" + {getattr(change, 'patch', change)}" for change in self.changes)
        return f"Model({self.name!r}: {self.layout.pipeline}, {net}{changes}; by default {how})"

    @property
    def dtype(self) -> torch.dtype:
        """Of its network's weights."""
        return next(self.denoiser.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where its network is."""
        return next(self.denoiser.parameters()).device

    @property
    def network(self) -> Network:
        """What predicts, below all views."""
        inner: Any = self.denoiser
        while not isinstance(inner, Network):
            inner = inner.base
        return inner

    @property
    def net(self) -> nn.Module:
        """The module of its network."""
        return self.network.net

    @property
    def changes(self) -> list[Any]:
        """The patches and adapters of this view, the outermost first."""
        found: list[Any] = []
        inner: Any = self.denoiser
        while not isinstance(inner, Network):
            if isinstance(inner, View):
                found.append(inner.adapter or inner.binding.patch)
            inner = inner.base
        return found

    @property
    def added(self) -> list[Any]:
        """Those that its name does not tell of: what a recipe says beside it."""
        return [change for change in self.changes if not any(change is known for known in self.named)]

    @property
    def modes(self) -> dict[str, Mode]:
        """How its network ("mode") and its decoder ("decoder") are computed, where they are tuned."""
        inner: Any = self.denoiser
        while not isinstance(inner, (Network, Tuned)):
            inner = inner.base
        parts = {"mode": inner, "decoder": self.codec}
        return {name: part.mode for name, part in parts.items() if isinstance(part, (Tuned, TunedCodec))}

    @property
    def identity(self) -> dict[str, Any]:
        """What recipes say of it: name, its weights' fingerprint, what was exchanged, and how it is tuned."""
        modes = {part: asdict(mode) for part, mode in self.modes.items()}
        return {"model": self.name, "fingerprint": self.fingerprint, **self.exchanged, **modes}

    @property
    def components(self) -> Mapping[str, Any]:
        """Its parts by diffusers' names."""
        return {**self.conditioner.components, **self.codec.components, self.layout.net: self.net}

    @property
    def fingerprint(self) -> str:
        """A short name for exactly these weights, adapters included."""
        return self._print([*(m for m in self.components.values() if isinstance(m, nn.Module)),
                            *(c for c in self.changes if isinstance(c, nn.Module))])  # fmt: skip

    def setting(self, shape: tuple[int, ...] = ()) -> Setting:
        """Where plug-ins run: the network, and the shape of one state."""
        return Setting(model=self._print([self.net]), shape=shape)

    def _print(self, modules: Sequence[nn.Module]) -> str:
        key = version(*modules)
        if key not in self._prints:
            self._prints[key] = fingerprint(*modules)
        return self._prints[key]

    # storing it
    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write it in diffusers' layout; the folder is whole or absent."""
        from ..loading.folder import save

        return save(self, Path(folder))

    def to_diffusers(self) -> Any:
        """diffusers' own pipeline of the same modules, with the scheduler of the checkpoint."""
        from ..loading.folder import pipeline

        return pipeline(self)
