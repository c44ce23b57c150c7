"""The papers in scope and the references of methods: read from papers.toml and references.bib, both package data."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from suffuse.core.errors import BadInput, nearest


@dataclass(frozen=True)
class Paper:
    """A paper in scope.

    Args:
        key: short name, used by the registry, the claims and the evidence.
        title: as published.
        family: papers of one family share machinery.
        package: where its method belongs first.
    """

    key: str
    title: str
    family: str
    package: str


@cache
def scope() -> Mapping[str, Paper]:
    """Every paper in scope, by key."""
    table = tomllib.loads(files("suffuse").joinpath("papers.toml").read_text("utf-8"))
    return {key: Paper(key, **row) for key, row in table.items()}


@cache
def references() -> Mapping[str, str]:
    """BibTeX entries by key: of papers in scope whose reference is known in full, and of methods that they build on."""
    text = files("suffuse").joinpath("references.bib").read_text("utf-8")
    return {m[1]: m[0] for m in re.finditer(r"^@\w+\{([^,\s]+),.*?^\}$", text, flags=re.MULTILINE | re.DOTALL)}


def bibtex(key: str) -> str:
    """BibTeX entry of a key; where only the title of a paper is known, an entry with the title alone.

    Raises:
        BadInput: no paper or reference has this key.
    """
    check_key(key)
    return references().get(key) or f"@misc{{{key},\n  title = {{{_escaped(scope()[key].title)}}}\n}}"


def title(key: str) -> str:
    """Title of a paper in scope or of a reference, without BibTeX's braces."""
    check_key(key)
    if key in scope():
        return scope()[key].title
    found = re.search(r"^\s*title\s*=\s*\{(.*)\},?$", references()[key], flags=re.MULTILINE)
    return re.sub(r"[{}]", "", found.group(1)) if found else key


def check_key(key: str) -> str:
    """Return `key`; one that names neither a paper in scope nor a reference raises `BadInput` with the nearest ones."""
    if key not in scope() and key not in references():
        raise BadInput(f"paper {key!r} is unknown; {nearest(key, [*scope(), *references()])}")
    return key


def _escaped(text: str) -> str:
    return re.sub(r"([&%$#_])", r"\\\1", text)
