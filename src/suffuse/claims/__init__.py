"""Every claim is runnable: experiments that run a method against its baselines, and the evidence that they leave.

One module per topic holds the experiments; `suffuse reproduce KEY` runs one and writes evidence/KEY.json.
"""

from __future__ import annotations

from .claim import Band, Claim, Outcome, Table, all_claims, at_least, at_most, between, claim, find, reproduce

__all__ = [
    "Band",
    "Claim",
    "Outcome",
    "Table",
    "all_claims",
    "at_least",
    "at_most",
    "between",
    "claim",
    "find",
    "reproduce",
]
