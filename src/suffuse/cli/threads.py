"""The option that says how many threads torch may use."""

from __future__ import annotations

from typing import Annotated

import typer

Threads = Annotated[int | None, typer.Option(min=1, help="Threads of torch; by default as the environment says.")]


def limit(threads: int | None) -> None:
    """Use so many threads; None leaves it as it is."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
