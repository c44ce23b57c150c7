"""What there is: methods, papers, and how to cite them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from suffuse.core.errors import BadInput, nearest

from .output import AsJson, show, show_json

if TYPE_CHECKING:
    from suffuse.core.registry import Method


def methods(
    topic: Annotated[str, typer.Option(help="Only this topic, such as samplers.")] = "",
    kind: Annotated[str, typer.Option(help="Only this kind, such as Guidance.")] = "",
    as_json: AsJson = False,
) -> None:
    """List the methods: name, topic, kind, paper, and what each does."""
    from suffuse.core.registry import all_methods

    found = all_methods()
    _known("topic", topic, {m.topic for m in found})
    _known("kind", kind, {m.kind for m in found})
    rows = [_row(m) for m in found if topic in ("", m.topic) and kind in ("", m.kind)]
    show(rows, as_json=as_json)


def info(
    name: Annotated[str, typer.Argument(help="A method, such as DeepCache, or the key of a paper.")],
    as_json: AsJson = False,
) -> None:
    """Say all that is known of one method or paper."""
    from suffuse.core.bibliography import scope
    from suffuse.core.registry import names, resolve

    if name in scope() and name not in names():
        _show_paper(name, as_json)
    elif name in names():
        _show_method(resolve(name), as_json)
    else:
        raise BadInput(f"method or paper {name!r} is unknown; {nearest(name, {*names(), *scope()})}")


def papers(
    state: Annotated[str, typer.Option(help="Only papers that are done, partial or open.")] = "",
    family: Annotated[str, typer.Option(help="Only this family, such as accelerate.")] = "",
    as_json: AsJson = False,
) -> None:
    """List the papers in scope and how far each has come."""
    from suffuse.claims.progress import State, progress

    found = progress()
    _known("state", state, {s.value for s in State})
    _known("family", family, {p.paper.family for p in found})
    chosen = [p for p in found if state in ("", p.state.value) and family in ("", p.paper.family)]
    rows = [
        {
            "key": p.paper.key,
            "state": p.state.value,
            "title": p.paper.title,
            "family": p.paper.family,
            "methods": [m.name for m in p.methods],
        }
        for p in chosen
    ]
    show(rows, as_json=as_json)
    if not as_json:
        count = Counter(p.state for p in chosen)
        print(f"{len(chosen)} of {len(found)} papers: " + ", ".join(f"{count[s]} {s.value}" for s in State))


def cite(
    used: Annotated[list[str], typer.Argument(help="Methods, expressions such as 'DDIM(eta=0.5)', or paper keys.")],
) -> None:
    """Print the BibTeX entries of what you used."""
    from suffuse.core.expression import parse
    from suffuse.core.registry import cite as citations

    print(citations(*(parse(text) if "(" in text or "|" in text else text for text in used)))


def _row(method: Method) -> dict[str, Any]:
    return {
        "name": method.name,
        "topic": method.topic,
        "kind": method.kind,
        "paper": method.paper,
        "summary": method.summary,
    }


def _show_method(method: Method, as_json: bool) -> None:
    from suffuse.core.bibliography import title
    from suffuse.core.registry import REQUIRED

    if as_json:
        arguments = [
            {"name": a.name, "type": a.annotation, "default": None if a.default is REQUIRED else repr(a.default)}
            for a in method.arguments
        ]
        show_json(_row(method) | {"arguments": arguments, "tags": method.tags, "documentation": method.documentation})
        return
    print(f"{method.signature}\n")
    print(f"{method.kind} in {method.topic}" + (f", from: {title(method.paper)}" if method.paper else ""))
    print(f"\n{method.documentation}")


def _show_paper(key: str, as_json: bool) -> None:
    from suffuse.claims import evidence
    from suffuse.claims.progress import progress
    from suffuse.core.bibliography import bibtex

    found = next(p for p in progress() if p.paper.key == key)
    measured = evidence.read(key)
    if as_json:
        known = {"key": key, "title": found.paper.title, "state": found.state.value}
        show_json({**known, "methods": [m.name for m in found.methods], "evidence": measured})
        return
    print(f"{found.paper.title}\n\n{found.state.value}", end="")
    print(": " + ", ".join(f"{m.name} in {m.topic}" for m in found.methods) if found.methods else "")
    for name, figure in measured["figures"].items() if measured else ():
        print(f"  {name}: {figure['mean']} {figure.get('interval', '')}")
    print(f"\n{bibtex(key)}")


def _known(option: str, value: str, known: set[str]) -> None:
    if value and value not in known:
        raise BadInput(f"{option}: {value!r} is unknown; {nearest(value, known)}")
