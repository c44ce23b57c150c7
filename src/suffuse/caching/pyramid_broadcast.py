"""Pyramid attention broadcast: attention outputs reused over ranges of steps, by type of attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..core.errors import BadInput, Refused
from ..core.registry import method
from ..core.site import Site, Sites
from .policy import CacheTable


@method(paper="pab", tags=("saves depth",))
@dataclass(frozen=True)
class PAB(CacheTable):
    """In the middle of a run each attention computes every N-th step only and broadcasts its output to the steps
    between; N is the larger, the less that type of attention changes: cross-attention least, then self-attention.

    Args:
        self_range: N of self-attention, and of attention that joins image and text, >= 1; the paper uses 2.
        cross_range: N of cross-attention, >= 1; the paper uses 6.
        start, stop: the part of the run where outputs are broadcast, 0 to 1; outside every step computes.

    Raises:
        BadInput: numbers out of range. Refused: a network without attention whose output could be kept.

    Example:
        >>> load("shapes").generate("a red circle", patches=[PAB(self_range=2, cross_range=6)])

    Reference: Zhao et al., Real-Time Video Generation with Pyramid Attention Broadcast, 2408.12588.

    Differs from the paper: pictures have no temporal attention, whose range lies between the two; feed-forwards always
    run, as in most of its configurations.
    """

    self_range: int = 2
    cross_range: int = 6
    start: float = 0.15
    stop: float = 0.85

    def __post_init__(self) -> None:
        if self.self_range < 1 or self.cross_range < 1 or not 0.0 <= self.start <= self.stop <= 1.0:
            raise BadInput(
                f"PAB(self_range={self.self_range}, cross_range={self.cross_range}, start={self.start}, "
                f"stop={self.stop}): ranges are 1 or more, 0 <= start <= stop <= 1"
            )

    def neutral(self) -> PAB:
        """The setting that changes nothing."""
        return replace(self, self_range=1, cross_range=1)

    def sites(self, net: Sites) -> Sequence[Site]:
        return attentions(net, self)

    def steps(self, site: Site, n: int) -> frozenset[int]:
        every = self.cross_range if site.role == "cross" else self.self_range
        return frozenset(i for i in range(n) if i % every == 0 or not self.start <= i / n < self.stop)


def attentions(net: Sites, of: object) -> list[Site]:
    """Attention whose output is what it adds; some of plain UNets return it with their input, which changes faster."""
    found = [s for s in net.attention() if not getattr(s.module, "residual_connection", False)]
    if not found:
        raise Refused(f"{of}: this network has no attention whose output could be kept; use DeepCache")
    return found
