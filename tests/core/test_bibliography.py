from __future__ import annotations

import re
from importlib.resources import files

import pytest

from suffuse.core.bibliography import bibtex, check_key, references, scope, title
from suffuse.core.errors import BadInput


def test_the_scope_is_255_papers_with_titles_and_packages():
    assert len(scope()) == 255
    for key, paper in scope().items():
        assert key == paper.key and re.fullmatch(r"[a-z0-9-]+", key)
        assert paper.title and paper.family and paper.package


def test_every_reference_parses_and_agrees_with_the_scope():
    def plain(text):
        return re.sub(r"[^a-z0-9]", "", text.casefold())

    text = files("suffuse").joinpath("references.bib").read_text("utf-8")
    assert len(references()) == text.count("\n@") > 0
    for key, entry in references().items():
        assert entry.count("{") == entry.count("}")
        assert all(f"  {field} = {{" in entry for field in ("title", "author", "year"))
        if key in scope():
            in_entry = re.search(r"^  title = \{(.*)\},$", entry, flags=re.MULTILINE).group(1)
            assert plain(in_entry) == plain(scope()[key].title)


def test_bibtex_of_a_known_reference_and_of_a_title_alone():
    assert "Ma, Xinyin" in bibtex("deepcache")
    assert bibtex("demofusion").splitlines()[0] == "@misc{demofusion,"
    assert r"No \$\$\$" in bibtex("demofusion")


def test_titles_have_no_braces():
    assert title("dpm-solver-plus-plus").startswith("DPM-Solver++: Fast Solver")
    assert title("bdia") == scope()["bdia"].title


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(BadInput, match="did you mean deepcache"):
        check_key("deepcach")
