"""Plug-ins as one names them on the command line."""

from __future__ import annotations

from suffuse.cli.plugins import plugin
from suffuse.core.fitted import save_method
from suffuse.guidance import CFG, AdaptiveGuidance


def test_a_guidance_from_a_file_begins_a_chain(tmp_path):
    path = save_method(AdaptiveGuidance(w=3.0), tmp_path / "adaptive.safetensors")
    assert plugin(f"@{path}") == AdaptiveGuidance(w=3.0)
    assert plugin(f"@{path} | CFG(2.0)") == AdaptiveGuidance(w=3.0) | CFG(2.0)
