"""Which pages are generated, and whether those in docs/ are what the code would write now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from suffuse.core.environment import CHECKOUT, in_checkout
from suffuse.core.errors import BadInput
from suffuse.core.files import atomic_write

from . import matrices
from .editing_table import editing_page
from .full_size import full_size_page
from .gallery import gallery_page
from .memory import memory_page
from .methods import methods_page
from .nfe_quality import nfe_page
from .papers import papers_page
from .results import results_page

PAGES: Mapping[str, Callable[[], str]] = {
    "editing.md": lambda: editing_page(folder()),
    "full-size.md": lambda: full_size_page(folder()),
    "gallery.md": lambda: gallery_page(folder()),
    "memory.md": lambda: memory_page(folder()),
    "methods.md": methods_page,
    "nfe-quality.md": lambda: nfe_page(folder()),
    "papers.md": papers_page,
    "results.md": results_page,
    "matrix-architectures.md": lambda: matrices.architectures_page(folder()),
    "matrix-methods.md": lambda: matrices.methods_page(folder()),
    "matrix-guidance.md": lambda: matrices.guidance_page(folder()),
}
"""File in docs/ -> what writes its text. A new page is a function in a module of its own, and a line here."""


def build(
    *, measure: bool = False, again: bool = True, progress: Callable[[str], None] = lambda what: None
) -> list[Path]:
    """Write every generated page.

    Args:
        measure: first try every method on every architecture and with every other method; takes minutes.
        again: try what was tried before too.
        progress: called with what is tried next.
    """
    tried = [matrices.measure(folder(), progress, again)] if measure else []
    return tried + [atomic_write(folder() / name, text().encode()) for name, text in PAGES.items()]


def stale() -> list[str]:
    """Names of the pages that are missing or are not what `build` would write."""
    return [name for name, text in PAGES.items() if _read(folder() / name) != text()]


def untried() -> list[str]:
    """Methods that came, or went, since the matrices were last measured."""
    return matrices.untried(folder())


def folder() -> Path:
    """docs/ of the checkout."""
    if not in_checkout():
        raise BadInput("docs: pages are generated in the repository; run this in a clone of it")
    return CHECKOUT / "docs"


def _read(path: Path) -> str | None:
    return path.read_text("utf-8") if path.exists() else None
