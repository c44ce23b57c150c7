"""Which methods there are: each registers itself where it is defined, and is imported only when it is asked for."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .bibliography import bibtex, check_key
from .errors import BadInput, nearest
from .plugin import Plugin

TOPICS = (
    "processes", "conditioning", "samplers", "noise", "guidance", "caching", "compression", "distillation", "adapters",
    "personalization", "networks", "training", "alignment", "layout", "composition", "design", "editing", "resolution",
    "restoration", "probing", "safety", "evaluation", "serving", "domains/language", "domains/multimodal",
    "domains/video", "domains/story", "domains/tryon", "domains/shapes3d", "domains/graphs", "domains/audio",
    "domains/decision", "domains/weights", "domains/medical", "domains/terrain", "domains/pde",
)  # fmt: skip
"""The packages that hold methods, in the order in which tables and pages show them."""

ROOT = Path(__file__).parents[1]

REQUIRED: Any = dataclasses.MISSING
"""Default of an argument that has none."""


@dataclass(frozen=True)
class Argument:
    """One argument of a method: its name, its type as written, and its default (`REQUIRED` where it has none)."""

    name: str
    annotation: str
    default: Any = REQUIRED

    def __str__(self) -> str:
        if self.default is REQUIRED:
            return self.name
        shown = self.default.__name__ if inspect.isfunction(self.default) else repr(self.default)
        return f"{self.name}={'...' if shown == '<lambda>' else shown}"


@dataclass(frozen=True)
class Method:
    """What the registry knows of one method.

    Args:
        target: the class of the plug-in, or the function of the task.
        paper: key of the paper or reference that it comes from, if any.
        tags: free words to find it by.
    """

    target: Any
    paper: str | None
    tags: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name by which expressions and the command line call it: that of the class or function."""
        return self.target.__name__

    @property
    def module(self) -> str:
        """Module that defines it."""
        return self.target.__module__

    @property
    def topic(self) -> str:
        """Topic package of the module, such as `samplers` or `domains/video`; the module itself outside of suffuse."""
        path = self.module.split(".")
        if path[0] != "suffuse":
            return self.module
        return "/".join(path[1:3]) if path[1] == "domains" else path[1]

    @property
    def kind(self) -> str:
        """The contract it fulfils: the name of its most general base in the core, or `task` for a function."""
        if not isinstance(self.target, type):
            return "task"
        bases = [b for b in self.target.__mro__ if b.__module__.startswith("suffuse.core.") and b is not Plugin]
        return bases[-1].__name__ if bases else "value"

    @property
    def summary(self) -> str:
        """First sentence of its documentation, on one line."""
        return " ".join(self.documentation.split("\n\n")[0].split())

    @property
    def documentation(self) -> str:
        """Its whole docstring, without indentation; empty where there is none of its own."""
        text = inspect.cleandoc(self.target.__doc__ or "")
        # A dataclass without a docstring is given its signature as one.
        return "" if text.startswith(f"{self.name}(") else text

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """Its arguments in order."""
        if dataclasses.is_dataclass(self.target):
            given = sorted((f for f in dataclasses.fields(self.target) if f.init), key=lambda f: bool(f.kw_only))
            return tuple(Argument(f.name, _annotation(f.type), _default(f)) for f in given)
        return tuple(
            Argument(p.name, _annotation(p.annotation), REQUIRED if p.default is p.empty else p.default)
            for p in inspect.signature(self.target).parameters.values()
        )

    @property
    def signature(self) -> str:
        """Call with every argument and its default, as one types it."""
        return f"{self.name}({', '.join(map(str, self.arguments))})"


_methods: dict[str, Method] = {}

T = TypeVar("T", bound=Callable[..., Any])


def method(*, paper: str | None = None, tags: Sequence[str] = ()) -> Callable[[T], T]:
    """Register a plug-in class or a task function under its own name.

    Args:
        paper: key in papers.toml or references.bib.
        tags: free words to find it by.

    Raises:
        BadInput: the key is unknown.
        TypeError: a plug-in that is not a frozen dataclass, or a name that another method already has.
    """
    if paper is not None:
        check_key(paper)

    def register(target: T) -> T:
        new = Method(target, paper, tuple(tags))
        if isinstance(target, type) and issubclass(target, Plugin) and not _frozen(target):
            raise TypeError(f"{new.name}: a plug-in is a value; put @dataclass(frozen=True) below @method")
        known = _methods.get(new.name)
        if known and known.module != new.module:
            raise TypeError(f"{new.name}: both {known.module} and {new.module} define this name; rename one")
        if not new.summary:
            raise TypeError(f"{new.name}: a method needs a docstring; its first sentence is shown in every table")
        _methods[new.name] = new
        return target

    return register


_exports: dict[str, Mapping[str, str]] = {}


def lazy(package: str, exports: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Names of a package that are imported on first use: `__getattr__, __dir__ = lazy(__name__, {"DEIS": "deis"})`.

    Args:
        package: the package's `__name__`.
        exports: name -> module below the package that defines it; ".core.training" is one beside the package.
    """
    hidden = [name for name, module in exports.items() if name == module]
    if hidden:
        raise TypeError(f"{package}: {hidden[0]!r} names a module and what is in it; rename the module")
    _exports[package] = dict(exports)

    def get(name: str) -> Any:
        if name == "__all__":  # of `from package import *`, which looks nowhere else
            return sorted(exports)
        if name not in exports:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f".{exports[name]}", package), name)
        setattr(sys.modules[package], name, value)
        return value

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *exports})

    return get, listed


def resolve(name: str) -> Method:
    """The method of this name, importing its module and no other.

    Raises:
        BadInput: there is none; the message names the nearest.
    """
    for package in () if name in _methods else _packages():
        if name in _exports.get(package.__name__, ()):
            getattr(package, name)
            break
    if name not in _methods:
        raise BadInput(f"method {name!r} is unknown; {nearest(name, names() - {name})}")
    return _methods[name]


def names() -> set[str]:
    """Names that `resolve` may know, without importing any method's module."""
    return {*_methods, *(name for package in _packages() for name in _exports.get(package.__name__, ()))}


def method_of(target: object) -> Method | None:
    """What is registered of this class or function, or None."""
    known = _methods.get(getattr(target, "__name__", ""))
    return known if known and known.target is target else None


def all_methods() -> list[Method]:
    """Every method, by topic and name; imports all topic packages, and so takes seconds."""
    for package in _packages():
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    order = {topic: i for i, topic in enumerate(TOPICS)}
    return sorted(_methods.values(), key=lambda m: (order.get(m.topic, len(order)), m.topic, m.name))


def cite(*used: object) -> str:
    """BibTeX of everything in `used`, each paper once.

    Args:
        used: plug-ins (with all that they hold), classes, tasks, names of methods, keys of papers.
    """
    keys = [key for each in used for key in _papers(each)]
    return "\n\n".join(bibtex(key) for key in dict.fromkeys(keys))


def _papers(used: object) -> Iterable[str]:
    if not isinstance(used, str):
        return _papers_in(used)
    return _papers_in(resolve(used).target) if used in names() else [check_key(used)]


def _papers_in(value: object) -> Iterable[str]:
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        for part in value:
            yield from _papers_in(part)
        return
    known = method_of(value) or method_of(type(value))
    if known and known.paper:
        yield known.paper
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _papers_in(getattr(value, field.name))


def _packages() -> Iterable[Any]:
    for topic in TOPICS:
        if (ROOT / topic / "__init__.py").exists():
            yield importlib.import_module("suffuse." + topic.replace("/", "."))


def _frozen(target: type) -> bool:
    parameters = getattr(target, "__dataclass_params__", None)
    return parameters is not None and parameters.frozen


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _annotation(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", repr(annotation))
