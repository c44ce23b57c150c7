"""The bundled models: what there is, whether it is as it was built and as good as its card says, and building it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from suffuse.core.errors import BadInput, Damaged, nearest
from suffuse.core.files import read_json, sha256
from suffuse.core.registry import ROOT

from .output import AsJson, show
from .threads import Threads, limit

if TYPE_CHECKING:
    from suffuse.zoo.recipes.building import Built, Progress, Recipe

app = typer.Typer(help="List, verify and build the bundled models.", no_args_is_help=True)

MODELS = ROOT / "zoo" / "models"
CARD = "card.json"
QUIET = 30.0
"""Seconds between two lines about the progress of a build whose output is not a terminal."""


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the bundled models with their size and what was measured of them."""
    rows = [
        {
            "name": name,
            "summary": card["summary"],
            "megabytes": round(sum((MODELS / name / file).stat().st_size for file in _files(name)) / 1e6, 2),
            "measured": [f"{figure} {value}" for figure, value in card.get("measured", {}).items()],
        }
        for name, card in _cards()
    ]
    show(rows, as_json=as_json)


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Models; by default all.")] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the models again, by the protocol of their cards; takes minutes.")
    ] = False,
    number: Annotated[
        int | None, typer.Option("-n", min=2, help="Measure with so many samples only; wider intervals.")
    ] = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Compare every file of the bundled models with the hash in its card; exit 1 where one differs.

    With --measure, compare the figures instead: they agree where the 95 % intervals overlap.
    """
    if number is not None and not measure:
        raise BadInput(f"-n {number}: is how much to measure; give --measure, too")
    limit(threads)
    cards = dict(_cards())
    for name in names or ():
        if name not in cards:
            raise BadInput(f"name: there is no bundled model {name!r}; {nearest(name, cards)}")
    compare = (lambda name: _measured(name, cards[name], number)) if measure else lambda n: _verified(n, cards[n])
    rows = [row for name in names or cards for row in compare(name)]
    show(rows, as_json=as_json)
    if any(row["state"] not in ("as built", "agrees") for row in rows):
        raise typer.Exit(1)


@app.command()
def build(
    name: Annotated[str, typer.Argument(help="Model, or a part: shapes, shapes-flow, digits, reader, vae, text.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for models, checkpoints and training data.")] = Path(
        "out/zoo"
    ),
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of its training; by default the recipe's.")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.0, help="Stop after so many minutes; the same command goes on later.")
    ] = None,
    number: Annotated[
        int | None, typer.Option("-n", min=0, help="Samples to measure it with; 0 for none. By default its protocol's.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where to train, such as cpu or cuda.")] = "cpu",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Train a bundled model anew from its recipe, measure it and write its card.

    What lies in the folder is used: finished parts as they are, begun ones go on from their last checkpoint, also after
    Ctrl-C.
    """
    from suffuse.zoo.recipes import recipe

    limit(threads)
    chosen = recipe(name)
    _check_device(device)
    watch = Watch(minutes)
    try:
        built = chosen.build(out, steps or chosen.steps, device=device, report=watch)
    except TimeUp as stopped:
        print(f"stopped at step {stopped.progress.log.step} of {stopped.progress.steps} of {stopped.progress.part}; "
              "the same command goes on", file=sys.stderr)  # fmt: skip
        raise typer.Exit(1) from None
    finally:
        watch.close()
    figures = _finish(name, chosen, built, number)
    row = {"model": name, "folder": str(built.folder), "steps": built.steps, "seconds": round(built.seconds)}
    show([{**row, **figures}] if as_json else [row], as_json=as_json)
    if figures and not as_json:
        show([{"figure": figure, "found": text} for figure, text in figures.items()])


class TimeUp(Exception):
    """The minutes are over."""

    def __init__(self, progress: Progress):
        super().__init__(str(progress))
        self.progress = progress


class Watch:
    """Shows how far a build is, and ends it after some minutes."""

    def __init__(self, minutes: float | None):
        self.end = None if minutes is None else time.monotonic() + 60 * minutes
        self.part, self.said = "", 0.0
        self.bar: Any = None

    def __call__(self, progress: Progress) -> None:
        """Called after each step."""
        from tqdm import tqdm

        now, log = time.monotonic(), progress.log
        if progress.part != self.part:
            self.close()
            self.part = progress.part
            self.bar = tqdm(desc=self.part, total=progress.steps, initial=log.step - 1, unit="step", disable=None)
        self.bar.update()
        loss = next(iter(log.losses.values()), 0.0)
        self.bar.set_postfix_str(f"loss {loss:.4g}, {log.images_per_second:.0f} images/s", refresh=False)
        if self.bar.disable and now - self.said > QUIET:
            self.said = now
            print(progress, file=sys.stderr, flush=True)
        if self.end is not None and now >= self.end and log.step < progress.steps:
            raise TimeUp(progress)

    def close(self) -> None:
        """Leave the last bar as it is."""
        if self.bar is not None:
            self.bar.close()


def _check_device(device: str) -> None:
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BadInput(
            f"device={device!r}: {str(error).splitlines()[0]:.100}; `suffuse env` lists what there is"
        ) from None


def _finish(name: str, recipe: Recipe, built: Built, number: int | None) -> dict[str, str]:
    """Measure what was built and write its card; what was measured."""
    from suffuse.core.environment import processor
    from suffuse.zoo.recipes import FILES
    from suffuse.zoo.recipes.card import write_card

    if recipe.measure is None:
        return {}
    figures = {} if number == 0 else recipe.measure(built.folder, number)
    write_card(
        built.folder,
        summary=recipe.summary,
        defaults=recipe.defaults,
        recipe=f"suffuse.zoo.recipes.{FILES[name]}.build",
        training={"steps": built.steps, "seconds": round(built.seconds), **processor()},
        protocol=recipe.protocol,
        measured=figures,
    )
    return {figure: str(value) for figure, value in figures.items()}


def _cards() -> Iterator[tuple[str, Mapping[str, Any]]]:
    for path in sorted(MODELS.glob(f"*/{CARD}")):
        card = read_json(path)
        if not isinstance(card, dict) or not {"summary", "files"} <= set(card):
            raise Damaged(f"{path.parent.name}/{CARD} has no summary or no files; build the model again")
        yield path.parent.name, card


def _files(name: str) -> list[str]:
    folder = MODELS / name
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != CARD)


def _verified(name: str, card: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    found = _files(name)
    for file in sorted({*card["files"], *found}):
        if file not in found:
            state = "missing"
        elif file not in card["files"]:
            state = "not in the card"
        else:
            state = "as built" if sha256(MODELS / name / file) == card["files"][file] else "altered"
        yield {"model": name, "file": file, "state": state}


def _measured(name: str, card: Mapping[str, Any], number: int | None) -> Iterator[dict[str, str]]:
    from suffuse.zoo.recipes import recipe
    from suffuse.zoo.recipes.building import Figure

    measure = recipe(name).measure
    assert measure is not None
    said, found = card.get("measured", {}), measure(MODELS / name, number)
    for figure in {**said, **found}:
        if figure not in said or figure not in found:
            # Few samples may hold none that a question is asked of.
            state = "agrees" if figure in said and number is not None else "not in the card"
        else:
            state = "agrees" if Figure.read(said[figure]).agrees(found[figure]) else "differs"
        texts = {"card": said.get(figure, ""), "found": str(found.get(figure, "no sample asks"))}
        yield {"model": name, "figure": figure, **texts, "state": state}
