from __future__ import annotations

import importlib
import subprocess
import sys
from abc import abstractmethod
from dataclasses import dataclass, field

import pytest

from suffuse.core import registry
from suffuse.core.errors import BadInput
from suffuse.core.plugin import Plugin
from suffuse.core.registry import REQUIRED, TOPICS, all_methods, cite, lazy, method, method_of, names, resolve


class Stepper(Plugin):
    @abstractmethod
    def step(self, x): ...


Stepper.__module__ = "suffuse.core.stepper"


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    registry.all_methods()  # what is first imported later would be lost with the copy
    monkeypatch.setattr(registry, "_methods", dict(registry._methods))


@pytest.fixture
def toy():
    @method(paper="deepcache", tags=("fast",))
    @dataclass(frozen=True)
    class ToyStep(Stepper):
        """Take one step
        of the toy.

        More about it.
        """

        order: int
        scale: float = 7.5
        inner: object = None
        words: tuple[str, ...] = field(default_factory=tuple)

        def step(self, x):
            return x

    return ToyStep


def test_a_method_is_described_by_its_class(toy):
    known = resolve("ToyStep")
    assert known.target is toy and method_of(toy) is known
    assert (known.name, known.kind, known.paper, known.tags) == ("ToyStep", "Stepper", "deepcache", ("fast",))
    assert known.summary == "Take one step of the toy."
    assert known.signature == "ToyStep(order, scale=7.5, inner=None, words=())"
    assert [a.default for a in known.arguments][:2] == [REQUIRED, 7.5]
    assert known.arguments[1].annotation == "float"


def test_the_topic_is_the_package_below_suffuse(toy):
    assert resolve("ToyStep").topic == toy.__module__
    toy.__module__ = "suffuse.samplers.toy"
    assert resolve("ToyStep").topic == "samplers"
    toy.__module__ = "suffuse.domains.video.toy"
    assert resolve("ToyStep").topic == "domains/video"


def test_a_function_is_a_task():
    @method()
    def toy_task(model, strength=0.5):
        """Do something with a model."""

    assert resolve("toy_task").kind == "task" and resolve("toy_task").paper is None
    assert resolve("toy_task").signature == "toy_task(model, strength=0.5)"


def test_an_unknown_paper_is_refused():
    with pytest.raises(BadInput, match="did you mean deepcache"):
        method(paper="deepcash")


def test_a_plugin_must_be_a_frozen_dataclass():
    with pytest.raises(TypeError, match="frozen=True"):

        @method()
        @dataclass
        class Loose(Stepper):
            """A loose one."""


def test_a_method_needs_documentation():
    def undocumented(model):
        pass

    @dataclass(frozen=True)
    class Undocumented:
        scale: float = 1.0

    for target in (undocumented, Undocumented):
        with pytest.raises(TypeError, match="docstring"):
            method()(target)


def test_two_modules_cannot_share_a_name(toy):
    def ToyStep():  # noqa: N802
        """Another one."""

    ToyStep.__module__ = "elsewhere"
    with pytest.raises(TypeError, match="both .* and elsewhere define"):
        method()(ToyStep)


def test_an_unknown_name_says_the_nearest(toy):
    with pytest.raises(BadInput, match="'ToyStap' is unknown; did you mean ToyStep"):
        resolve("ToyStap")


def test_citations_follow_what_a_plugin_holds_and_name_each_paper_once(toy):
    @method(paper="ddim")
    @dataclass(frozen=True)
    class Inner(Stepper):
        """An inner step."""

        def step(self, x):
            return x

    text = cite(toy(1, inner={"a": (toy(2), Inner())}, words=("deis",)), "ToyStep", Inner)
    assert text.count("@inproceedings{deepcache,") == 1
    assert text.count("@inproceedings{ddim,") == 1
    assert "{deis," not in text
    assert "{deis," in cite("deis")
    with pytest.raises(BadInput, match="unknown"):
        cite("no such thing at all")


def test_a_star_imports_the_methods_of_a_package():
    found: dict = {}
    exec("from suffuse.samplers import *", found)
    assert {"DDIM", "Karras", "DPMSolverPP"} <= found.keys() and "lazy" not in found


def test_lazy_names_import_one_module_on_first_use(tmp_path, monkeypatch):
    package = tmp_path / "toys"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from suffuse.core.registry import lazy\n__getattr__, __dir__ = lazy(__name__, {'A': 'first', 'B': 'second'})\n"
    )
    (package / "first.py").write_text("A = object()\n")
    (package / "second.py").write_text("B = object()\n")
    monkeypatch.syspath_prepend(tmp_path)
    import toys

    assert {"A", "B"} <= set(dir(toys))
    assert "toys.first" not in sys.modules
    assert toys.A is toys.A
    assert "toys.first" in sys.modules and "toys.second" not in sys.modules
    with pytest.raises(AttributeError, match="'toys' has no attribute 'C'"):
        toys.C  # noqa: B018


def test_a_module_may_not_hide_what_it_exports():
    with pytest.raises(TypeError, match="rename the module"):
        lazy("toys_again", {"edit": "edit"})


def test_every_package_that_registers_methods_is_a_topic():
    for path in registry.ROOT.rglob("*.py"):
        inside = path.relative_to(registry.ROOT).parts
        if "\n@method(" in path.read_text("utf-8") and inside[0] != "core":
            topic = "/".join(inside[:2]) if inside[0] == "domains" else inside[0]
            assert topic in TOPICS, f"{path.name}: all_methods() would not find what it registers"


def test_every_method_of_suffuse_can_be_imported_from_its_topic():
    for known in all_methods():
        if known.topic == "core":  # a value that several topics share, which one of them exports
            assert known.kind == "Branch" and resolve(known.name) is known
        elif known.module.startswith("suffuse."):
            assert known.topic in TOPICS
            assert known.name in names(), f"{known.name} is missing from the exports of {known.topic}/__init__.py"
            package = importlib.import_module("suffuse." + known.topic.replace("/", "."))
            assert getattr(package, known.name) is known.target
            assert resolve(known.name) is known


def test_the_registry_loads_without_torch():
    code = "import sys, suffuse.core.registry, suffuse.core.expression; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
