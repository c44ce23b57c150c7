"""Run claims and judge them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from suffuse.core.errors import BadInput, SuffuseError, nearest

from .output import AsJson, show, show_json

if TYPE_CHECKING:
    from suffuse.claims import Claim, Outcome


def reproduce(
    papers: Annotated[list[str] | None, typer.Argument(metavar="[KEY]...", help="Keys of papers.")] = None,
    topic: Annotated[str, typer.Option(help="All claims of this topic.")] = "",
    every: Annotated[bool, typer.Option("--all", help="All claims.")] = False,
    fast: Annotated[bool, typer.Option("--fast", help="The claims that run with the test suite.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Judge only; leave the stored evidence as it is.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Run the claims of papers and store what they found as evidence; exit 1 when a figure is out of its band."""
    from suffuse.claims import evidence
    from suffuse.claims import reproduce as run

    records, failed = [], []
    for claim in _chosen(papers or [], topic, every, fast):
        try:
            outcome = run(claim.paper, seed=seed)
        except SuffuseError as error:
            # One claim that cannot run must not keep the others from running.
            failed.append(claim.paper)
            print(f"{claim.paper}: {error}", file=sys.stderr)
            continue
        if not outcome.passed:
            failed.append(claim.paper)
        if not check:
            evidence.write(outcome)
        records.append(evidence.record(outcome))
        if not as_json:
            _show(outcome)
    if as_json:
        show_json(records)
    if failed:
        raise typer.Exit(1)


def _chosen(papers: list[str], topic: str, every: bool, fast: bool) -> list[Claim]:
    from suffuse.claims import all_claims, find

    if sum(map(bool, (papers, topic, every, fast))) != 1:
        raise BadInput("papers: say which claims to run, by one of: KEY..., --topic TOPIC, --fast, --all")
    claims = all_claims()
    if papers:
        return [find(paper) for paper in papers]
    if topic and topic not in {c.topic for c in claims}:
        raise BadInput(f"topic: {topic!r} has no claims; {nearest(topic, {c.topic for c in claims})}")
    return [c for c in claims if every or c.topic == topic or (fast and c.fast)]


def _show(outcome: Outcome) -> None:
    claim = outcome.claim
    show([dict(row) for row in outcome.table.rows], title=f"{claim.paper}: {claim.text.splitlines()[0]}")
    show([_judged(outcome, name) for name in outcome.table.figures])
    over = f", over its budget of {claim.budget:g}" if outcome.seconds > claim.budget else ""
    verdict = "passed" if outcome.passed else "FAILED"
    print(f"{claim.paper} {verdict}: seed {outcome.seed}, {outcome.seconds:.1f} seconds{over}\n")


def _judged(outcome: Outcome, name: str) -> dict[str, Any]:
    value, band = outcome.table.figures[name], outcome.claim.expect.get(name)
    if band is None:
        verdict = ""
    elif not band.holds(value):
        verdict = "out of its band"
    else:
        verdict = "in its band" if band.holds_firmly(value) else "in its band, the interval reaches out of it"
    return {"figure": name, "found": value, "expected": band, "verdict": verdict}
