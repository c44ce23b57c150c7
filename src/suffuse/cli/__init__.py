"""The command line: `suffuse --help`."""

from __future__ import annotations

import os


def main() -> int:
    """Run the command line and return its exit status."""
    # Read when torch loads OpenMP: threads that spin while they wait make a busy machine many times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from .app import app
    from .errors import guarded

    return guarded(lambda: app(standalone_mode=False, prog_name="suffuse"))
