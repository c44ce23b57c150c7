"""What tests of methods need: fixture networks, known laws and generated checks."""

from __future__ import annotations

from ..core.registry import lazy

__getattr__, __dir__ = lazy(__name__, {"Subject": "checks", "all_checks": "checks", "check_method": "checks"})
