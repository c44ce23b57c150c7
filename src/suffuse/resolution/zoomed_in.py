"""Super-resolution far beyond the native size: windows with prompts read from the degraded picture itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..codecs.blended import BlendedWindows
from ..core.arguments import identities
from ..core.cond import Cond
from ..core.engine import sample
from ..core.errors import BadInput, Refused
from ..core.guidance import Guidance
from ..core.model import Model
from ..core.noise import Keyed, Noise
from ..core.registry import method
from ..core.sampler import Sampler
from ..guidance.cfg import CFG
from ..restoration.colour_fix import coarse_colours
from ..samplers.ancestral import DDIM
from .local_prompts import WINDOWS, LocalPrompts
from .progressive import bicubic
from .tagger import DegradationAwareTagger
from .tiles import Box


@dataclass(frozen=True, eq=False)
class TagMap:
    """What was read where.

    Attributes:
        boxes: windows in pixels of the large picture, row by row.
        hard: of each picture, of each row, of each window the names of its tags.
        scores: (B, rows, columns, tags) probabilities.
    """

    boxes: Sequence[Sequence[Box]]
    hard: Sequence[Sequence[Sequence[tuple[str, ...]]]]
    scores: Tensor


@dataclass(frozen=True, eq=False)
class Zoomed:
    """Large pictures (B, 3, H, W) in [-1, 1], and the tags that they were made with."""

    pictures: Tensor
    tags: TagMap


@method(paper="zoomed-in")
@dataclass(frozen=True, eq=False)
class ZoomedIn:
    """Degraded pictures in, pictures of any size and proportions out, by a model of small pictures with a control.

    The bicubically enlarged picture y is cut into windows of the model's native size. The tagger reads each: its hard
    tags become the window's prompt, none where there are none, its soft embeddings the condition "soft" of models that
    read it. That is done once; every step then asks about all windows, each with its crop of y as "control", or
    "encoded", and averages (`LocalPrompts`). Tagger, network and decoder see some windows at a time, however large the
    picture.

    Args:
        model: that follows a degraded picture: `model.with_(branch)` with a `ControlNet` or an `EncodedInput`; for soft
            embeddings with `ImagePrompt("soft")` too.
        tagger: what reads the windows.
        factor: enlargement, 1 or more.
        windows: where they lie and what they weigh.
        guidance: of each window.
        sampler, steps: of the run; None is the model's number of steps.
        colours: (pictures, enlarged ones) -> pictures with the colours of the enlarged ones, `coarse_colours` by
            wavelets or `adain`; None leaves them.
        local: False reads the whole picture at once, and tells all windows the same.

    Raises:
        BadInput: a factor below 1. Refused: a model without a control branch.

    Example:
        >>> zoomed = ZoomedIn(model.with_(branch, soft), tagger)(low_resolution)
        >>> zoomed.tags.hard[0][0][0], zoomed.pictures

    Reference: Moser et al., Zoomed In, Diffused Out: Towards Local Degradation-Aware Multi-Diffusion for Extreme Image
    Super-Resolution, 2411.12072.
    """

    model: Model
    tagger: DegradationAwareTagger
    factor: float = 4.0
    windows: LocalPrompts = LocalPrompts()
    guidance: Guidance = CFG(3.0)
    sampler: Sampler = DDIM()
    steps: int | None = None
    colours: Callable[[Tensor, Tensor], Tensor] | None = coarse_colours
    local: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.factor) and self.factor >= 1.0):
            raise BadInput(f"factor={self.factor}: give 1 or more")
        if not self._reads & {"control", "encoded"}:
            raise Refused("model: nothing in it reads a degraded picture; give model.with_(branch), see ControlNet")

    @torch.no_grad()
    def __call__(self, pictures: Tensor, *, noise: Noise | int = 0, samples: Sequence[int] | None = None) -> Zoomed:
        """Enlarge pictures (B, 3, h, w) in [-1, 1].

        Args:
            pictures: degraded.
            noise: Noise or seed.
            samples: identity of each row for the noise; default 0, 1, 2, ...

        Raises:
            BadInput: pictures of another shape.
        """
        if pictures.ndim != 4 or pictures.shape[1] != 3:
            raise BadInput(f"pictures of shape {tuple(pictures.shape)}: give (B, 3, H, W) in [-1, 1]")
        height, width = (round(self.factor * side) for side in pictures.shape[2:])
        enlarged = bicubic(pictures, (height, width)).clamp(-1, 1)
        y = self._padded(enlarged)
        model, factor, side = self.model, self.model.codec.space.factor, self._side
        size = y.shape[2] // factor, y.shape[3] // factor
        windows = replace(self.windows, window=side)
        own, tags = self._read(y, [[_times(factor, box) for box in row] for row in windows.boxes(size, (side, side))])
        told = model.condition([None] * len(y)) | self._given(control=y / 2 + 0.5)
        shape = (len(y), *model.codec.space.shape((y.shape[2], y.shape[3])))
        run = sample(
            model.denoiser, shape, sampler=self.sampler, steps=self.steps or model.defaults.steps,
            spacing=model.defaults.spacing, cond=told.with_alt(**{WINDOWS: own}),
            guidance=windows | self.guidance, noise=Keyed(noise) if isinstance(noise, int) else noise,
            samples=identities(samples, len(y)), setting=model.setting(shape[1:]),
        )  # fmt: skip
        out = BlendedWindows(model.codec, side, max(1, side // 2)).decode(run.x)[..., :height, :width]
        out = out if self.colours is None else self.colours(out, enlarged)
        return Zoomed(out.clamp(-1, 1), tags)

    @property
    def _reads(self) -> set[str]:
        """What the patches and adapters of the model read."""
        return {name for change in self.model.changes for name in getattr(change, "patch", change).reads}

    @property
    def _side(self) -> int:
        """Of a window, in entries of the state."""
        return self.windows.window or self.model.defaults.size[0] // self.model.codec.space.factor

    def _padded(self, y: Tensor) -> Tensor:
        """Continued by its edges to no less than a window and to a size that the model makes."""
        least, k = self._side * self.model.codec.space.factor, self.model.defaults.multiple
        down, right = (max(least, math.ceil(n / k) * k) - n for n in y.shape[2:])
        return F.pad(y, (0, right, 0, down), mode="replicate")

    def _read(self, y: Tensor, boxes: Sequence[Sequence[Box]]) -> tuple[Cond, TagMap]:
        """What each window is told, entries (B, rows, columns, ...), and the tags of all."""
        whole = None if self.local else self.tagger(y)
        found = [[whole or self.tagger(box.of(y)) for box in row] for row in boxes]
        hard = [[[tags.hard[b] for tags in row] for row in found] for b in range(len(y))]
        scores, soft = (_grid([[getattr(t, name) for t in row] for row in found]) for name in ("scores", "soft"))
        prompts = [self.tagger.network.prompt(tags) for picture in hard for row in picture for tags in row]
        told = self.model.condition(prompts, truncate=True).entries
        own = {name: entry.unflatten(0, scores.shape[:3]) for name, entry in told.items()}
        if "encoded" in self._reads:
            own["encoded"] = _grid([[self.model.codec.encode(box.of(y))[0] for box in row] for row in boxes])
        return Cond({**own, **self._given(soft=soft)}), TagMap(boxes, hard, scores)

    def _given(self, **entries: Tensor) -> dict[str, Tensor]:
        """Those that the model reads."""
        return {name: entry for name, entry in entries.items() if name in self._reads}


def _grid(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """(B, rows, columns, ...) of what (B, ...) each window has."""
    return torch.stack([torch.stack(list(row), 1) for row in rows], 1)


def _times(factor: int, box: Box) -> Box:
    return Box(*(factor * n for n in (box.top, box.left, box.height, box.width)))
