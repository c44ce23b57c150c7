from __future__ import annotations

import pytest

from suffuse.conditioning.classes import Classes
from suffuse.core.conditioner import Conditioner
from suffuse.core.errors import BadInput


def test_names_numbers_and_none() -> None:
    cond = Conditioner([Classes(10, {"zero": 0, "seven": 7}, 10)]).encode(["seven", 3, "4", None])
    assert cond["label"].tolist() == [7, 3, 4, 10]
    assert cond.alt["null"]["label"].tolist() == [10] * 4


def test_without_a_null_class() -> None:
    chain = Conditioner([Classes(3, {}, None)])
    assert "null" not in chain.encode([1]).alt
    with pytest.raises(BadInput, match="0 to 2"):
        chain.encode([None])


@pytest.mark.parametrize(
    ("prompt", "message"),
    [(10, "classes 0 to 9"), (-1, "classes 0 to 9"), ("sven", "did you mean seven"), (1.5, "no such class")],
)
def test_unknown(prompt: object, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Conditioner([Classes(10, {"zero": 0, "seven": 7}, 10)]).encode([prompt])
