"""Recording changes nothing and keeps what was there."""

from __future__ import annotations

import torch

from suffuse.core.engine import sample
from suffuse.core.recording import Recorder, record
from suffuse.core.value import Coef
from suffuse.guidance import CFG
from suffuse.samplers import DDIM, Heun
from suffuse.testing.checks.subject import denoiser, states
from suffuse.testing.fixtures import conditions

RUN = {"steps": 4, "cond": conditions("unet", 2)}


def test_a_recorded_run_is_the_run():
    net, x = denoiser("unet"), states("unet", 2)
    plain = sample(net, x, sampler=DDIM(), guidance=CFG(3.0), **RUN)
    seen = record(net, x, sampler=DDIM(), guidance=CFG(3.0), **RUN)
    assert len(seen.states) == len(seen.times) == 5 and len(seen.predictions) == 4
    assert seen.times == (1.0, 0.75, 0.5, 0.25, 0.0) and seen.samples == (0, 1)
    assert torch.equal(seen.states[-1], plain.x) and torch.equal(seen.states[0], x)
    for i, p in enumerate(seen.predictions):
        assert torch.equal(p.x, seen.states[i])
    # the recorded predictions are the guided ones: DDIM with them leads to the next state
    p, process = seen.predictions[1], net.process
    s = Coef(seen.times[2])
    torch.testing.assert_close(process.alpha(s) * p.x0 + process.sigma(s) * p.eps, seen.states[2], rtol=1e-4, atol=1e-4)


def test_branches_are_kept_inside_of_a_guidance():
    net, recorder = denoiser("unet"), Recorder()
    plain = sample(net, states("unet", 2), sampler=DDIM(), guidance=CFG(3.0), **RUN).x
    seen = sample(net, states("unet", 2), sampler=DDIM(), guidance=CFG(3.0) | recorder, **RUN).x
    torch.testing.assert_close(seen, plain, rtol=1e-5, atol=1e-5)
    assert {path for path, _ in recorder.kept} == {"cond", "null"} and len(recorder.kept) == 8


def test_the_first_question_of_a_step_is_kept():
    net = denoiser("unet")
    seen = record(net, states("unet", 2), sampler=Heun(), **RUN)
    for i, p in enumerate(seen.predictions):
        assert torch.equal(p.x, seen.states[i])
