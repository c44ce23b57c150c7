from __future__ import annotations

import json
import sys
from dataclasses import dataclass

import pytest

from suffuse.cli import main
from suffuse.core import registry
from suffuse.core.errors import BadInput
from suffuse.core.registry import method
from suffuse.docs import matrices, pages


@pytest.fixture
def clone(monkeypatch, tmp_path):
    monkeypatch.setattr(pages, "CHECKOUT", tmp_path)
    monkeypatch.setattr(pages, "in_checkout", lambda: True)
    registry.all_methods()  # what is first imported later would be lost with the copy
    monkeypatch.setattr(registry, "_methods", dict(registry._methods))
    return tmp_path


@pytest.fixture
def toy(clone):
    @dataclass(frozen=True)
    class ToyPage:
        """A toy for pages.

        x_s = a x_t

        Args:
            scale: of the toy.
        """

        scale: float = 2.0

    ToyPage.__module__ = "suffuse.samplers.toy"
    return method(paper="animatelcm")(ToyPage)


def test_a_method_stands_under_its_topic_with_its_signature_paper_and_docstring(toy):
    text = pages.PAGES["methods.md"]()
    own = text.partition("## samplers")[2].partition("\n## ")[0]
    assert "### ToyPage\n\nA toy for pages.\n\nFrom: AnimateLCM" in own
    assert "ToyPage(scale=2.0)" in own and "x_s = a x_t\n\nArgs:\n    scale: of the toy." in own


def test_methods_of_others_are_not_in_our_pages(clone):
    @method()
    def toy_elsewhere(model):
        """A toy elsewhere."""

    assert "toy_elsewhere" not in pages.PAGES["methods.md"]()


def test_every_paper_has_its_row_and_its_state(toy):
    text = pages.PAGES["papers.md"]()
    assert sum(line.startswith("| ") for line in text.splitlines()) == 256
    row = next(line for line in text.splitlines() if line.startswith("| animatelcm |"))
    assert row.endswith("| partial | ToyPage (samplers) |")


def test_check_fails_until_built_and_again_when_something_changes(clone, toy, monkeypatch, capsys):
    def suffuse(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["suffuse", "docs", *arguments])
        return main()

    assert set(pages.stale()) == set(pages.PAGES)
    assert suffuse("build") == 0 and pages.stale() == []
    assert suffuse("check") == 2
    assert "run `suffuse docs build --matrices`" in capsys.readouterr().err
    networks = {m.name: {"unet": "", "dit": "a | b; c"} for m in matrices.plugins()}
    (clone / "docs" / matrices.FILE).write_text(json.dumps({"networks": networks, "kinds": {}, "pairs": {}}))
    assert suffuse("check") == 2
    assert "matrix-architectures.md, matrix-methods.md out of date" in capsys.readouterr().err
    assert suffuse("build") == 0 and suffuse("check") == 0

    (clone / "docs" / "papers.md").write_text("something else")
    assert pages.stale() == ["papers.md"]


def test_pages_are_built_in_a_repository_only(monkeypatch):
    monkeypatch.setattr(pages, "in_checkout", lambda: False)
    with pytest.raises(BadInput, match="in a clone"):
        pages.build()
