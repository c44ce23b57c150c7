"""Every command in one place; each lives in the file of its group."""

from __future__ import annotations

from typing import Annotated

import typer

from suffuse import __version__

from . import (
    bench,
    catalogue,
    claims,
    docs,
    edit,
    environment,
    evaluate,
    generate,
    interpolate,
    plan,
    search,
    seeds,
    select,
    upscale,
    world,
    zoo,
)

app = typer.Typer(
    help="Published ways of running, steering, shrinking, training and explaining diffusion models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"suffuse {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


for command in (
    generate.generate,
    generate.replay,
    edit.edit,
    upscale.upscale,
    select.select,
    interpolate.interpolate,
    plan.plan,
    catalogue.methods,
    catalogue.info,
    catalogue.papers,
    catalogue.cite,
    claims.reproduce,
    world.world,
    environment.env,
):
    app.command()(command)
search.app.command()(seeds.seeds)
app.add_typer(search.app, name="search")
app.add_typer(zoo.app, name="zoo")
app.add_typer(docs.app, name="docs")
app.add_typer(bench.app, name="bench")
app.add_typer(evaluate.app, name="evaluate")
