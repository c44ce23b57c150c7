"""What a person sees when something goes wrong: one line that says what to do, and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable

from typer.exceptions import TyperException

from suffuse.core.errors import SuffuseError

BAD_INPUT = 2
INTERRUPTED = 130
OUT_OF_MEMORY = ("allocate memory", "out of memory", "size calculation overflowed")
"""What torch says of it, by a plain RuntimeError on a CPU."""


def guarded(run: Callable[[], int | None]) -> int:
    """Exit status of `run`: its own, 2 for bad input and for files that cannot be used, 130 when interrupted."""
    try:
        status = run() or 0
    except SuffuseError as error:
        return _say(str(error), BAD_INPUT)
    except TyperException as error:
        message, context = error.format_message(), getattr(error, "ctx", None)
        if not message:  # a group without a command: its help has been printed
            return error.exit_code
        if not message.endswith(("?", ".")):
            message += "."
        return _say(f"{message} See {context.command_path} --help" if context else message, BAD_INPUT)
    except OSError as error:
        if error.filename is None:
            raise
        return _say(f"{error.filename}: {error.strerror}; check the path and its permissions", BAD_INPUT)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(said in str(error) for said in OUT_OF_MEMORY):
            raise
        return _say("not enough memory; make smaller pictures, or fewer at once", BAD_INPUT)
    except KeyboardInterrupt:
        status = INTERRUPTED
    if status == INTERRUPTED:
        return _say("interrupted; files written so far are whole", INTERRUPTED)
    return status


def _say(message: str, status: int) -> int:
    print(f"error: {' '.join(message.split())}" if status == BAD_INPUT else message, file=sys.stderr)
    return status
