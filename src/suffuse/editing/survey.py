"""Every inversion with every editor on one set of edits: what each pair makes of it, at what cost, or why it cannot."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from .. import editing
from ..core.call import Call
from ..core.errors import BadInput, SuffuseError
from ..core.expression import unparse
from ..core.guidance import Guidance
from ..core.hook import Hook
from ..core.metric import Estimate, Metric
from ..core.model import Model
from ..core.patch import Patch
from ..core.plugin import Needs, Plugin
from ..core.registry import REQUIRED, method_of
from ..core.sampler import Sampler
from ..core.site import Site, Sites
from ..evaluation import statistics
from ..evaluation.features import load_reader
from ..evaluation.structure import StructureDistance
from ..samplers.ancestral import DDIM
from ..world import parse
from ..zoo.judge import judge
from .code import Code
from .edit_case import EditCase
from .edit_judge import EditJudge, ReaderJudge
from .inverter import Inverter
from .scores import KEPT, scores

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Row:
    """What one pair made of the set.

    Args:
        inversion, editor: as expressions; "" where there is none.
        refused: why it did not run; "" where it did.
        figures: name -> estimate.
        tasks: score by task.
        evaluations: of the network for one picture, those of the inversion included.
        seconds: for one picture.
        images: (B, 3, H, W), or None.
    """

    inversion: str
    editor: str
    refused: str = ""
    figures: Mapping[str, Estimate] = field(default_factory=dict)
    tasks: Mapping[str, float] = field(default_factory=dict)
    evaluations: float = 0.0
    seconds: float = 0.0
    images: Tensor | None = None


@dataclass(frozen=True)
class Known(Generic[T]):
    """Plug-ins of one kind: made at their defaults, and by name why others are not."""

    made: tuple[T, ...]
    refused: Mapping[str, str]


def inverters() -> Known[Inverter]:
    """Every registered inversion."""
    return _known(lambda target: issubclass(target, Inverter))


def editors() -> Known[Plugin]:
    """Every registered patch, hook and guidance that acts between a source and a target branch."""
    kinds = (Patch, Hook, Guidance)
    return _known(lambda t: issubclass(t, kinds) and not issubclass(t, Inverter) and Needs.COUPLES in t.needs)


@dataclass(frozen=True, eq=False)
class Survey:
    """A set of edits and how they are run and measured; `rows` are the pairs.

    Args:
        model: a loaded model.
        cases: edits; their pictures have one size.
        steps, guidance, sampler, seed: of every run.
        kept: measured outside of the region; LPIPS may be added.
        text: agreement with the target, such as CLIPScore.
        structure: compares layouts.
        marks: who gives the score; None for cases whose targets the reader cannot read, which have none.

    Example:
        >>> Survey(model, EditEval(1)[:], steps=10).pair(Start(DirectInversion()), PromptToPrompt())

    Reference: Huang et al., Diffusion Model-Based Image Editing: A Survey, 2402.17525.
    """

    model: Model
    cases: Sequence[EditCase]
    steps: int = 20
    guidance: Guidance | float | None = None
    sampler: Sampler = DDIM()
    seed: int = 0
    kept: Sequence[Metric] = KEPT
    text: Sequence[Metric] = ()
    structure: Metric = StructureDistance()
    marks: EditJudge | None = ReaderJudge()

    def __post_init__(self) -> None:
        if len(self.cases) < 2:
            raise BadInput(f"cases: {len(self.cases)}; give two or more, so that figures have an interval")

    def rows(
        self, inversions: Known[Inverter], editors: Known[Plugin], report: Callable[[Row], None] = lambda row: None
    ) -> list[Row]:
        """Repainting, then every pair, then what cannot be made; an inversion runs once and its code serves all."""
        found: list[Row] = []
        for row in self._each(inversions, editors):
            report(row)
            found.append(row)
        return found

    def _each(self, inversions: Known[Inverter], editors: Known[Plugin]) -> Iterator[Row]:
        yield self.repainted()
        for inverter in inversions.made:
            start = Start(inverter)
            for editor in (None, *editors.made):
                yield self.pair(start, editor)
        yield from (Row(name, "", reason) for name, reason in inversions.refused.items())
        yield from (Row("", name, reason) for name, reason in editors.refused.items())

    def pair(self, start: Start, editor: Plugin | None) -> Row:
        """An inversion with one editor, or with none."""
        users = [user for user in (start.inverter, editor) if user is not None]
        masked = any("mask" in part.places for user in users for part in user.bare)

        def run() -> Spent:
            marks: list[tuple[int, float]] = []
            counter, began = Counter(), time.perf_counter()
            made = self.model.with_(counter).edit(
                None if start.code else self._pictures, [c.source for c in self.cases], [c.target for c in self.cases],
                inversion=start.code or start.inverter, editor=() if editor is None else editor, steps=self.steps,
                guidance=self.guidance, sampler=self.sampler, seed=self.seed, mask=self._masks if masked else None,
                progress=lambda step: marks.append((counter.total, time.perf_counter() - began)),
            )  # fmt: skip
            pixels = self.model.decode(made.decoded.target)
            if start.code is not None:
                return Spent(pixels, counter.total + start.evaluations, time.perf_counter() - began + start.seconds)
            start.code, (start.evaluations, start.seconds) = made.code, marks[0]
            return Spent(pixels, counter.total, time.perf_counter() - began)

        return self._row(unparse(start.inverter), "" if editor is None else unparse(editor), run)

    def repainted(self) -> Row:
        """The region made anew under the target prompt, without any inversion."""

        def run() -> Spent:
            counter, began = Counter(), time.perf_counter()
            made = self.model.with_(counter).generate(
                [c.target for c in self.cases], image=self._pictures, mask_image=self._masks, steps=self.steps,
                guidance=self.guidance, sampler=self.sampler, seed=self.seed,
            )  # fmt: skip
            pixels = self.model.decode(made.latents)
            return Spent(pixels, counter.total, time.perf_counter() - began)

        return self._row("", "MaskedBlend()", run)

    def _row(self, inversion: str, editor: str, run: Callable[[], Spent]) -> Row:
        try:
            spent = run()
        except SuffuseError as error:
            return Row(inversion, editor, str(error))
        n, images = len(self.cases), spent.pixels.clamp(-1, 1).float().cpu()
        figures = dict(scores(self.cases, images, kept=self.kept, text=self.text, structure=self.structure).figures)
        tasks: dict[str, float] = {}
        if self.marks is not None:
            total = self.marks(self.cases, images).total
            kinds = dict.fromkeys(c.kind for c in self.cases)
            tasks = {kind: total[[c.kind == kind for c in self.cases]].mean().item() for kind in kinds}
            found = statistics.proportion(shown(self.cases, images).numpy()).under("whole target, reader")
            figures = {"score": statistics.mean(total.numpy()).under("1 to 10"), "target accuracy": found, **figures}
        return Row(inversion, editor, "", figures, tasks, spent.evaluations / n, spent.seconds / n, images)

    @cached_property
    def _pictures(self) -> Tensor:
        return torch.stack([c.image for c in self.cases])

    @cached_property
    def _masks(self) -> Tensor:
        return torch.stack([c.mask for c in self.cases]).float()[:, None]


@dataclass(eq=False)
class Start:
    """An inversion, and what it found and spent once it has run."""

    inverter: Inverter
    code: Code | None = None
    evaluations: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Spent:
    """Edits (B, 3, H, W), and what all of them took."""

    pixels: Tensor
    evaluations: int
    seconds: float


@dataclass(eq=False, frozen=True)
class Counter(Patch):
    """Counts evaluations of the network, one for each row of a call."""

    rows: list[int] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Evaluations so far."""
        return sum(self.rows)

    def sites(self, net: Sites) -> Sequence[Site]:
        return [net.root]

    def around(self, call: Call) -> Any:
        self.rows.append(len(call.rows))
        return call()


def shown(cases: Sequence[EditCase], images: Tensor) -> Tensor:
    """(B,) bool: whether the reader finds all that the target says, and no more objects."""
    reader, _ = load_reader(None)
    with torch.no_grad():
        return judge(reader.read(images), [parse(c.target) for c in cases]).whole.right


def _known(wanted: Callable[[Any], bool]) -> Known[Any]:
    registered = (method_of(getattr(editing, name)) for name in dir(editing))
    made: list[Any] = []
    refused: dict[str, str] = {}
    for each in registered:
        if each is None or not isinstance(each.target, type) or not wanted(each.target):
            continue
        missing = [a.name for a in each.arguments if a.default is REQUIRED]
        if missing:
            refused[each.name] = f"{each.name}: has no default for {', '.join(missing)}; give it as an expression"
        else:
            made.append(each.target())
    return Known(tuple(made), refused)
