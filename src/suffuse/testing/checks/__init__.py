"""The generated checks: what must hold of every method, tried on small networks and known laws.

`check_method(method)` runs all that apply to one method, also to one of your own; `all_checks()` lists those of every
registered method for pytest. Each check is one sentence, and its failure names the method and what was measured.
"""

from __future__ import annotations

from . import caches, guidance, metrics, objectives, patches, processes, runs, samplers, values
from .check import Case, Check, Failed, all_checks, check_method, checks_of
from .subject import NotHere, Subject

__all__ = ["Case", "Check", "Failed", "NotHere", "Subject", "all_checks", "check_method", "checks_of"]

# imported for the checks that they register
_ = (caches, guidance, metrics, objectives, patches, processes, runs, samplers, values)
