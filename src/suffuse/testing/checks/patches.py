"""Checks of patches, on every fixture network that they accept."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...core.cond import Cond
from ...core.guidance import Guidance
from ...core.patch import Patch
from ...core.predict import Predict
from ...core.step import Step
from ...core.value import Coef, Value
from .. import fixtures
from .check import check
from .subject import ROWS, NotHere, Subject, close, denoiser, equal, plain


@dataclass(frozen=True)
class _Asking(Guidance):
    """Asks for both branches, in one call and in two by turns, and returns the conditional one."""

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        chunk = 1 if at.i % 2 else None
        return predict.many([("cond", x, t, cond), ("null", x, t, cond.branch("null"))], chunk)[0]


@check(Patch, "Each fixture network is either patched, or refused with a reason.")
def networks_are_patched_or_refused(subject: Subject) -> None:
    homes = subject.homes
    for name, reason in subject.refusals.items():
        assert name in homes or ";" in reason, f"it refuses {name} without a remedy after a semicolon: {reason}"


@check(Patch, "It changes what the network returns.")
def it_does_something(subject: Subject) -> None:
    for name in subject.homes:
        if not subject.result(name).x.equal(plain(name)):
            return
    raise AssertionError(f"on {', '.join(subject.homes)} the run with it is the run without it, to the bit")


@check(Patch, "The branches of a guidance do not see each other.")
def branches_are_apart(subject: Subject) -> None:
    for name in subject.homes:
        both = subject.with_method(name, guidance=_Asking()).x
        close(both, subject.result(name).x, f"the conditional branch on {name} beside the other")


@check(Patch, "A deep copy of the network runs as the network does, patched and plain.")
def copies_are_independent(subject: Subject) -> None:
    for name in subject.some:
        expected, twin = subject.result(name).x, copy.deepcopy(denoiser(name))
        equal(subject.run(name, denoiser=twin).x, plain(name), f"a copy of {name}")
        equal(subject.with_method(name, denoiser=twin).x, expected, f"a patched copy of {name}")


@check(Patch, "The size of pictures may change from run to run.")
def sizes_may_change(subject: Subject) -> None:
    tried = 0
    for name in subject.some:
        larger = fixtures.states(name, ROWS, size=12)
        try:
            found = subject.with_method(name, x=larger).x
        except Exception:
            if _one_size(subject, name, larger):
                continue
            raise
        tried += 1
        assert found.shape == larger.shape, f"{tuple(found.shape)} on {name}, not {tuple(larger.shape)}"
        equal(subject.with_method(name).x, subject.result(name).x, f"the small picture on {name} after a larger one")
    if not tried:
        raise NotHere("the networks that it accepts have one size")


def _one_size(subject: Subject, name: str, larger: Tensor) -> bool:
    """Whether the network itself refuses another size."""
    try:
        subject.run(name, x=larger)
    except Exception:
        return True
    return False


@check(Patch, "At scale 0 an adapter changes nothing, to the bit.")
def scale_zero_is_the_identity(subject: Subject) -> None:
    if not subject.parametrised:
        raise NotHere("it has no parameters")
    for name in subject.some:
        adapter = subject.adapter(name)
        adapter.scale = 0.0
        try:
            equal(subject.with_method(name).x, plain(name), f"scale 0 on {name}")
        finally:
            adapter.scale = 1.0
