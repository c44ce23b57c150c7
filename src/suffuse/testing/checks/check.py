"""What a check is, and running those that apply to a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from functools import cache, partial
from typing import Any

from ...core.errors import BadInput
from ...core.registry import REQUIRED, Method, all_methods
from .subject import NotHere, Subject


class Failed(AssertionError):
    """A method does not do what a check says; the message names the method, the check and what was measured."""


@dataclass(frozen=True)
class Check:
    """One sentence that should hold of every method of a contract.

    Args:
        name: for test identifiers.
        says: the sentence.
        contract: class of the core that the method must be an instance of.
        run: raises AssertionError with what was measured, or `NotHere` with the reason why it does not apply.
    """

    name: str
    says: str
    contract: type
    run: Callable[[Subject], None]

    def __call__(self, subject: Subject) -> str | None:
        """Run it; returns None, or the reason why it does not apply."""
        try:
            self.run(subject)
        except NotHere as reason:
            return str(reason)
        except Exception as error:
            what = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
            raise Failed(f"{subject}: not true that {self.says[0].lower()}{self.says[1:-1]}: {what}") from error
        return None


_checks: list[Check] = []


def check(contract: type, says: str) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Register a function of a subject as the check of a sentence."""

    def register(function: Callable[[Subject], None]) -> Callable[[Subject], None]:
        _checks.append(Check(function.__name__, says, contract, function))
        return function

    return register


def checks_of(method: Any) -> list[Check]:
    """The checks that apply to methods of this kind."""
    return _applying(type(method))


def _applying(target: type) -> list[Check]:
    found = [
        c for c in _checks if issubclass(target, c.contract) and (c.contract is not object or is_dataclass(target))
    ]
    return sorted(found, key=lambda c: len(c.contract.__mro__))  # what holds of all first


def check_method(method: Any, *, cond: Callable[[str, int], Any] | None = None) -> dict[str, str | None]:
    """Run every check that applies to a method.

    Args:
        method: an instance, or a class whose arguments all have defaults.
        cond: what the method needs in the condition beyond that of the fixtures: a function of the fixture's name and
            the number of rows, in which row k is the same for every number.

    Returns:
        name of the check -> None where it passed, or the reason why it does not apply.

    Raises:
        Failed: a check does not hold; the message says which one, of what, and what was measured.

    Example:
        >>> check_method(CFG(3.0))
        {'arguments_are_stored': None, ...}
    """
    if isinstance(method, type):
        try:
            method = method()
        except TypeError as error:
            raise BadInput(f"method: {method.__name__} needs arguments ({error}); give an instance") from error
    subject = Subject(method, cond)
    return {c.name: c(subject) for c in checks_of(method)}


@dataclass(frozen=True, eq=False)
class Case:
    """One check of one registered method, as a test parameter."""

    method: Method
    check: Check
    subject: Callable[[], Subject]

    def __str__(self) -> str:
        return f"{self.method.name}-{self.check.name}"

    def __call__(self) -> str | None:
        """Run it; returns None, or the reason why it does not apply."""
        return self.check(self.subject())


def all_checks(examples: Mapping[str, Callable[[], Subject]] | None = None) -> list[Case]:
    """Every check of every registered plug-in, for `pytest.mark.parametrize(..., ids=str)`.

    Args:
        examples: name of a method -> function that makes its subject; for those whose arguments have no defaults, which
            fail without one.
    """
    examples = examples or {}
    cases: list[Case] = []
    for known in all_methods():
        if not isinstance(known.target, type):
            continue
        make = examples.get(known.name)
        if make is None and any(a.default is REQUIRED for a in known.arguments):
            cases.append(Case(known, EXAMPLE, partial(Subject, known.target)))
            continue
        shared = cache(make or partial(_default, known.target))
        cases += [Case(known, c, shared) for c in _applying(known.target)]
    return cases


def _no_example(subject: Subject) -> None:
    raise AssertionError("its arguments have no defaults; add a function that makes a Subject of it to `examples`")


EXAMPLE = Check("has_an_example", "There is an instance of it to check.", object, _no_example)


def _default(target: type) -> Subject:
    return Subject(target())
