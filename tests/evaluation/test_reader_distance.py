from __future__ import annotations

import pytest
import torch

from suffuse.core.errors import BadInput
from suffuse.evaluation import ReaderDistance, evaluate
from suffuse.evaluation.pictures import Pictures


def test_as_a_metric_it_is_the_mean_of_its_distances():
    x, y = torch.rand(2, 5, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = evaluate(Pictures(x, references=y), [ReaderDistance()], batch=2)["reader-feature distance"]
    with torch.no_grad():
        assert found.mean == pytest.approx(ReaderDistance().distance(x, y).double().mean().item(), rel=1e-5)
    assert found.n == 5 and found.interval[0] < found.mean < found.interval[1]
    assert "reader" in found.protocol


def test_it_needs_references():
    with pytest.raises(BadInput, match="references"):
        evaluate(Pictures(torch.zeros(2, 3, 64, 64)), [ReaderDistance()])
