"""Benchmarks as sequences of cases, each made when it is asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeVar, overload

Case = TypeVar("Case")


class Cases(Sequence[Case]):
    """Cases by number, and lists of them by slices."""

    @abstractmethod
    def case(self, k: int) -> Case:
        """Case number k, 0 <= k < len(self)."""

    @overload
    def __getitem__(self, k: int) -> Case: ...
    @overload
    def __getitem__(self, k: slice) -> list[Case]: ...
    def __getitem__(self, k: int | slice) -> Case | list[Case]:
        numbers = range(len(self))[k]
        return self.case(numbers) if isinstance(numbers, int) else [self.case(i) for i in numbers]
