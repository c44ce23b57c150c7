from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import dataclass

import pytest
from PIL import Image

from suffuse import __version__, world
from suffuse.claims import Table, at_most, claim, evidence
from suffuse.cli.errors import guarded
from suffuse.core import registry
from suffuse.core.errors import BadInput
from suffuse.core.registry import method
from suffuse.evaluation.statistics import Estimate

machinery = importlib.import_module("suffuse.claims.claim")


@pytest.fixture(autouse=True)
def _own_registries(monkeypatch):
    registry.all_methods()  # what a module registers when it is first imported here would be lost with the copy
    monkeypatch.setattr(machinery, "_claims", dict(machinery._claims))
    monkeypatch.setattr(registry, "_methods", dict(registry._methods))


@pytest.fixture
def toy():
    @method(paper="animatelcm", tags=("toy",))
    @dataclass(frozen=True)
    class ToyValue:
        """A toy value.

        It does nothing [at all].
        """

        scale: float
        words: tuple[str, ...] = ("a",)

    return ToyValue


def complaint(found):
    status, printed, said = found
    assert status == 2 and printed == ""
    assert said.startswith("error: ") and said.count("\n") == 1 and "Traceback" not in said
    return said


def test_help_and_version_are_printed_without_torch():
    code = (
        "import sys; from suffuse.cli import main; sys.argv = ['suffuse', '--help']; status = main(); "
        "sys.exit(status or any(m in sys.modules for m in ('torch', 'numpy', 'scipy', 'diffusers')))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "reproduce" in found.stdout


def test_version(suffuse):
    assert suffuse("--version") == (0, f"suffuse {__version__}\n", "")


def test_wrong_commands_and_options_are_one_line(suffuse):
    assert "No such command 'wurld'. Did you mean 'world'? See suffuse --help\n" in complaint(suffuse("wurld"))
    assert ". See suffuse world --help\n" in complaint(suffuse("world", "-n", "0"))
    assert "No such option: --siz" in complaint(suffuse("world", "--siz", "3"))
    assert "Missing argument" in complaint(suffuse("info"))


def test_a_group_alone_prints_its_help(suffuse):
    status, printed, said = suffuse("zoo")
    assert status == 2 and "verify" in printed + said and "error" not in said


def test_bad_input_is_one_line_and_status_2(capsys):
    def fail():
        raise BadInput("steps: 0 is not\n a number of steps; give 1 or more")

    assert guarded(fail) == 2
    assert capsys.readouterr().err == "error: steps: 0 is not a number of steps; give 1 or more\n"


def test_a_file_that_cannot_be_used_is_named(capsys, tmp_path):
    assert guarded(lambda: open(tmp_path / "none").close()) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'none'}: No such file or directory;")


def test_a_fault_of_the_program_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        guarded(lambda: 1 // 0)


def test_an_interruption_leaves_no_file(suffuse, monkeypatch, tmp_path):
    def interrupted(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(world, "batch", interrupted)
    assert suffuse("world", "-o", tmp_path / "a.png") == (130, "", "interrupted; files written so far are whole\n")
    monkeypatch.undo()
    monkeypatch.setattr(Image.Image, "save", interrupted)
    assert suffuse("world", "-n", 1, "-o", tmp_path / "a.png")[0] == 130
    assert list(tmp_path.iterdir()) == []


def test_methods(suffuse, toy):
    rows = json.loads(suffuse("methods", "--json")[1])
    said = {"name": "ToyValue", "topic": toy.__module__, "kind": "value", "paper": "animatelcm"}
    row = {**said, "summary": "A toy value."}
    assert row in rows
    assert [r["name"] for r in json.loads(suffuse("methods", "--topic", toy.__module__, "--json")[1])] == ["ToyValue"]
    status, printed, _ = suffuse("methods", "--kind", "value")
    assert status == 0 and "A toy value." in printed
    assert "kind: 'valu' is unknown; did you mean value" in complaint(suffuse("methods", "--kind", "valu"))


def test_info_of_a_method(suffuse, toy):
    _, printed, _ = suffuse("info", "ToyValue")
    assert "ToyValue(scale, words=('a',))" in printed and "nothing [at all]" in printed
    assert "AnimateLCM" in printed
    found = json.loads(suffuse("info", "ToyValue", "--json")[1])
    assert found["arguments"] == [
        {"name": "scale", "type": "float", "default": None},
        {"name": "words", "type": "tuple[str, ...]", "default": "('a',)"},
    ]
    assert "'ToyVelue' is unknown; did you mean ToyValue" in complaint(suffuse("info", "ToyVelue"))


def test_info_of_a_paper(suffuse, toy):
    _, printed, _ = suffuse("info", "animatelcm")
    assert "AnimateLCM" in printed and "ToyValue" in printed and "@misc{animatelcm" in printed
    assert json.loads(suffuse("info", "animatelcm", "--json")[1])["methods"] == ["ToyValue"]


def test_papers(suffuse, toy):
    rows = json.loads(suffuse("papers", "--json")[1])
    assert len(rows) == 255
    row = next(r for r in rows if r["key"] == "animatelcm")
    assert row["methods"] == ["ToyValue"] and row["state"] == "partial"
    assert "of 255 papers" in suffuse("papers", "--family", "edit")[1]
    assert "state: 'finished' is unknown" in complaint(suffuse("papers", "--state", "finished"))


def test_cite(suffuse, toy):
    _, printed, _ = suffuse("cite", "ToyValue(3)", "ToyValue", "deepcache")
    assert printed.count("@misc{animatelcm,") == 1 and printed.count("@inproceedings{deepcache,") == 1


@pytest.fixture
def kept(monkeypatch, tmp_path):
    machinery._claims.pop("animatelcm", None)

    @claim(paper="animatelcm", expect={"error": at_most(0.6)}, budget=1.0, fast=True)
    def toy_claim(seed):
        """The toy against the other toy."""
        if seed == 9:
            raise BadInput("model: the toy has none")
        error = Estimate(0.5 + seed, (0.4, 0.65 + seed), 64)
        return Table(rows=[{"arm": "toy", "error": error}], figures={"error": error, "steps": 10})

    monkeypatch.setattr(evidence, "folder", lambda: tmp_path)
    return tmp_path


def test_reproduce_prints_and_keeps_what_it_found(suffuse, kept):
    status, printed, _ = suffuse("reproduce", "animatelcm")
    assert status == 0
    assert "animatelcm: The toy against the other toy." in printed and "0.5 [0.4, 0.65]" in printed
    assert "at most 0.6" in printed and "the interval reaches out of it" in printed and "animatelcm passed" in printed
    assert evidence.read("animatelcm", kept)["passed"] is True


def test_reproduce_fails_outside_the_band(suffuse, kept):
    status, printed, _ = suffuse("reproduce", "animatelcm", "--seed", "1")
    assert status == 1 and "out of its band" in printed and "FAILED" in printed
    assert evidence.read("animatelcm", kept)["passed"] is False


def test_reproduce_check_keeps_nothing(suffuse, kept):
    found = suffuse("reproduce", "--topic", "test_cli", "--check", "--json")
    assert found[0] == 0 and json.loads(found[1])[0]["paper"] == "animatelcm"
    assert list(kept.iterdir()) == []


def test_a_claim_that_cannot_run_fails_and_is_named(suffuse, kept):
    status, _, said = suffuse("reproduce", "animatelcm", "--seed", "9")
    assert status == 1 and said == "animatelcm: model: the toy has none\n"
    assert list(kept.iterdir()) == []


def test_reproduce_needs_one_choice(suffuse, kept):
    assert "say which claims" in complaint(suffuse("reproduce"))
    assert "say which claims" in complaint(suffuse("reproduce", "animatelcm", "--all"))
    assert "'test_clu' has no claims; did you mean test_cli" in complaint(suffuse("reproduce", "--topic", "test_clu"))
    assert "has no claim yet" in complaint(suffuse("reproduce", "l-magic"))


def test_env(suffuse):
    found = json.loads(suffuse("env", "--json")[1])
    assert found["suffuse"] == __version__ and found["threads"] >= 1 and "cpu" in found["devices"]
    assert "torch" in suffuse("env")[1]


def test_world_draws_a_sheet(suffuse, tmp_path):
    path = tmp_path / "sheets" / "a.png"
    status, printed, _ = suffuse("world", "-n", 5, "--resolution", 16, "-o", path, "--json")
    assert status == 0 and len(json.loads(printed)) == 5
    assert Image.open(path).size == (3 * 20 + 4, 2 * 20 + 4)
    before = path.read_bytes()
    suffuse("world", "-n", 5, "--resolution", 16, "-o", path)
    assert path.read_bytes() == before
    printed = suffuse("world", "a red circle", "-n", 2, "--resolution", 16, "-o", path, "--language", "de")[1]
    assert printed.count("roter Kreis") == 2
    assert "a.jpg does not end in .png" in complaint(suffuse("world", "-n", 1, "-o", tmp_path / "a.jpg"))
