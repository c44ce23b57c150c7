"""The command line, as a test calls it."""

from __future__ import annotations

import sys

import pytest

from suffuse.cli import main


@pytest.fixture
def suffuse(monkeypatch, capsys):
    """Run a command line and return (status, what it printed, what it complained)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["suffuse", *map(str, arguments)])
        status = main()
        return status, *capsys.readouterr()

    return run
