"""How far each paper in scope has come."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from suffuse.core.bibliography import Paper, scope
from suffuse.core.registry import Method, all_methods

from . import evidence


class State(Enum):
    """Done: in code, and its claim passed. Partial: in code. Open: not in code."""

    DONE = "done"
    PARTIAL = "partial"
    OPEN = "open"


@dataclass(frozen=True)
class Progress:
    """A paper, its state, and its methods."""

    paper: Paper
    state: State
    methods: tuple[Method, ...]


def progress(at: Path | None = None) -> list[Progress]:
    """Every paper in scope, by key, with the evidence found in the folder `at` (default: the project's)."""
    methods: dict[str | None, list[Method]] = defaultdict(list)
    for method in all_methods():
        methods[method.paper].append(method)
    return [
        Progress(paper, _state(key, bool(methods[key]), at), tuple(methods[key]))
        for key, paper in sorted(scope().items())
    ]


def _state(key: str, in_code: bool, at: Path | None) -> State:
    if not in_code:
        return State.OPEN
    found = evidence.read(key, at)
    return State.DONE if found and found["passed"] else State.PARTIAL
