"""Pages of memory, edits and released sizes, from figures in files."""

from __future__ import annotations

import json

from suffuse.docs.editing_table import COLUMNS, editing_page
from suffuse.docs.full_size import full_size_page
from suffuse.docs.memory import memory_page


def test_memory_is_told_in_gibibytes(tmp_path):
    assert memory_page(tmp_path).endswith("|---|---|---|---|\n")
    row = {"side": 512, "way": "whole", "sampling": 2**29, "decoding": 3 * 2**30}
    (tmp_path / "memory.json").write_text(json.dumps({"weights": 2**32, "steps": 1, "rows": [row]}))
    page = memory_page(tmp_path)
    assert "| 512 | whole | 0.50 | 3.00 |" in page and "4.00 GiB" in page


def test_pairs_are_rows_and_refusals_have_their_reason_once(tmp_path):
    figures = {name: {"mean": 0.25} for name in COLUMNS.values()}
    ran = {
        "inversion": "SDEdit()",
        "editor": "",
        "refused": "",
        "figures": figures,
        "evaluations": 40.0,
        "seconds": 1.5,
    }
    no = [{**ran, "editor": f"E{k}()", "refused": "not here; go there", "figures": {}} for k in range(2)]
    board = {
        "model": "shapes", "cases": [{"name": "replace 0"}, {"name": "style 1"}], "steps": 20, "guidance": 3.0,
        "sampler": "DDIM()", "seed": 0, "rows": [ran, *no],
    }  # fmt: skip
    (tmp_path / "editing").mkdir()
    (tmp_path / "editing" / "a.json").write_text(json.dumps(board))
    page = editing_page(tmp_path)
    assert "| `SDEdit()` |  | 0.25 | 0.25 | 0.25 | 0.25 | 0.25 | 40 | 1.5 |" in page
    assert "2 edits (replace, style), 20 steps, guidance 3.0, seed 0" in page
    assert "- not here; go there: `SDEdit()` with `E0()`, `SDEdit()` with `E1()`" in page


def test_arms_of_released_sizes_have_their_ratio_and_drift(tmp_path):
    assert full_size_page(tmp_path).endswith("a busy machine.\n")
    row = {"arm": "DDIM, 5 steps", "seconds": 2.0, "ratio": 0.98, "interval": [0.9, 1.1], "operations": 1.0,
           "memory": 0.5, "drift": None}  # fmt: skip
    run = {"weights": 860_000_000, "steps": 5, "rounds": 5, "rows": [row, {**row, "drift": 1e-6}]}
    (tmp_path / "full-size.json").write_text(json.dumps({"runs": {"sd15, float32, CPU": run}}))
    page = full_size_page(tmp_path)
    assert "## sd15, float32, CPU\n\n0.86 billion weights, 5 rounds." in page
    assert "| DDIM, 5 steps | 2 | 0.98 [0.9, 1.1] | 1.00 | 0.50 |  |" in page and "| 1.0e-06 |" in page
