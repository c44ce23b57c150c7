"""How far a run is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from suffuse.core.step import Step


class Bar:
    """A progress bar on standard error, one tick a step."""

    def __init__(self, quiet: bool):
        from tqdm import tqdm

        self.bar: Any = tqdm(unit="step", leave=False, disable=quiet or None)

    def advance(self, at: Step) -> None:
        """Called before each step."""
        if at.first:
            self.bar.reset(total=at.n)
            self.bar.n = at.i
        self.bar.update()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()
