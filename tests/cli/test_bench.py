"""Benchmarks from the command line: what they print; figures are the machine's."""

from __future__ import annotations

import json


def test_samplers_are_timed_against_schedulers(suffuse):
    status, printed, _ = suffuse("bench", "sampler", "--only", "dpm++ 2m", "--steps", 3, "--pairs", 5, "--json")
    rows = json.loads(printed)
    assert status == 0 and [row["method"] for row in rows] == ["DPM++ 2M", "DPM++ 2M SDE"]
    assert all(row["suffuse, us a step"] > 0 and row["diffusers, us a step"] > 0 for row in rows)
    status, _, said = suffuse("bench", "sampler", "--only", "EulerX")
    assert status == 2 and "did you mean Euler" in said
