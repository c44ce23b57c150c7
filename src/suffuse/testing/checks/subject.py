"""A method under test and where it can run: fixture networks, and data laws that are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ...core.cond import Cond
from ...core.denoiser import Denoiser
from ...core.engine import Result, sample
from ...core.errors import SuffuseError
from ...core.guidance import Guidance
from ...core.hook import Hook
from ...core.patch import Adapter, Patch, PatchWrapper
from ...core.plugin import Needs, Plugin
from ...core.prediction import FLOW
from ...core.sampler import Sampler
from ...processes.categorical import Absorbing
from ...processes.continuous import VP, Flow
from ...samplers.ancestral import DDIM, DDPM, Ancestral
from .. import fixtures
from ..analytic import GaussianMixture, KnownLaw

ROWS, STEPS = 3, 3

DISCRETE = "categories"
LAWS = ("mixture", "mixture-flow", DISCRETE)
"""Names of known laws: two mixtures of Gaussians, and words of categories."""


class NotHere(Exception):
    """A check does not apply to this method; the message is the reason."""


@cache
def denoiser(name: str) -> Denoiser:
    """A fixture or known law by name; one for all checks."""
    if name == DISCRETE:
        return KnownLaw(torch.tensor([[0, 1, 2, 0], [2, 2, 1, 1], [1, 0, 0, 2]]), Absorbing(4))
    if name in LAWS:
        means = torch.linspace(-1, 1, 32).reshape(2, 1, 4, 4)
        return GaussianMixture(means, Flow() if name == "mixture-flow" else VP(), std=0.2, kind=FLOW)
    return fixtures.fixture(name)


def states(name: str, n: int) -> Tensor:
    """Start states; row k is the same for every n."""
    if name in LAWS:
        return torch.full((n, 4), 3) if name == DISCRETE else fixtures.states("unet", n)[:, :1, :4, :4]
    return fixtures.states(name, n)


@cache
def plain(name: str) -> Tensor:
    """The result of the run without any method, made before the first one is tried there."""
    return Subject(None).run(name).x


@dataclass(frozen=True, eq=False)
class Subject:
    """A method, and what the checks need to run it.

    Args:
        method: the instance.
        cond: (fixture, n) -> what it needs in the condition beyond that of the fixture, n rows.
        apart: why it cannot take part in a plain run, for methods that belong to a task; those checks are left out.
    """

    method: Any
    cond: Callable[[str, int], Any] | None = None
    apart: str = ""
    _results: dict[str, Result] = field(default_factory=dict)
    _adapters: dict[str, Adapter] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.method!r:.120}"

    def conditions(self, name: str, n: int) -> Cond:
        """The fixture's condition, the method's own entries, and an alternative for each of its prompts."""
        base = Cond() if name in LAWS else fixtures.conditions(name, n)
        for k, prompt in enumerate(self.method.prompts() if isinstance(self.method, Plugin) else ()):
            other = fixtures.conditions(name, n + k + 1)[k + 1 :]
            base = base.with_alt(**{prompt: Cond(other.entries)})
        return base if self.cond is None else base | self.cond(name, n)

    @property
    def parametrised(self) -> bool:
        """Whether it is a patch that is used through an adapter."""
        patch = self.method
        while isinstance(patch, PatchWrapper):
            patch = patch.inner
        return isinstance(patch, Patch) and type(patch).make is not Patch.make

    def adapter(self, name: str) -> Adapter:
        """The patch with parts on this fixture, none of them zero."""
        if name not in self._adapters:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self._adapters[name] = adapter = self.method.on(denoiser(name)).eval()
                for p in adapter.parameters():
                    nn.init.normal_(p, 0.0, 0.1)
        return self._adapters[name]

    @property
    def beside(self) -> dict[str, Any]:
        """What a run with the method needs besides."""
        return {"sampler": DDPM()} if any(Needs.SDE in part.needs for part in self.method.bare) else {}

    def plugged(self, name: str) -> dict[str, Any]:
        """How the method enters a run on this fixture."""
        match self.method:
            case Sampler():
                return {"sampler": self.method}
            case Guidance():
                return {**self.beside, "guidance": self.method}
            case Hook():
                return {**self.beside, "hooks": [self.method]}
            case Patch():
                return {**self.beside, "patches": [self.adapter(name) if self.parametrised else self.method]}
        raise NotHere("it takes no part in a run")

    def settings(self, name: str, rows: Sequence[int] = range(ROWS), **plugs: Any) -> dict[str, Any]:
        """Arguments of a short run of some rows; as plain as it can be but for `plugs`."""
        told = self.conditions(name, ROWS)[list(rows)]
        alone = isinstance(self.method, Patch) and "patches" not in plugs
        own = self.method.reads if alone else ()  # what nobody reads without the method
        cond = replace(told, entries={k: v for k, v in told.entries.items() if k not in own})
        return {"sampler": Ancestral() if name == DISCRETE else DDIM(), "steps": STEPS, "cond": cond, **plugs}

    def run(self, name: str, rows: Sequence[int] = range(ROWS), **plugs: Any) -> Result:
        """A short run of some rows with these plug-ins, not the method."""
        net, x = plugs.pop("denoiser", denoiser(name)), plugs.pop("x", states(name, ROWS)[list(rows)])
        return sample(net, x, samples=list(rows), **self.settings(name, rows, **plugs))

    def with_method(self, name: str, rows: Sequence[int] = range(ROWS), **plugs: Any) -> Result:
        """The same run with the method in it."""
        return self.run(name, rows, **{**self.plugged(name), **plugs})

    def result(self, name: str) -> Result:
        """The first run of all rows with the method; `plain(name)` was made before it."""
        if name not in self._results:
            plain(name)
            self._results[name] = self.with_method(name)
        return self._results[name]

    @cached_property
    def refusals(self) -> Mapping[str, str]:
        """Where the method refuses to run, and why; "" where it runs."""
        found: dict[str, str] = {}
        for name in self._places:
            try:
                self.result(name)
                found[name] = ""
            except SuffuseError as reason:
                found[name] = str(reason)
        return found

    @property
    def _places(self) -> tuple[str, ...]:
        match self.method:
            case Sampler():
                return LAWS
            case Patch():
                return fixtures.NAMES
        return ("unet", "sd3", "flux")

    @property
    def homes(self) -> list[str]:
        """Where it runs: every fixture network that a patch accepts, two of different kinds for what is around them."""
        if self.apart:
            raise NotHere(self.apart)
        homes = [name for name, reason in self.refusals.items() if not reason]
        assert homes, f"it runs nowhere; {', '.join(f'on {n}: {r}' for n, r in self.refusals.items())}"
        return homes if isinstance(self.method, Patch | Sampler) else homes[:2]

    @property
    def some(self) -> list[str]:
        """Two of its homes, of different kinds: for checks of what does not depend on the network."""
        homes = self.homes
        return homes if isinstance(self.method, Sampler) or len(homes) < 3 else [homes[0], homes[-1]]


def equal(found: Tensor, expected: Tensor, what: str) -> None:
    """Assert equality to the bit."""
    error = float((found.detach().double() - expected.detach().double()).abs().max())
    assert torch.equal(found, expected), f"{what} differs by {error:.2g}"


def close(found: Tensor, expected: Tensor, what: str, tolerance: float = 1e-5) -> None:
    """Assert equality up to a share of the largest entry."""
    found, expected = found.detach().double(), expected.detach().double()
    error = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    assert error <= tolerance, f"{what} differs by {error:.2g} of the largest entry, {tolerance:g} is allowed"
