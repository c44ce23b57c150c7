"""Checks of guidances."""

from __future__ import annotations

from dataclasses import replace

import torch

from ...core.errors import SuffuseError
from ...core.guidance import Guidance
from ...core.plugin import Needs
from ...guidance.cfg import CFG
from .check import check
from .subject import ROWS, STEPS, NotHere, Subject, close


@check(Guidance, "It asks the network as often as it declares.")
def evaluations_are_as_declared(subject: Subject) -> None:
    declared = subject.method.evaluations
    if declared is None:
        raise NotHere("it declares no number of evaluations")
    for name in subject.homes:
        spent = subject.with_method(name, save=lambda run: run.nfe.clone()).saved
        steps = [(after - before).tolist() for before, after in zip(spent, spent[1:], strict=False)]
        most = max(max(step) for step in steps)
        assert most == declared, f"on {name} at most {most} evaluations of a sample in a step, {declared} are declared"
        assert len(steps) == STEPS and min(min(step) for step in steps) >= 1, f"on {name} a step asked nothing: {steps}"


@check(Guidance, "It declares whether it asks for the unconditional prediction.")
def null_is_declared(subject: Subject) -> None:
    asks = any(Needs.UNCONDITIONAL in part.needs for part in subject.method.bare)
    for name in subject.homes:
        told = subject.conditions(name, ROWS)
        cond = replace(told, alt={k: c for k, c in told.alt.items() if k != "null"})
        try:
            subject.with_method(name, cond=cond)
            missed = False
        except SuffuseError as error:
            missed = "null" in str(error)
        declares = "declares" if asks else "does not declare"
        assert missed == asks, f"on {name} it {'lacks' if missed else 'does without'} 'null' and {declares} that need"


@check(Guidance, "It composes with another guidance both ways.")
def it_composes(subject: Subject) -> None:
    if Needs.COUPLES in subject.method.needs:
        raise NotHere("it couples the samples of a batch, and says so in `needs`")
    chains = {"outside": subject.method | CFG(2.0)}
    if Needs.OUTERMOST not in subject.method.needs:
        chains["inside"] = CFG(2.0) | subject.method
    for name in subject.homes:
        for place, chain in chains.items():
            whole = subject.with_method(name, guidance=chain)
            assert bool(torch.isfinite(whole.x).all()), f"{place} of CFG on {name} the result is not finite"
            close(
                subject.with_method(name, [1], guidance=chain).x,
                whole.x[[1]],
                f"row 1 with it {place} of CFG on {name}",
            )


@check(Guidance, "Inside another guidance that asks for the conditional prediction alone it is what it is by itself.")
def paths_are_its_own(subject: Subject) -> None:
    if Needs.OUTERMOST in subject.method.needs:
        raise NotHere("it is to be the outermost")
    for name in subject.homes:
        inside = subject.with_method(name, guidance=CFG(1.0) | subject.method)
        close(inside.x, subject.result(name).x, f"CFG(1) around it on {name}")
