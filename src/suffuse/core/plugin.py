"""A plug-in is a value: a frozen dataclass of hyper-parameters. It is bound once a run and has its own verb in it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Flag, auto
from typing import Any, ClassVar, Self

from .errors import Refused


class Needs(Flag):
    """What a plug-in asks of the rest of a run; the compatibility matrices are computed from it."""

    NOTHING = 0
    GAUSSIAN = auto()  #       a Gaussian process (predictions with eps)
    CATEGORICAL = auto()  #    a categorical process (predictions with logits)
    ONE_EVALUATION = auto()  # a sampler that asks for one prediction a step
    GRADIENT = auto()  #       gradients through the network
    OUTERMOST = auto()  #      to be the outermost guidance
    COUPLES = auto()  #        the whole batch at once: samples influence each other
    UNCONDITIONAL = auto()  #  an alternative condition named "null"
    CONSISTENCY = auto()  #    a network that predicts the end of its trajectory instead of the mean of x0
    SDE = auto()  #            a sampler that adds all the noise of the SDE
    SAME_TOKENS = auto()  #    as many tokens in a layer at every step


Prompt = Any
"""A string, or a sequence of strings, images and embeddings with weights; what a conditioner encodes."""


@dataclass(frozen=True)
class Setting:
    """Where a plug-in runs: enough to build its tables, and to refuse what was fitted elsewhere. Plain data, so that
    fitted things carry it into their files.

    Args:
        model: fingerprint of the network's configuration and weights, "" where unknown.
        process, sampler, guidance: of the run, as they print.
        times: of the full grid.
        shape: of one sample, (C, H, W).
    """

    model: str = ""
    process: str = ""
    sampler: str = ""
    guidance: str = ""
    times: tuple[float, ...] = ()
    shape: tuple[int, ...] = ()

    def require(self, made_for: Setting, on: Sequence[str], what: str) -> None:
        """Refuse a fitted thing elsewhere than where it was made, in the fields named by `on`."""
        for name in on:
            here, there = getattr(self, name), getattr(made_for, name)
            if _plain(here) != _plain(there):
                raise Refused(
                    f"{what} was fitted for {name} {_short(there)} and this run has {_short(here)}; "
                    "fit it again here, or run it as it was made"
                )


def _plain(v: Any) -> Any:
    """CFG(w=3.0) and CFG(w=3) are one guidance."""
    return re.sub(r"(?<![\w.])(\d+)\.0(?!\d)", r"\1", v) if isinstance(v, str) else v


def _short(v: Any) -> str:
    if isinstance(v, tuple):
        return f"{len(v)} values from {v[0]:.4g} to {v[-1]:.4g}" if v else "none"
    text = str(v)
    return text if len(text) <= 60 else text[:57] + "..."


class Plugin:
    """Base of samplers, guidances, hooks, patches and surgeries."""

    needs: ClassVar[Needs] = Needs.NOTHING

    places: ClassVar[tuple[str, ...]] = ()
    """What it can use of the places that a user points at in an edit: "mask", "points"; see `editing.branches`."""

    @property
    def bare(self) -> tuple[Plugin, ...]:
        """The plug-ins that it is made of, without chains, windows and parameters around them; most often itself."""
        return (self,)

    def prompts(self) -> Mapping[str, Prompt]:
        """Texts that the model is to encode for this plug-in: name -> prompt, found later as `cond.alt[name]`."""
        return {}

    def phrases(self, prompt: Prompt | None) -> Sequence[Prompt]:
        """Texts that belong to one prompt, such as its noun phrases, encoded for each picture by itself.

        They are found as `cond.alt["phrase:0"]`, `cond.alt["phrase:1"]`, ...; `cond.alt["phrases"]["given"]` (B, n)
        says which pictures have which of them.
        """
        return ()

    def bind(self, setting: Setting) -> Self:
        """Once a run: tables for this grid, checks; raises `Refused` with reason and remedy. Default: itself."""
        return self

    def neutral(self) -> Self | None:
        """The setting of this plug-in that changes nothing, to the bit; None where it has none."""
        return None


@dataclass(frozen=True)
class Wrapper(Plugin):
    """Around another plug-in, whose needs and texts are its own."""

    inner: Any

    @property
    def bare(self) -> tuple[Plugin, ...]:
        return self.inner.bare

    def prompts(self) -> Mapping[str, Prompt]:
        return self.inner.prompts()

    def bind(self, setting: Setting) -> Self:
        return replace(self, inner=self.inner.bind(setting))


@dataclass(frozen=True)
class Windowed(Wrapper):
    """`inner` for start <= progress < stop."""

    start: float
    stop: float

    def inside(self, at: Any) -> bool:
        """Whether this step lies in the window."""
        return self.start <= at.progress < self.stop
