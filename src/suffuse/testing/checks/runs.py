"""Checks of everything that takes part in a run: samplers, guidances, hooks and patches."""

from __future__ import annotations

from typing import Any

import torch

from ...core.call import stack
from ...core.engine import sample, trace
from ...core.plugin import Needs, Plugin
from .. import fixtures
from .check import check
from .subject import LAWS, ROWS, STEPS, NotHere, Subject, close, denoiser, equal, plain, states


def _alone(subject: Subject) -> None:
    if Needs.COUPLES in subject.method.needs:
        raise NotHere("it couples the samples of a batch, and says so in `needs`")


@check(Plugin, "The same seed gives the same result.")
def same_seed_same_result(subject: Subject) -> None:
    for name in subject.some:
        equal(subject.with_method(name).x, subject.result(name).x, f"a second run on {name}")


@check(Plugin, "Each row of a batch is the row that it would be alone.")
def batch_equals_singles(subject: Subject) -> None:
    _alone(subject)
    for name in subject.homes:
        whole = subject.result(name)
        for rows in ([0], [2, 1]):
            part = subject.with_method(name, rows)
            close(part.x, whole.x[rows], f"rows {rows} on {name}")
            alone, together = part.nfe.tolist(), whole.nfe[rows].tolist()
            assert alone == together, f"rows {rows} on {name} cost {alone} evaluations alone, {together} together"


@check(Plugin, "A run that is stopped goes on with any of its rows.")
def rows_go_on_alone(subject: Subject) -> None:
    _alone(subject)
    rows, i = [2, 0], STEPS // 2
    for name in subject.some:
        plugs = subject.plugged(name)
        *_, half = zip(
            range(i + 1), trace(denoiser(name), states(name, ROWS), **subject.settings(name, **plugs)), strict=False
        )
        rest = sample(denoiser(name), half[1].state[rows], **subject.settings(name, rows, **plugs))
        close(rest.x, subject.result(name).x[rows], f"rows {rows} from step {i} on {name}")


@check(Plugin, "A run leaves nothing behind: not in the network, not in the method, not in the thread.")
def nothing_is_left_behind(subject: Subject) -> None:
    inside = _inside(subject.method)
    for name in subject.homes:
        subject.result(name)
        assert _inside(subject.method) == inside, f"on {name} it changed itself to {subject.method!r:.120}"
        idle = stack.frame is None and stack.context is None and not stack.bindings
        assert idle, f"patches are active after a run on {name}"
        equal(subject.run(name).x, plain(name), f"a plain run on {name} afterwards")
        if name not in LAWS:
            fresh = fixtures.fixture(name).state_dict()
            changed = [
                key
                for key, v in denoiser(name).state_dict().items()
                if key not in fresh or not torch.equal(v, fresh[key])
            ]
            assert not changed, f"the weights {changed[0]} of {name} changed"


def _inside(method: Any) -> str:
    return repr(sorted((k, repr(v)) for k, v in vars(method).items()))


@check(Plugin, "Its neutral setting is the identity to the bit.")
def neutral_is_the_identity(subject: Subject) -> None:
    neutral = subject.method.neutral()
    if neutral is None:
        raise NotHere("it declares no neutral setting")
    for name in subject.some:
        equal(Subject(neutral, subject.cond).with_method(name).x, plain(name), f"{neutral!r:.80} on {name}")


@check(Plugin, "Outside of its window it does nothing, and in a window of the whole run all that it does.")
def windows_hold(subject: Subject) -> None:
    if not hasattr(subject.method, "during"):
        raise NotHere("it has no windows")
    if subject.parametrised:
        raise NotHere("it is used through an adapter")
    never, always = (Subject(subject.method.during(*w), subject.cond) for w in ((0.0, 0.0), (0.0, 1.0)))
    for name in subject.some:
        equal(never.with_method(name).x, subject.run(name, **subject.beside).x, f"an empty window on {name}")
        equal(always.with_method(name).x, subject.result(name).x, f"a whole window on {name}")
