"""Errors a user can act on: each names the argument, the value and the remedy in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SuffuseError(Exception):
    """Base of every error that suffuse raises on purpose."""


class BadInput(SuffuseError, ValueError):
    """An argument, a file or a prompt that cannot be used as given."""


class Refused(SuffuseError):
    """Two parts, each fine alone, that do not go together; the message gives the reason and the remedy."""


class Damaged(SuffuseError):
    """A stored file that is missing, incomplete or altered; the message names it."""


class Diverged(SuffuseError, ArithmeticError):
    """A network or a loss returned NaN or infinity."""


def nearest(name: str, known: Iterable[str]) -> str:
    """End of an error message: the known names closest to `name` in any case, or all of them where none is close."""
    by_lower = {k.lower(): k for k in sorted(known)}
    close = [by_lower[k] for k in difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)]
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(by_lower.values())}"
