"""Translation over a large domain gap: three kinds of guidance on one grid of strengths and scales."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from ..core.arguments import listed, spread
from ..core.cond import Cond
from ..core.engine import Start, sample
from ..core.errors import BadInput
from ..core.guidance import Guidance
from ..core.model import Model
from ..core.noise import Keyed
from ..core.registry import method
from ..core.sampler import Sampler
from ..evaluation.pictures import Pictures
from ..evaluation.structure import StructureDistance
from ..guidance.classifier import ClassifierGuidance
from ..images import Picture, to_pil, to_tensor
from ..networks.adm import ADMClassifier
from ..samplers.ancestral import DDIM
from .inverter import Plan
from .sdedit import SDEdit

Recognise = Callable[[Tensor, Sequence[str]], Tensor]
"""(pictures (B, 3, H, W) in [-1, 1], names of classes) -> (B,) how surely each shows its class, 0 to 1."""

Retained = Callable[[Tensor, Tensor], Tensor]
"""(pictures before, after) -> (B,) how much of the structure is still there, the higher the more."""


class Way(ABC):
    """How a translation is told its target. A frozen dataclass."""

    scales: tuple[float, ...] = (0.0,)
    """Of its guidance, to be tried."""

    @abstractmethod
    def condition(self, encode: Callable[[list[str]], Cond], names: Sequence[str]) -> Cond:
        """What the run is told of the class of each picture; `encode` makes a condition of prompts."""

    @abstractmethod
    def guidance(self, model: Model, scale: float) -> Guidance | None:
        """What acts in the run."""


@dataclass(frozen=True)
class Unguided(Way):
    """The model alone: it is told nothing."""

    def condition(self, encode: Callable[[list[str]], Cond], names: Sequence[str]) -> Cond:
        return encode([""] * len(names))

    def guidance(self, model: Model, scale: float) -> None:
        return None


@dataclass(frozen=True)
class ByClassifier(Way):
    """A classifier of noisy states says which class.

    Args:
        classifier: of the model's states.
        names: of its classes, in order.
        scales: of the gradient, to be tried.
    """

    classifier: ADMClassifier
    names: tuple[str, ...]
    scales: tuple[float, ...] = (1.0, 3.0, 10.0)

    def condition(self, encode: Callable[[list[str]], Cond], names: Sequence[str]) -> Cond:
        labels = torch.tensor([self.names.index(name) for name in names])
        return encode([""] * len(names)).with_alt(target=Cond({"label": labels}))

    def guidance(self, model: Model, scale: float) -> Guidance:
        return ClassifierGuidance(self.classifier, scale)


@dataclass(frozen=True)
class ByPrompt(Way):
    """A prompt names the class.

    Args:
        template: "{}" stands for the name.
        scales: of classifier-free guidance, to be tried.
    """

    template: str = "a photo of a {}"
    scales: tuple[float, ...] = (7.5,)

    def condition(self, encode: Callable[[list[str]], Cond], names: Sequence[str]) -> Cond:
        return encode([self.template.format(name) for name in names])

    def guidance(self, model: Model, scale: float) -> Guidance:
        return model.defaults.guide(scale)


@dataclass(frozen=True, eq=False)
class Point:
    """One way at one strength and scale.

    Attributes:
        way, strength, scale: where on the grid; the scale of unguided points is 0.
        pixels: (S, B, 3, H, W) of S seeds.
        recognised, retained: (S, B) what the two judges say.
    """

    way: Way
    strength: float
    scale: float
    pixels: Tensor
    recognised: Tensor
    retained: Tensor

    @property
    def ranking(self) -> Tensor:
        """(S, B) seeds of each picture, the best first: the sum of both judges."""
        return (self.recognised + self.retained).argsort(dim=0, descending=True, stable=True)

    @property
    def best(self) -> Tensor:
        """(B, 3, H, W) the best seed of each picture."""
        return self.pixels[self.ranking[0], torch.arange(self.pixels.shape[1])]

    @property
    def row(self) -> dict[str, float | str]:
        """Means over pictures and seeds, for a table."""
        means = {"recognised": float(self.recognised.mean()), "retained": float(self.retained.mean())}
        return {"way": type(self.way).__name__, "strength": self.strength, "scale": self.scale, **means}


@dataclass(frozen=True, eq=False)
class Revived:
    """What `revive` returns.

    Attributes:
        images: of the operating point, the best seed of each.
        point: the operating point.
        points: the whole grid, unguided ones among them.
    """

    images: list[Image.Image]
    point: Point
    points: list[Point]

    def of(self, way: type[Way]) -> list[Point]:
        """The points of one kind of guidance."""
        return [p for p in self.points if isinstance(p.way, way)]


def as_before(before: Tensor, after: Tensor) -> Tensor:
    """(B,) 1 - structure distance on the reader's features."""
    return 1.0 - StructureDistance().score(Pictures(after, (), before))


def operating_point(points: Sequence[Point], enough: float = 0.9) -> Point:
    """Where both curves are good: of the points recognised at least `enough` times the best, the most retained."""
    best = max(float(p.recognised.mean()) for p in points)
    able = [p for p in points if float(p.recognised.mean()) >= enough * best]
    return max(able, key=lambda p: float(p.retained.mean()))


@method(paper="revive-2i", tags=("editing",))
@torch.no_grad()
def revive(
    model: Model,
    image: Picture | Sequence[Picture],
    name: str | Sequence[str],
    *,
    recognise: Recognise,
    retained: Retained = as_before,
    ways: Sequence[Way] = (ByPrompt(),),
    strengths: Sequence[float] = (0.5, 0.65, 0.8, 0.95),
    seeds: Sequence[int] = (0,),
    steps: int = 50,
    sampler: Sampler = DDIM(),
    enough: float = 0.9,
) -> Revived:
    """Translate pictures into a domain that is far away: noise them, and denoise them towards the class that is named.

    x_t ~ q(x_t | E(image)) where the last share `strength` of the run begins; from there the model runs unguided,
    led by a classifier, or led by a prompt. Unguided translations are always made, for comparison.

    Args:
        model: a loaded text-to-image model.
        image: pictures of the source domain.
        name: of the target class of each.
        recognise: says how surely a picture shows its class.
        retained: says how much structure is kept; default one minus the structure distance.
        ways: `ByPrompt`, `ByClassifier`, each with the scales to be tried.
        strengths: shares of the steps to be tried, 0 to 1.
        seeds: noises; the best of each picture is found by the sum of both judges.
        steps, sampler: of the full run.
        enough: share of the best recognition with which the operating point is content; of what is left it takes the
            point that retains most.

    Raises:
        BadInput: no strengths or seeds, or a number of names that does not match.

    Example:
        >>> found = revive(model, "skull.png", "dog", recognise=classifier, seeds=range(4))
        >>> found.images[0], found.point.row

    Reference: Martin et al., Jurassic World Remake: Bringing Ancient Fossils Back to Life via Zero-Shot Long
    Image-to-Image Translation, 2308.07316.

    Differs from the paper: the operating point is chosen from both curves, and seeds are ranked.
    """
    for what, given in (("strengths", strengths), ("seeds", seeds)):
        if not len(given):
            raise BadInput(f"{what}: is empty; give at least one")
    before = to_tensor(image).to(model.device)
    names = [str(n) for n in spread("name", listed(name), len(before))]
    points = []
    for way, scale in [(each, scale) for each in (Unguided(), *ways) for scale in each.scales]:
        for strength in strengths:
            made = torch.stack([_made(model, before, names, way, scale, strength, steps, sampler, k) for k in seeds])
            judged = torch.stack([recognise(pixels, names) for pixels in made])
            kept = torch.stack([retained(before, pixels) for pixels in made])
            points.append(Point(way, strength, scale, made, judged, kept))
    point = operating_point([p for p in points if not isinstance(p.way, Unguided)] or points, enough)
    return Revived(to_pil(point.best), point, points)


def _made(
    model: Model, before: Tensor, names: Sequence[str], way: Way, scale: float, strength: float, steps: int,
    sampler: Sampler, seed: int,
) -> Tensor:  # fmt: skip
    """(B, 3, H, W): the pictures translated with one noise."""
    x0 = model.encode(before)
    shape, factor = tuple(x0.shape[1:]), model.codec.space.factor
    grid = (sampler.spacing or model.defaults.spacing).grid(model.denoiser.process, steps, shape)
    size = (shape[1] * factor, shape[2] * factor)
    cond = way.condition(lambda prompts: model.condition(prompts, size=size, grid=grid), names)
    code = SDEdit(strength).encode(Plan(model.denoiser, grid, sampler, noise=Keyed(seed)), x0, cond)
    run = sample(
        model.denoiser, Start.exactly(code.x, code.t), sampler=sampler, grid=grid, cond=cond, noise=seed,
        guidance=way.guidance(model, scale), setting=model.setting(shape),
    )  # fmt: skip
    return model.decode(run.x).clamp(-1, 1)
