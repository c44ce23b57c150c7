from __future__ import annotations

import json

import pytest
from evaluation_toys import Projected, pictures

from suffuse.core.errors import BadInput
from suffuse.evaluation import MSE, PSNR, VendiScore, evaluate


def test_one_pass_gives_every_figure_with_its_protocol_whatever_the_batch():
    p, metrics = pictures(9), [PSNR(), PSNR("outside"), VendiScore(Projected())]
    one, other, stream = evaluate(p, metrics), evaluate(p, metrics, batch=2), evaluate(iter([p[:5], p[5:]]), metrics)
    assert set(one.figures) == {"PSNR", "PSNR outside", "Vendi score"}
    for name, estimate in one.figures.items():
        assert estimate.protocol and estimate.n == 9
        for again in (other, stream):
            assert again[name].mean == pytest.approx(estimate.mean) and again[name].protocol == estimate.protocol


def test_a_report_prints_a_line_a_figure_and_goes_into_json():
    report = evaluate(pictures(4), [MSE(), PSNR("inside")])
    lines = str(report).splitlines()
    assert (
        len(lines) == 2 and lines[1].startswith("PSNR inside  ") and "n=4" in lines[1] and "inside the mask" in lines[1]
    )
    record = json.loads(json.dumps(report.record()))
    assert (
        record["MSE"]["n"] == 4 and len(record["MSE"]["interval"]) == 2 and "squared error" in record["MSE"]["protocol"]
    )


def test_two_figures_of_one_name_are_refused():
    with pytest.raises(BadInput, match="'MSE'"):
        evaluate(pictures(3), [MSE(), MSE()])
