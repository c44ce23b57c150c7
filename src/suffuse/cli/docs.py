"""Pages that are generated from the registry and the evidence."""

from __future__ import annotations

import typer

from suffuse.core.errors import BadInput

app = typer.Typer(help="Build the generated documentation, or check that it is up to date.", no_args_is_help=True)


@app.command()
def build() -> None:
    """Write the generated pages of docs/."""
    from suffuse.docs.pages import build

    for path in build():
        print(f"docs/{path.name}")


@app.command()
def check() -> None:
    """Fail where a generated page is not what the code would write now."""
    from suffuse.docs.pages import stale

    found = stale()
    if found:
        raise BadInput(f"docs: {', '.join(found)} out of date; write them with `suffuse docs build`")
    print("the generated pages are up to date")
