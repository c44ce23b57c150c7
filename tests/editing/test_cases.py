"""Benchmarks as sequences."""

from __future__ import annotations

import pytest

from suffuse.editing.cases import Cases


class Squares(Cases[int]):
    def __len__(self) -> int:
        return 4

    def case(self, k: int) -> int:
        return k * k


def test_numbers_slices_and_the_end():
    squares = Squares()
    assert squares[2] == 4 and squares[-1] == 9 and squares[1:] == [1, 4, 9] and squares[::-2] == [9, 1]
    assert list(squares) == [0, 1, 4, 9]
    with pytest.raises(IndexError):
        squares[4]
