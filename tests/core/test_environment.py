from __future__ import annotations

import platform
import re

from suffuse import __version__
from suffuse.core import environment


def test_versions_name_what_decides_numbers():
    found = environment.versions()
    assert found["suffuse"] == __version__ and found["python"] == platform.python_version()
    assert found["torch"] and found["diffusers"]


def test_a_missing_library_is_left_out(monkeypatch):
    monkeypatch.setattr(environment, "LIBRARIES", ("no-such-library",))
    assert set(environment.versions.__wrapped__()) == {"suffuse", "python"}


def test_the_processor_has_a_name_and_cores():
    found = environment.processor()
    assert found["cpu"] and found["cores"] >= 1


def test_the_commit_is_a_short_hash_or_nothing(monkeypatch, tmp_path):
    found = environment.commit()
    assert found is None or re.fullmatch(r"[0-9a-f]{4,40}", found)
    monkeypatch.setattr(environment, "CHECKOUT", tmp_path)
    assert environment.commit() is None
