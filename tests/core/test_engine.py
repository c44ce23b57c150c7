"""Runs: pure steps, rows and paths, states that can be split, joined and resumed, centring, refusals."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from suffuse.core.cond import Cond
from suffuse.core.denoiser import Denoiser, count_evaluation
from suffuse.core.engine import Start, State, grid_of, sample, trace
from suffuse.core.errors import BadInput, Diverged, Refused
from suffuse.core.grid import Grid, Spacing
from suffuse.core.guidance import Guidance
from suffuse.core.hook import Hook
from suffuse.core.plugin import Needs
from suffuse.core.prediction import EPS, X0
from suffuse.core.process import Parts
from suffuse.core.value import Coef, Tree
from suffuse.guidance import CFG
from suffuse.processes import VP, Absorbing, Flow, Table
from suffuse.restoration import ResShift
from suffuse.samplers import DDIM, DDPM, Ancestral, Heun, Trailing

COND = Cond({"shift": torch.tensor([[1.0], [2.0], [3.0]])}, {"null": Cond({"shift": torch.zeros(3, 1)})})


class Toy(Denoiser):
    """A smooth nonlinear prediction that depends on state, time and condition."""

    def __init__(self, process=None):
        super().__init__()
        self.process = process or VP()

    def forward(self, x, t, cond=None):
        count_evaluation()
        t, cond = Coef(t), cond if cond is not None else Cond()
        shift = cond["shift"][:, :, None, None] if "shift" in cond else 0.0
        return self.process.given(cond).predict(x, t, torch.tanh(x * 0.7 + shift) + 0.1 * (t * torch.ones_like(x)), EPS)


RUN = dict(sampler=DDIM(eta=0.7), steps=6, cond=COND, guidance=CFG(3.0), noise=5)
SHAPE = (3, 2, 4, 4)


def test_a_sample_is_what_it_would_be_alone():
    whole = sample(Toy(), SHAPE, **RUN)
    for i in range(3):
        alone = sample(Toy(), (1, 2, 4, 4), samples=[i], **{**RUN, "cond": COND[i : i + 1]})
        torch.testing.assert_close(alone.x, whole.x[i : i + 1], atol=1e-5, rtol=1e-5)
    assert whole.nfe.tolist() == [12, 12, 12]


@dataclass(frozen=True)
class Away(Guidance):
    """Adds the difference of two branches that CFG inside of it asks for, too."""

    def __call__(self, predict, x, t, cond, at):
        pc, pu = predict.plain.many([("cond", x, t, cond), ("null", x, t, cond.branch("null"))])
        return predict(x, t, cond).add(0.5 * (pc.value - pu.value), of=pc)


def test_a_row_that_a_chain_asks_for_twice_is_evaluated_once():
    both = sample(Toy(), SHAPE, **{**RUN, "guidance": Away() | CFG(3.0)})
    torch.testing.assert_close(both.x, sample(Toy(), SHAPE, **{**RUN, "guidance": CFG(3.5)}).x, atol=1e-5, rtol=1e-5)
    assert both.nfe.tolist() == [12, 12, 12]
    assert sample(Toy(), SHAPE, **{**RUN, "guidance": Away()}).nfe.tolist() == [18, 18, 18]


def test_states_resume_split_and_join():
    whole = sample(Toy(), SHAPE, **RUN).x
    states = [run.state for run in trace(Toy(), SHAPE, **RUN)]
    assert torch.equal(sample(Toy(), states[2], **RUN).x, whole)
    left, right = states[3][torch.tensor([0])], states[3][torch.tensor([1, 2])]
    joined = State.cat([right, left])
    order = Cond.cat([COND[1:], COND[:1]])
    torch.testing.assert_close(sample(Toy(), joined, **{**RUN, "cond": order}).x, whole[[1, 2, 0]])
    with pytest.raises(BadInput, match="steps"):
        State.cat([states[1], states[2]])


def test_windows_compose_to_the_whole_run():
    kw = {**RUN, "sampler": DDIM()}
    whole = sample(Toy(), SHAPE, **kw).x
    half = sample(Toy(), SHAPE, stop=0.4, **kw).x
    # the cut adds a node, so compare with the run that has it too
    nodes = torch.tensor(sorted({*torch.linspace(1, 0, 7).tolist(), 0.4}, reverse=True))
    same = sample(Toy(), SHAPE, grid=Grid(nodes), **kw).x
    torch.testing.assert_close(sample(Toy(), half, start=0.4, **kw).x, same, atol=1e-5, rtol=1e-5)
    assert not torch.equal(same, whole)


@dataclass(frozen=True)
class Look(Hook):
    """Asserts that the step is pure and that asking it changes nothing."""

    def __call__(self, step, x, at):
        first, second = step(x, at), step(x, at)
        assert torch.equal(first, second)
        assert not torch.equal(step(x, at.fold(1)), first) or at.last
        return first


@dataclass(frozen=True)
class Ask(Guidance):
    """Encodes the noise of the step and checks that it moves the state where the sampler does."""

    def __call__(self, predict, x, t, cond, at):
        p = predict(x, t, cond)
        mean, one, own = at.move(p, z=0.0), at.move(p, z=1.0), at.move(p)
        z = (own - mean) / (one - mean)
        if not at.last:
            torch.testing.assert_close(z, at.noise(x), atol=1e-3, rtol=1e-3)
        rows = torch.tensor([2, 0])
        torch.testing.assert_close(at[rows].move(p[rows]), own[rows])
        return p


def test_steps_can_be_repeated_and_asked():
    kw = {**RUN, "guidance": Ask() | CFG(3.0)}
    plain = sample(Toy(), SHAPE, **RUN).x
    assert torch.equal(sample(Toy(), SHAPE, hooks=[Look()], **kw).x, plain)


class Even(Spacing):
    """n equal steps."""

    def grid(self, process, n, shape=()):
        return Grid(torch.linspace(1, 0, n + 1))


@dataclass(frozen=True)
class Reflect(Hook):
    """Forth with guidance, back without."""

    def __call__(self, step, x, at):
        return step(step.using(guidance=None)(step(x, at), at.back()), at)


def test_hooks_use_other_settings_and_go_back():
    x = sample(Toy(), SHAPE, hooks=[Reflect().during(0.0, 0.5)], **{**RUN, "sampler": DDIM()})
    assert x.nfe.tolist() == [3 * 2 + 3 * (2 + 1 + 2)] * 3
    assert torch.equal(sample(Toy(), SHAPE, hooks=[Reflect().during(2, 3)], **RUN).x, sample(Toy(), SHAPE, **RUN).x)


def test_inversion_runs_on_the_reversed_grid():
    kw = dict(sampler=DDIM(), cond=COND)
    grid = Grid(torch.linspace(0.9, 0.05, 400))
    x0 = 0.3 * torch.randn(*SHAPE, generator=torch.Generator().manual_seed(0))
    code = sample(Toy(), x0, grid=grid.reversed(), **kw).x
    torch.testing.assert_close(sample(Toy(), code, grid=grid, **kw).x, x0, atol=0.02, rtol=0.02)


def test_offsets_never_reach_the_sampler():
    y = torch.randn(2, 3, 4, 4)

    class Perfect(Toy):
        def forward(self, x, t, cond=None):
            return self.process.given(cond).predict(x, Coef(t), torch.full_like(x, 0.25), X0)

    cond = Cond({"source": y})
    for sampler in (DDPM(), DDIM()):
        out = sample(Perfect(ResShift()), tuple(y.shape), sampler=sampler, cond=cond, save=lambda run: run.state.x)
        torch.testing.assert_close(out.x, torch.full_like(y, 0.25))
        assert len(out.saved) == 5 and (out.saved[0] - y).std() > 1.5  # the start is y + kappa noise


def test_mixed_kinds_run_as_a_tree():
    class Both(Denoiser):
        def __init__(self):
            super().__init__()
            self.process = Parts(Tree(a=VP(), b=Absorbing(K=4)))

        def forward(self, x, t, cond=None):
            logits = torch.tensor([0.0, 1.0, 0.0, 0.0]).expand(*x["b"].shape, 4)
            return self.process.predict(
                x, Coef(t), Tree(a=torch.full_like(x["a"], 0.5), b=logits), {"a": X0, "b": None}
            )

    start = Tree(a=torch.randn(5, 3), b=torch.full((5, 7), 3))
    out = sample(Both(), start, sampler=Ancestral(), steps=8).x
    torch.testing.assert_close(out["a"], torch.full((5, 3), 0.5))
    assert out["b"].max() < 3 and out["b"].shape == (5, 7)
    again = sample(Both(), start[torch.tensor([3])], sampler=Ancestral(), steps=8, samples=[3]).x
    assert torch.equal(again["b"], out["b"][3:4])


def test_starts():
    x0 = torch.zeros(*SHAPE)
    kw = dict(sampler=DDIM(), steps=10, cond=COND)
    runs = list(trace(Toy(), Start.noised(x0, 0.5), **kw))
    assert runs[0].at.t.item() == 0.5 and runs[0].at.i == 5 and len(runs) == 6
    assert abs(runs[0].state.x.std() - VP().sigma(Coef(0.5)).item()) < 0.15
    assert torch.equal(next(iter(trace(Toy(), Start.exactly(x0, 0.3), **kw))).state.x, x0)


def test_without_a_spacing_a_table_runs_at_its_timesteps():
    for n in (1, 7, 30, 48):
        times = grid_of(Table(), DDIM(), None, n).times
        assert torch.equal(times, Trailing().grid(Table(), n).times) and len(times) == n + 1
        k = [Table().timestep(Coef(t)).item() for t in times[:-1]]
        assert k == [round(v) for v in k] and times[-1] == 0.0
        torch.testing.assert_close(grid_of(Flow(), DDIM(), None, n).times, torch.linspace(1, 0, n + 1).double())
    with pytest.raises(BadInput, match="steps=1001: Table has 1000 timesteps"):
        sample(Toy(Table()), SHAPE, **{**RUN, "steps": 1001})


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"steps": 0}, BadInput, "steps=0"),
        ({"start": 0.2, "stop": 0.5}, BadInput, "grid falls"),
        ({"cond": COND[:2]}, BadInput, "2 rows"),
        ({"samples": [1]}, BadInput, "1 identities for 3"),
    ],
)
def test_bad_input_is_named(change, error, words):
    with pytest.raises(error, match=words):
        sample(Toy(), SHAPE, **{**RUN, **change})


def test_refusals_and_nan():
    with pytest.raises(Refused, match="own 4 times"):
        sample(Toy(ResShift()), SHAPE, sampler=DDPM(), spacing=Even(), cond=Cond({"source": torch.zeros(*SHAPE)}))
    with pytest.raises(Refused, match="categorical"):
        sample(Toy(Absorbing(K=3)), (2, 4), sampler=DDIM(), steps=2)

    class Broken(Toy):
        def forward(self, x, t, cond=None):
            return self.process.predict(x, Coef(t), x * torch.nan, EPS)

    with pytest.raises(Diverged, match="step 6 of 6"):
        sample(Broken(), SHAPE, **RUN)


@dataclass(frozen=True)
class Needing(Hook, Guidance):
    """Does nothing, and needs what it is told to."""

    needs: Needs

    def __call__(self, step, x, at, *_):
        return step(x, at)


@pytest.mark.parametrize(
    ("needs", "change", "words"),
    [
        (Needs.CATEGORICAL, {}, "VP is Gaussian; leave it out"),
        (Needs.ONE_EVALUATION, {"sampler": Heun()}, r"Heun\(.*\) asks for several; use one such as DDIM"),
        (Needs.UNCONDITIONAL, {"cond": COND.alt["null"]}, "no alternative 'null'"),
    ],
)
def test_what_a_hook_or_guidance_needs_is_there_or_it_is_refused_before_the_run(needs, change, words):
    part = Needing(needs)
    for plug in ({"hooks": [part]}, {"hooks": [Hook.during(part, 0.9, 1.0)]}, {"guidance": CFG(1.0) | part}):
        with pytest.raises(Refused, match=f"Needing.*{words}"):
            next(trace(Toy(), SHAPE, **{**RUN, "guidance": None, **change, **plug}))
    with pytest.raises(Refused, match="Needing.*Absorbing is categorical"):
        next(trace(Toy(Absorbing(K=3)), (2, 4), sampler=Ancestral(), hooks=[Needing(Needs.GAUSSIAN)]))


def test_the_outermost_guidance_stands_outside():
    part = Needing(Needs.OUTERMOST)
    next(trace(Toy(), SHAPE, **{**RUN, "guidance": part | CFG(3.0)}))
    with pytest.raises(Refused, match="Needing.*outermost"):
        next(trace(Toy(), SHAPE, **{**RUN, "guidance": CFG(3.0) | part}))


def test_cfg_needs_an_unconditional_prediction_unless_it_is_neutral():
    alone = COND.alt["null"]
    assert sample(Toy(), SHAPE, **{**RUN, "cond": alone, "guidance": CFG(1.0)}).nfe.tolist() == [6, 6, 6]
    with pytest.raises(Refused, match="CFG.*no alternative 'null'"):
        sample(Toy(), SHAPE, **{**RUN, "cond": alone})
    with pytest.raises(BadInput, match=r"cond.alt\['null'\] is missing, it has none"):
        Toy().guided(CFG(3.0))(torch.zeros(SHAPE), 0.5, alone)


def test_views_share_weights_and_processes_exchange():
    base = Toy(VP())
    flow = base.under(Flow())
    cond = COND
    t = Coef(0.6)
    there = VP().time(Flow().rho(t))
    x = torch.randn(*SHAPE)
    p, q = flow(x, t, cond), base(VP().alpha(there) / Flow().alpha(t) * x, there, cond)
    torch.testing.assert_close(p.eps, q.eps)
    torch.testing.assert_close(p.x0, q.x0, atol=1e-4, rtol=1e-4)
    teacher = base.guided(CFG(3.0))
    direct, guided = sample(base, SHAPE, **RUN), sample(teacher, SHAPE, **{**RUN, "guidance": None})
    torch.testing.assert_close(guided.x, direct.x)
    assert guided.nfe.tolist() == direct.nfe.tolist()


def test_time_per_sample_and_per_pixel():
    t = torch.tensor([0.2, 0.5, 0.9])
    whole = Toy()(torch.ones(*SHAPE), t, COND)
    for i in range(3):
        torch.testing.assert_close(whole.x0[i], Toy()(torch.ones(1, 2, 4, 4), t[i].item(), COND[i : i + 1]).x0[0])
    clock = torch.linspace(1, 0, 5)[:, None, None, None] * torch.linspace(0.5, 1, 4)[None, None, None, :]
    out = sample(Toy(), SHAPE, sampler=DDIM(), grid=Grid(clock), cond=COND).x
    column = sample(Toy(), SHAPE, sampler=DDIM(), grid=Grid(clock[:, 0, 0, 3]), cond=COND, noise=0).x
    assert torch.isfinite(out).all() and out.shape == column.shape


def test_what_is_no_denoiser_and_no_condition_is_named():
    with pytest.raises(BadInput, match="denoiser: a Linear is none"):
        sample(torch.nn.Linear(2, 2), (1, 2), sampler=DDIM(), steps=1)
    with pytest.raises(BadInput, match="cond: a dict is none"):
        sample(Toy(), (1, 2), sampler=DDIM(), steps=1, cond={"text": 1})
