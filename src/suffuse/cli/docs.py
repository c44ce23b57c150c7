"""Pages that are generated from the registry and the evidence."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from suffuse.core.errors import BadInput

app = typer.Typer(help="Build the generated documentation, or check that it is up to date.", no_args_is_help=True)


@app.command()
def build(
    matrices: Annotated[bool, typer.Option("--matrices", help="First try methods together; takes minutes.")] = False,
    new: Annotated[bool, typer.Option("--new", help="With --matrices: only what was not tried yet.")] = False,
) -> None:
    """Write the generated pages of docs/."""
    from suffuse.docs.pages import build

    for path in build(measure=matrices, again=not new, progress=lambda what: print(what, file=sys.stderr)):
        print(f"docs/{path.name}")


@app.command()
def sheets(
    names: Annotated[list[str] | None, typer.Argument(metavar="[METHOD]...", help="Methods; by default all.")] = None,
) -> None:
    """Draw the contact sheets of docs/gallery.md; takes minutes."""
    from suffuse.docs.gallery import draw
    from suffuse.docs.pages import folder

    for path in draw(folder(), names or ()):
        print(f"docs/gallery/{path.name}")


@app.command()
def check() -> None:
    """Fail where a generated page is not what the code would write now."""
    from suffuse.docs.pages import stale, untried

    found, lacking = stale(), untried()
    if lacking:
        names = f"{', '.join(lacking[:5])}{' ...' if len(lacking) > 5 else ''}"
        raise BadInput(f"docs: the matrices lack {names}, or still have them; run `suffuse docs build --matrices`")
    if found:
        raise BadInput(f"docs: {', '.join(found)} out of date; write them with `suffuse docs build`")
    print("the generated pages are up to date")
