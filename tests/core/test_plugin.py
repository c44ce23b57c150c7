"""Settings: what is fitted to one is refused elsewhere."""

from __future__ import annotations

import pytest

from suffuse.core.errors import Refused
from suffuse.core.plugin import Setting


def test_whole_numbers_are_numbers():
    here = Setting(guidance="CFG(w=3) | Window(start=0, stop=0.5)")
    here.require(Setting(guidance="CFG(w=3.0) | Window(start=0.0, stop=0.5)"), ("guidance",), "OLSS")
    for other in ("CFG(w=3.05) | Window(start=0, stop=0.5)", "CFG(w=13.0) | Window(start=0, stop=0.5)"):
        with pytest.raises(Refused, match="OLSS was fitted for guidance"):
            here.require(Setting(guidance=other), ("guidance",), "OLSS")
