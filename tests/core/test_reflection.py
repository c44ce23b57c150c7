"""Reflection: both moves by hand, settings of every kind, and what they leave alone."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suffuse.adapters import LoRA
from suffuse.core.cond import Cond
from suffuse.core.denoiser import Denoiser, count_evaluation
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput
from suffuse.core.hook import Hook
from suffuse.core.patch import Patch
from suffuse.core.prediction import EPS, FLOW
from suffuse.core.reflection import Branch, reflect
from suffuse.core.value import Coef
from suffuse.guidance import CFG
from suffuse.processes import VE, VP, Flow
from suffuse.samplers import DDIM
from suffuse.testing import fixtures


class Always(Denoiser):
    """Predicts the same output at every state and time: cond["output"], or its own."""

    def __init__(self, output, process=None, kind=EPS):
        super().__init__()
        self.output, self.process, self.kind = output, process or VP(), kind

    def forward(self, x, t, cond=None):
        count_evaluation()
        value = cond["output"] if cond is not None and "output" in cond else torch.full_like(x, self.output)
        return self.process.predict(x, Coef(t), value, self.kind)


@dataclass(frozen=True)
class Reflected(Hook):
    """Keeps what reflection makes of the state, and stays there."""

    strong: Branch
    weak: Branch
    seen: list

    def __call__(self, step, x, at):
        self.seen.append(reflect(step, x, at, self.strong, self.weak, DDIM()))
        return step(x, at)


def reflected(net, x, t, s, strong, weak, **run):
    """What one reflection between t and s makes of x, and the evaluations of that step."""
    seen = []
    hooks = [Reflected(Branch.of(strong), Branch.of(weak), seen)]
    out = sample(net, x, sampler=DDIM(), hooks=hooks, steps=1, start=t, stop=s, **run)
    return seen[0], out.nfe


X = torch.tensor([[0.3, -1.2], [2.0, 0.5]], dtype=torch.float64)
TIMES = st.tuples(st.floats(0.02, 0.98), st.floats(0.02, 0.98)).filter(lambda v: v[0] > v[1] + 0.01)


@settings(max_examples=30)
@given(TIMES, st.sampled_from([VP(), VE()]))
def test_the_shift_follows_weak_minus_strong(times, process):
    t, s = times
    a_t, a_s, b_t, b_s = (f(Coef(u)).item() for f in (process.alpha, process.sigma) for u in (t, s))
    strong, weak = (Always(v, process) for v in (1.0, 0.25))
    got, nfe = reflected(Always(0.0, process), X, t, s, strong, weak)
    expected = X + (b_t - a_t * b_s / a_s) * (0.25 - 1.0)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    assert nfe.tolist() == [3, 3]


@settings(max_examples=20)
@given(TIMES)
def test_on_flows_it_is_euler_there_and_back(times):
    t, s = times
    strong, weak = (Always(v, Flow(), FLOW) for v in (1.0, 0.25))
    got, _ = reflected(Always(0.0, Flow(), FLOW), X, t, s, strong, weak)
    torch.testing.assert_close(got, X + (s - t) * (1.0 - 0.25), rtol=1e-9, atol=1e-9)


def test_equal_settings_leave_a_constant_prediction_where_it_is():
    got, _ = reflected(Always(0.7), X, 0.8, 0.5, Branch(), Branch())
    torch.testing.assert_close(got, X, rtol=1e-12, atol=1e-12)


def test_it_is_ddim_and_its_counterpart_on_the_grid():
    net, x = fixtures.fixture("unet"), fixtures.states("unet", 2)
    cond, t, s = fixtures.conditions("unet", 2), Coef(0.6), Coef(0.4)
    p, process = net(x, t, cond), net.process
    y = process.posterior(x, p, t, s, 0.0).mean
    back = process.posterior(y, net(y, s, cond.branch("null")), s, t, 0.0).mean
    weak = Branch(CFG(1), path="null")
    with torch.no_grad():
        got, _ = reflected(net, x, 0.6, 0.4, CFG(1), weak, cond=cond, guidance=CFG(3))
    torch.testing.assert_close(got, back.detach(), rtol=1e-5, atol=1e-5)


@dataclass(frozen=True)
class Scaled(Patch):
    """Multiplies what the network puts out."""

    by: float

    def sites(self, net):
        return [s for s in net if s.kind == "root"]

    def around(self, call):
        p = call()
        return p.with_(eps=self.by * p.eps)


def test_settings_of_every_kind_differ_in_what_they_say():
    net, x = fixtures.fixture("unet"), fixtures.states("unet", 2)
    lora = LoRA(rank=2).on(net)
    for p in lora.parameters():
        torch.nn.init.normal_(p, 0.0, 0.2)
    run = dict(cond=fixtures.conditions("unet", 2), guidance=CFG(1))
    same, _ = reflected(net, x, 0.6, 0.4, Branch(), Branch(), **run)
    pairs = {
        "guidance": (CFG(3), CFG(1)),
        "patch": (Scaled(1.0), Scaled(0.5)),
        "adapter": (lora.scaled(1.5), lora.scaled(-1.5)),
        "denoiser": (net, fixtures.fixture("unet").with_(Scaled(0.5))),
        "condition": (Branch(), Branch(path="null")),
        "several": (Branch(CFG(3), (Scaled(0.9),), path="null"), CFG(1)),
    }
    results = {name: reflected(net, x, 0.6, 0.4, *pair, **run)[0] for name, pair in pairs.items()}
    torch.testing.assert_close(results["patch"], results["denoiser"])
    found = [same, *(v for k, v in results.items() if k != "denoiser")]
    for i, a in enumerate(found):
        assert all(float((a - b).abs().max()) > 1e-3 for b in found[:i])


def test_a_denoiser_of_another_process_is_read_in_the_run_s():
    t, s = 0.6, 0.3
    own, other = VP(), Flow()
    got, _ = reflected(Always(0.0, own), X, t, s, Always(1.0, other), Always(1.0, own))
    torch.testing.assert_close(got, X, rtol=1e-9, atol=1e-9)


def test_alternatives_keep_every_row_its_own():
    cond = Cond({"output": X}, {"rich": Cond({"output": X.flip(0)})})
    whole, _ = reflected(Always(0.0), X, 0.6, 0.4, Branch(path="rich"), Branch(), cond=cond)
    for i in range(2):
        alone, _ = reflected(Always(0.0), X[i : i + 1], 0.6, 0.4, Branch(path="rich"), Branch(), cond=cond[i : i + 1])
        torch.testing.assert_close(whole[i : i + 1], alone)


def test_what_is_no_branch_is_named():
    with pytest.raises(BadInput, match="give path"):
        Branch(prompt="a red circle")
    with pytest.raises(BadInput, match="DDIM"):
        Branch.of(DDIM())
    assert Branch(path="rich", prompt="a red circle").prompts() == {"rich": "a red circle"}
