from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from suffuse.core import registry

claim = importlib.import_module("suffuse.claims.claim")  # the package hides it behind its function
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def ran() -> Iterator[Callable[[str], ModuleType]]:
    """Runs the Python blocks of a page; what they register is forgotten afterwards."""
    registry.all_methods()  # what is first imported later would be lost with the copy
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_methods", dict(registry._methods))
        patch.setattr(claim, "_claims", dict(claim._claims))

        def run(page: str) -> ModuleType:
            text = (DOCS / page).read_text("utf-8")
            module = ModuleType(re.sub(r"\W", "_", page))
            patch.setitem(sys.modules, module.__name__, module)
            for block in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
                before = "\n" * text[: block.start(1)].count("\n")  # so that an error names the line of the page
                exec(compile(before + block[1], page, "exec"), vars(module))
            return module

        yield run
