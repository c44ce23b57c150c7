"""The page of error against evaluations says what the figures say."""

from __future__ import annotations

import json

from suffuse.docs.nfe_quality import nfe_page


def point(side: str, solver: str, budget: int, error: float) -> dict:
    names = {"side": side, "solver": solver, "spacing": "Trailing", "budget": budget, "evaluations": budget}
    return {**names, "errors": [error, error]}


def test_a_section(tmp_path):
    points = [point("suffuse", "UniPC 2", 4, 0.5), point("suffuse", "DDIM", 4, 0.6), point("suffuse", "DDIM", 8, 0.3)]
    points += [point("diffusers", "Euler", 4, 0.625), point("diffusers", "Euler", 8, 0.2)]
    found = {
        "guidance": "CFG(w=3)",
        "captions": 6,
        "reference": "UniPC(order=3), 1000 steps",
        "check": {"solver": "DEIS(order=2), 1000 steps", "errors": [0.001, 0.001]},
        "spacings": {
            "suffuse": {"UniPC 2": ["Trailing"], "DDIM": ["Trailing", "Karras"]},
            "diffusers": {"Euler": ["a"]},
        },
        "budgets": [4, 8],
        "points": points,
    }
    (tmp_path / "nfe-quality.json").write_text(json.dumps({"models": {"shapes": found}}))
    page = nfe_page(tmp_path)
    one, same = "0.80 [0.80, 0.80]", "1.50 [1.50, 1.50]"
    assert f"| UniPC 2, Trailing | 0.5 [0.5, 0.5] | Euler, Trailing | 0.625 [0.625, 0.625] | {one} | {one} |" in page
    assert f"| 8 | DDIM, Trailing | 0.3 [0.3, 0.3] | Euler, Trailing | 0.2 [0.2, 0.2] | {same} | {same} |" in page
    assert "| UniPC 2 | 0.5 |  | Trailing |" in page and "| DDIM | 0.6 | 0.3 | Trailing, Karras |" in page
    assert max(map(len, page.split("\n## ")[0].splitlines())) <= 120
