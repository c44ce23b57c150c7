"""What a measurement ran on: versions, processor, commit. Nothing here names a folder or a person."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from suffuse import __version__

CHECKOUT = Path(__file__).parents[3]
"""Root of the repository when suffuse runs from one."""

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "numpy")


def in_checkout() -> bool:
    """True where suffuse runs from its repository rather than from an installed copy."""
    return (CHECKOUT / "pyproject.toml").exists() and (CHECKOUT / "src" / "suffuse").is_dir()


@cache
def versions() -> Mapping[str, str]:
    """Versions of suffuse, Python and the libraries that decide numbers."""
    found = {"suffuse": __version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def processor() -> Mapping[str, str | int]:
    """Name of the processor and the number of cores that this process may use."""
    name = _processor_says("model name") or platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"cpu": name, "cores": cores}


def fast_types() -> list[str]:
    """Low-precision instructions that the processor says it has."""
    said = _processor_says("flags").split()
    return [flag for flag in ("avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8") if flag in said]


def commit() -> str | None:
    """Short hash of the repository's commit, or None outside of a repository."""
    if not in_checkout():
        return None
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        run = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()


def _processor_says(what: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(what)), "")
