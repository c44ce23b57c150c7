from __future__ import annotations

import importlib
import json
import math

import pytest

from suffuse.claims import Band, Table, all_claims, at_least, at_most, between, claim, evidence, find, reproduce
from suffuse.claims.progress import State, progress
from suffuse.core import registry
from suffuse.core.errors import BadInput, Damaged
from suffuse.core.registry import method
from suffuse.evaluation.statistics import Estimate

machinery = importlib.import_module("suffuse.claims.claim")
all_claims()  # once, before any test has registries of its own: a module registers its claim when it is first imported


@pytest.fixture(autouse=True)
def _own_registries(monkeypatch):
    monkeypatch.setattr(machinery, "_claims", dict(machinery._claims))
    registry.all_methods()  # what is first imported later would be lost with the copy
    monkeypatch.setattr(registry, "_methods", dict(registry._methods))


@pytest.fixture
def toy():
    """A claim of the paper `animatelcm` whose figures grow with the seed."""
    machinery._claims.pop("animatelcm", None)

    @claim(paper="animatelcm", expect={"error": at_most(0.6), "gain": at_least(1.0)}, budget=1.0, fast=True)
    def toy_claim(seed):
        """The toy's error against the other toy's."""
        error = Estimate(0.5 + seed, (0.4 + seed, 0.65 + seed), 64)
        rows = [{"arm": "toy", "error": error, "steps": 10, "note": None}]
        return Table(rows, figures={"error": error, "gain": 2.0})

    return toy_claim


def test_bands():
    assert at_most(0.6).holds(0.6) and not at_most(0.6).holds(0.61)
    assert at_least(1).holds(1) and not at_least(1).holds(0.99)
    wide = Estimate(1.5, (0.5, 2.5), 9)
    assert between(1, 2).holds(wide) and not between(1, 2).holds_firmly(wide)
    assert between(1, 2).holds_firmly(Estimate(1.5, (1.0, 2.0), 9))
    assert [str(b) for b in (at_most(0.6), at_least(1), between(1, 2))] == ["at most 0.6", "at least 1", "1 to 2"]
    with pytest.raises(BadInput, match="above high"):
        between(2, 1)


def test_nan_is_in_no_band():
    for band in (Band(), at_most(1), at_least(1)):
        assert not band.holds(math.nan) and not band.holds_firmly(math.nan)
        assert not band.holds(Estimate(math.nan, (math.nan, math.nan), 3))


def test_a_claim_inside_its_bands_passes_and_one_outside_fails(toy):
    outcome = reproduce("animatelcm")
    assert outcome.passed and outcome.seed == 0 and outcome.seconds >= 0
    assert outcome.claim.topic == "test_claims" and outcome.claim.text.startswith("The toy's error")
    assert not reproduce("animatelcm", seed=1).passed


def test_the_evidence_of_an_outcome(toy, tmp_path):
    path = evidence.write(reproduce("animatelcm"), tmp_path)
    found = evidence.read("animatelcm", tmp_path)
    assert path.name == "animatelcm.json" and found == json.loads(path.read_text())
    assert found["passed"] is True and found["seed"] == 0
    assert found["figures"]["error"] == {
        "mean": 0.5,
        "interval": [0.4, 0.65],
        "n": 64,
        "expected": {"at_most": 0.6},
        "passed": True,
        "firm": False,
    }
    assert found["figures"]["gain"] == {"mean": 2.0, "expected": {"at_least": 1.0}, "passed": True, "firm": True}
    assert found["rows"][0]["steps"] == 10 and found["rows"][0]["note"] is None
    assert {"versions", "machine", "commit", "seconds", "budget"} <= set(found)
    assert str(tmp_path) not in path.read_text() and "/" not in json.dumps(found["versions"])


def test_an_installed_copy_reads_its_own_evidence_and_writes_to_the_current_folder(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "in_checkout", lambda: False)
    monkeypatch.setattr(evidence, "ROOT", tmp_path / "package")
    monkeypatch.chdir(tmp_path)
    assert evidence.write(reproduce("animatelcm")).resolve() == tmp_path / "evidence" / "animatelcm.json"
    assert evidence.read("animatelcm") is None and evidence.folder() == tmp_path / "package" / "evidence"


def test_a_figure_that_is_not_finite_is_kept_as_text(tmp_path):
    @claim(paper="animatelcm", expect={"error": at_most(1)}, budget=1.0)
    def broken(seed):
        """A broken toy."""
        return Table(rows=[], figures={"error": math.nan, "ratio": math.inf})

    evidence.write(reproduce("animatelcm"), tmp_path)
    found = evidence.read("animatelcm", tmp_path)
    assert found["passed"] is False
    assert found["figures"]["error"]["mean"] == "nan" and found["figures"]["ratio"]["mean"] == "inf"


def test_damaged_evidence_is_named(tmp_path):
    assert evidence.read("animatelcm", tmp_path) is None
    for text in ("{", "[]", '{"paper": "other", "passed": true}', '{"paper": "animatelcm", "passed": "yes"}'):
        (tmp_path / "animatelcm.json").write_text(text)
        with pytest.raises(Damaged, match="animatelcm.json"):
            evidence.read("animatelcm", tmp_path)


def test_an_expected_figure_must_be_measured(toy):
    @claim(paper="aamdm", expect={"errors": at_most(1)}, budget=1.0)
    def misspelt(seed):
        """A toy."""
        return Table(rows=[], figures={"error": 0.5})

    with pytest.raises(BadInput, match="expects the figure 'errors'; did you mean error"):
        reproduce("aamdm")


def test_unknown_papers_and_papers_without_a_claim(toy):
    with pytest.raises(BadInput, match="'animatelcms' is unknown"):
        reproduce("animatelcms")
    with pytest.raises(BadInput, match="has no claim yet"):
        reproduce("l-magic")
    with pytest.raises(BadInput, match="is unknown"):
        claim(paper="nothing-like-it", expect={"a": at_most(1)}, budget=1.0)


def test_a_claim_says_what_it_measures_and_expects_something(toy):
    def silent(seed):
        return Table([], {})

    with pytest.raises(TypeError, match="docstring"):
        claim(paper="aamdm", expect={"a": at_most(1)}, budget=1.0)(silent)
    with pytest.raises(TypeError, match="figures to expect"):
        claim(paper="aamdm", expect={}, budget=1.0)(toy)

    def other(seed):
        """Another."""

    other.__module__ = "elsewhere"
    with pytest.raises(TypeError, match="one claim"):
        claim(paper="animatelcm", expect={"a": at_most(1)}, budget=1.0)(other)


def test_progress_needs_code_and_passed_evidence(toy, tmp_path):
    def state():
        return {p.paper.key: p for p in progress(tmp_path)}["animatelcm"]

    assert len(progress(tmp_path)) == 255
    before = state()
    assert before.state is State.OPEN and not before.methods
    evidence.write(reproduce("animatelcm"), tmp_path)
    assert state().state is State.OPEN

    @method(paper="animatelcm")
    def toy_method(model):
        """A toy."""

    assert state().state is State.DONE and [m.name for m in state().methods] == ["toy_method"]
    evidence.write(reproduce("animatelcm", seed=1), tmp_path)
    assert state().state is State.PARTIAL
    (tmp_path / "animatelcm.json").unlink()
    assert state().state is State.PARTIAL


def test_the_evidence_in_the_repository_belongs_to_the_claims_as_they_are_now():
    known = {c.paper: c for c in all_claims()}
    for path in evidence.folder().glob("*.json"):
        found = evidence.read(path.stem)
        assert path.stem in known, f"{path.name}: no claim writes this evidence"
        bands = {name: evidence.expected(band) for name, band in find(path.stem).expect.items()}
        stored = {name: figure["expected"] for name, figure in found["figures"].items() if "expected" in figure}
        assert stored == bands, f"{path.name}: its bands are not those of the claim; run suffuse reproduce {path.stem}"
