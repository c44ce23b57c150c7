"""Reuse of outputs between steps, as one table: site x step -> compute or reuse. Methods only differ in the table."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from ..core.call import Call
from ..core.memory import mapped
from ..core.patch import Patch
from ..core.plugin import Needs
from ..core.site import Site
from ..core.step import Step
from .skipping import passed


class CachePolicy(Patch):
    """A site either computes and remembers, or returns what it last computed for the same rows.

    A row that was never computed is computed, whatever the policy says. Outside of a run nothing is cached.
    """

    needs = Needs.SAME_TOKENS

    @abstractmethod
    def fresh(self, site: Site, at: Step) -> bool:
        """Whether this site computes at this step."""

    def kept(self, site: Site) -> bool:
        """Whether the output is read again at all. Where not, only its shape is kept."""
        return True

    def residual(self, site: Site) -> bool:
        """Whether what the site adds to its input is reused, and not its output: so with layers of transformers."""
        return site.kind == "block" and site.stage == "body"

    def store(self, call: Call, value: Any) -> None:
        """Remember what a site computed, or what it added."""
        call.memory["last"] = value if self.kept(call.site) else mapped(hollow, value)

    def recall(self, call: Call) -> Any:
        """What is reused of what was remembered."""
        return call.memory["last"]

    def around(self, call: Call) -> Any:
        if call.at is None:
            return call()
        if self.fresh(call.site, call.at):
            return self._computed(call)
        return call.split(call.memory.held("last"), self._reused, self._computed)

    def _computed(self, call: Call) -> Any:
        out = call()
        self.store(call, _combined(out, passed(call), -1.0) if self.residual(call.site) else out)
        return out

    def _reused(self, call: Call) -> Any:
        value = self.recall(call)
        return _combined(value, passed(call), 1.0) if self.residual(call.site) else value


class CacheTable(CachePolicy):
    """A policy known before the run: a table of the steps at which each site computes, beside the first of the run."""

    @abstractmethod
    def steps(self, site: Site, n: int) -> frozenset[int]:
        """The steps of an n-step run at which this site computes."""

    def fresh(self, site: Site, at: Step) -> bool:
        return at.first or at.i in self.steps(site, at.n)


def hollow(v: Any) -> Any:
    """A tensor of the same shape that takes no memory, for outputs that nothing reads."""
    return v.new_zeros(()).expand(v.shape) if isinstance(v, Tensor) else v


def _combined(first: Any, second: Any, weight: float) -> Any:
    """first + weight * second where both have a tensor, in the form of `first`."""
    a, spec = pytree.tree_flatten(first)
    b = pytree.tree_leaves(second)
    both = (u + weight * v if isinstance(u, Tensor) and isinstance(v, Tensor) else u for u, v in zip(a, b, strict=True))
    return pytree.tree_unflatten(list(both), spec)
