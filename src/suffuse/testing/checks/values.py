"""Checks of every method: it is a value."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Mapping
from typing import Any

from torch import Tensor, equal, nn

from ...core.errors import BadInput
from ...core.expression import parse, unparse
from .check import check
from .subject import NotHere, Subject


def _given(method: Any) -> dict[str, Any]:
    return {f.name: getattr(method, f.name) for f in dataclasses.fields(method) if f.init}


def alike(a: Any, b: Any) -> bool:
    """Equality by content: of dataclasses field by field, of tensors entry by entry."""
    if dataclasses.is_dataclass(a) and not isinstance(a, type):
        return type(a) is type(b) and all(alike(v, getattr(b, name)) for name, v in _given(a).items())
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and equal(a, b)
    if isinstance(a, nn.Module):
        return type(a) is type(b) and alike(a.state_dict(), b.state_dict())
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(alike(v, b[k]) for k, v in a.items())
    if isinstance(a, (tuple, list)):
        return type(a) is type(b) and len(a) == len(b) and all(map(alike, a, b))
    return bool(a == b)


@check(object, "Arguments are stored as they are given.")
def arguments_are_stored(subject: Subject) -> None:
    given = _given(subject.method)
    again = type(subject.method)(**given)
    for name, value in given.items():
        assert getattr(again, name) is value, f"{name}={value!r:.60} became {getattr(again, name)!r:.60}"


@check(object, "It is frozen.")
def it_is_frozen(subject: Subject) -> None:
    for name, value in _given(subject.method).items():
        try:
            setattr(subject.method, name, value)
        except dataclasses.FrozenInstanceError:
            continue
        raise AssertionError(f"{name} can be set; put @dataclass(frozen=True) above the class")


@check(object, "It comes back from pickle.")
def it_pickles(subject: Subject) -> None:
    if any(isinstance(v, nn.Module) for v in _given(subject.method).values()):
        raise NotHere("it holds a network, which is saved and not pickled")
    again = pickle.loads(pickle.dumps(subject.method))
    assert alike(again, subject.method), f"it came back as {again!r:.120}"


@check(object, "It prints the same whenever it is equal.")
def it_prints_the_same(subject: Subject) -> None:
    one, other = repr(subject.method), repr(type(subject.method)(**_given(subject.method)))
    assert one == other, f"{one:.80} and {other:.80}"
    assert type(subject.method).__name__ in one, f"{one:.80} does not name the class"


@check(object, "It comes back from its expression.")
def it_is_an_expression(subject: Subject) -> None:
    try:
        text = unparse(subject.method)
    except BadInput as reason:
        raise NotHere(str(reason)) from None
    again: Any = parse(text)
    assert alike(again, subject.method), f"{text} reads as {again!r:.120}"
