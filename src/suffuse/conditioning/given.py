"""A model told things beside its prompts: entries of the condition that the user gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..core.arguments import fitting
from ..core.cond import Cond
from ..core.conditioner import Conditioner
from ..core.plugin import Prompt


class Given(Conditioner):
    """What another conditioner says, with entries beside it: one row for all pictures, or one for each prompt.

    Args:
        base: that conditioner.
        entries: name -> (rows, ...); a patch or the network must read them.
        alternatives: path -> entries of that branch alone.

    Example:
        >>> model.with_conditioner(Given(model.conditioner, {"control": edges})).with_(branch).generate("a red circle")
    """

    def __init__(
        self,
        base: Conditioner,
        entries: Mapping[str, Tensor],
        alternatives: Mapping[str, Mapping[str, Tensor]] | None = None,
    ):
        super().__init__(base.chain)
        self.base, self.entries, self.alternatives = base, dict(entries), dict(alternatives or {})

    def encode(self, prompts: Sequence[Prompt | None], *others: Any, **how: Any) -> Cond:
        """As the other conditioner, with the entries."""
        cond, n = self.base.encode(prompts, *others, **how), len(prompts)

        def rows(entries: Mapping[str, Tensor]) -> Cond:
            return Cond({name: fitting(name, v, n) for name, v in entries.items()})

        told = {name: (cond.alt.get(name) or Cond()) | rows(v) for name, v in self.alternatives.items()}
        return (cond | rows(self.entries)).with_alt(**told)
