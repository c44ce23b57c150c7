"""Trials over a grid, and tables of mean ranks."""

from __future__ import annotations

import pytest

from suffuse.adapters import IA3, AdapterReport, LoHa, LoRA, Trial, grid
from suffuse.adapters.report import size
from suffuse.core.errors import BadInput
from suffuse.testing.fixtures import fixture


def test_grid_takes_every_combination_and_ranks_where_there_are_ranks() -> None:
    trials = list(grid([LoRA(), LoHa(tucker=True), IA3()], lrs=(1e-3, 1e-4), epochs=(1, 2), ranks=(2, 4)))
    assert len(trials) == len(set(trials)) == 2 * 2 * (2 + 2 + 1)
    assert Trial(LoHa(4, tucker=True), 1e-4, 2) in trials and Trial(IA3(), 1e-3, 1) in trials
    assert str(trials[0]) == "LoRA(rank=2), lr 0.001, 1 epochs"


def test_ranks_and_their_means() -> None:
    figures = {
        Trial(LoRA(2), 1e-3, 1): {"loss": 0.3, "agreement": 0.9, "seconds": 1.0},
        Trial(LoRA(4), 1e-3, 1): {"loss": 0.1, "agreement": 0.8, "seconds": 9.0},
        Trial(LoHa(2), 1e-3, 1): {"loss": 0.2, "agreement": 0.8, "seconds": 5.0},
    }
    report = AdapterReport.run(list(figures), figures.__getitem__, {"loss": -1, "agreement": +1})
    assert [list(r.values()) for r in report.ranks().values()] == [[3, 1], [1, 2.5], [2, 2.5]]
    assert report.aggregated() == [
        {"group": "LoRA", "loss": 2.0, "agreement": 1.75, "mean": 1.875},
        {"group": "LoHa", "loss": 2.0, "agreement": 2.5, "mean": 2.25},
    ]
    assert [row["group"] for row in report.aggregated(lambda trial: str(trial.delta.rank))] == ["4", "2"]
    with pytest.raises(BadInput, match="'fidelity' is no figure"):
        AdapterReport(figures, {"fidelity": 1})


def test_size() -> None:
    adapter = LoRA(2, where=("attn1.to_q",)).on(fixture("unet"))
    wide = [part["lora_down"].shape[1] + len(part["lora_up"]) for part in adapter.parts]
    assert size(adapter) == {"numbers": 2 * sum(wide), "MB": pytest.approx(4e-6 * sum(wide))}
