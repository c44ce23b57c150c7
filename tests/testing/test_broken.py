"""The generated checks fail for methods that are broken on purpose, each in one way."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch

from suffuse.caching.policy import CachePolicy
from suffuse.core.errors import BadInput, Refused
from suffuse.core.grid import Grid, Spacing
from suffuse.core.guidance import Guidance
from suffuse.core.hook import Hook
from suffuse.core.metric import Estimate, Metric
from suffuse.core.patch import Patch
from suffuse.core.plugin import Needs
from suffuse.core.sampler import Sampler
from suffuse.core.training import Loss, Objective
from suffuse.core.value import Coef
from suffuse.guidance import CFG
from suffuse.processes.continuous import Flow
from suffuse.samplers import DDIM
from suffuse.testing import all_checks, check_method
from suffuse.testing.checks import Failed, Subject, checks_of

CALLS = []


def fails(method, name):
    """The message with which one check of a method fails."""
    (check,) = [c for c in checks_of(method) if c.name == name]
    with pytest.raises(Failed) as failed:
        check(Subject(method))
    assert type(method).__name__ in str(failed.value)
    return str(failed.value)


# values
@dataclass(frozen=True)
class Converting(DDIM):
    def __post_init__(self):
        object.__setattr__(self, "eta", [self.eta])


@dataclass
class Mutable(Sampler):
    eta: float = 0.0

    def step(self, predict, x, at, memory):
        return DDIM(self.eta).step(predict, x, at, memory)


@dataclass(frozen=True)
class Unpicklable(DDIM):
    function: object = field(default_factory=lambda: lambda: 0)


@dataclass(frozen=True)
class Addressed(DDIM):
    thing: object = field(default_factory=object)

    def __repr__(self):
        return f"Addressed({id(self)})"


@pytest.mark.parametrize(
    ("method", "name", "said"),
    [
        (Converting(0.5), "arguments_are_stored", "eta=[0.5] became [[0.5]]"),
        (Mutable(), "it_is_frozen", "eta can be set"),
        (Unpicklable(), "it_pickles", "pickle"),
        (Addressed(), "it_prints_the_same", "Addressed("),
    ],
)
def test_values(method, name, said):
    assert said in fails(method, name)


# samplers
@dataclass(frozen=True)
class Toy(Sampler):
    needs = Needs.GAUSSIAN | Needs.ONE_EVALUATION

    def step(self, predict, x, at, memory):
        return self.moved(predict(x, at.t), x, at), memory

    def moved(self, p, x, at):
        return at.process.alpha(at.s) * p.x0 + at.process.sigma(at.s) * p.eps


class Drifting(Toy):
    def moved(self, p, x, at):
        return super().moved(p, x, at) * 1.01


class GlobalNoise(Toy):
    def moved(self, p, x, at):
        return super().moved(p, x, at) + 0.01 * torch.randn_like(x)


class Mixing(Toy):
    def moved(self, p, x, at):
        return super().moved(p, x, at) + 0.01 * x.mean(0)


class OneTime(Toy):
    def moved(self, p, x, at):
        t, s = (Coef(float(Coef(c).tensor(len(x)).flatten()[0])) for c in (at.t, at.s))
        return at.process.alpha(s) * p.x0 + at.process.sigma(s) * p.with_(x0=p.x0).eps + 0.0 * t.item()


class Overclaiming(Toy):
    convergence = 2


class TooQuiet(Toy):
    def moved(self, p, x, at):
        return at.process.alpha(at.s) * p.x0 + 0.9 * at.process.sigma(at.s) * p.eps


class AskingTwice(Toy):
    def step(self, predict, x, at, memory):
        predict(x, at.t)
        return super().step(predict, x, at, memory)


class AskingInSilence(Toy):
    needs = Needs.GAUSSIAN


class RawValue(Toy):
    def moved(self, p, x, at):
        return x + 0.1 * p.value


class Counting(Toy):
    """Remembers in the module how often it was asked, as a sampler with run state would."""

    def moved(self, p, x, at):
        CALLS.append(1)
        return super().moved(p, x, at) * (1 + 1e-3 * len(CALLS))


class UpIsWrong(Toy):
    def moved(self, p, x, at):
        up = at.s > at.t
        return super().moved(p, x, at) * (1.05 if bool(up) else 1.0)


class Boring(Sampler):
    """Draws every category with equal chance."""

    needs = Needs.CATEGORICAL | Needs.ONE_EVALUATION

    def step(self, predict, x, at, memory):
        p = predict(x, at.t)
        return at.process.posterior(x, replace(p, logits=torch.zeros_like(p.logits)), at.t, at.s), memory


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (Drifting(), "no_move_is_the_identity"),
        (GlobalNoise(), "only_given_noise"),
        (GlobalNoise(), "same_seed_same_result"),
        (Mixing(), "batch_equals_singles"),
        (Mixing(), "rows_go_on_alone"),
        (OneTime(), "times_differ_between_rows"),
        (Overclaiming(), "it_converges_as_declared"),
        (TooQuiet(), "the_law_is_drawn"),
        (AskingTwice(), "evaluations_are_as_said"),
        (AskingInSilence(), "evaluations_are_as_said"),
        (RawValue(), "kinds_agree"),
        (Counting(), "same_seed_same_result"),
        (UpIsWrong(), "inversion_leads_back"),
        (Boring(), "categories_are_drawn"),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_samplers(method, name):
    fails(method, name)


def test_a_consistency_sampler_that_does_not_jump():
    @dataclass(frozen=True)
    class Slow(Toy):
        needs = Toy.needs | Needs.CONSISTENCY

        def moved(self, p, x, at):
            return 0.5 * super().moved(p, x, at)

    fails(Slow(), "consistency_draws_the_law")


# guidances and hooks
@dataclass(frozen=True)
class ToyGuidance(Guidance):
    w: float = 2.0

    needs = Needs.UNCONDITIONAL

    def __call__(self, predict, x, t, cond, at):
        return CFG(self.w)(predict, x, t, cond, at)


class Cheap(ToyGuidance):
    evaluations = 1


class Undeclared(ToyGuidance):
    needs = Needs.NOTHING


class NotNeutral(ToyGuidance):
    def neutral(self):
        return NotNeutral(1.0 + 1e-6)


class Averaging(ToyGuidance):
    def __call__(self, predict, x, t, cond, at):
        p = predict(x, t, cond)
        return p.shift(0.1 * x.mean(0, keepdim=True).expand_as(x))


@dataclass(frozen=True)
class Hoarding(ToyGuidance):
    seen: list = field(default_factory=list)

    def __call__(self, predict, x, t, cond, at):
        self.seen.append(at.i)
        return super().__call__(predict, x, t, cond, at)


class Global(ToyGuidance):
    """Remembers in the class instead of in the run."""

    last = None

    def __call__(self, predict, x, t, cond, at):
        p = predict(x, t, cond)
        out = p if Global.last is None or Global.last.shape != x.shape else p.shift(0.1 * Global.last)
        Global.last = p.eps.detach()
        return out


class NamedPath(ToyGuidance):
    """Behaves by the name of the path on which it is asked."""

    def __call__(self, predict, x, t, cond, at):
        p = predict(x, t, cond)
        return p.shift(x) if at.path else p


class Homeless(ToyGuidance):
    def __call__(self, predict, x, t, cond, at):
        raise Refused("Homeless: never here; go elsewhere")


class NoWindow(ToyGuidance):
    def during(self, start, stop):
        return self


class Lapsing(Hook):
    """Keeps the state of the first step of a run, and forgets it in one that goes on."""

    def __call__(self, step, x, at):
        if at.first:
            at.memory["start"] = x
        start = at.memory.get("start")
        return step(x, at) + (0.0 if start is None or at.i == 0 else 0.01 * start * at.i * (at.samples[0] + 1))


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (Cheap(), "evaluations_are_as_declared"),
        (Undeclared(), "null_is_declared"),
        (NotNeutral(), "neutral_is_the_identity"),
        (Averaging(), "batch_equals_singles"),
        (Averaging(), "it_composes"),
        (Hoarding(), "nothing_is_left_behind"),
        (Global(), "same_seed_same_result"),
        (NamedPath(), "paths_are_its_own"),
        (Homeless(), "same_seed_same_result"),
        (NoWindow(), "windows_hold"),
        (Lapsing(), "rows_go_on_alone"),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_guidances_and_hooks(method, name):
    fails(method, name)


# patches
@dataclass(frozen=True)
class ToyPatch(Patch):
    def sites(self, net):
        if not net.attention("cross"):
            raise Refused("ToyPatch: this network has no cross-attention; use a UNet")
        return [s for s in net.units if s.role == "transformer"][:1]

    def around(self, call):
        return self.changed(call, call())

    def changed(self, call, out):
        return _map(out, lambda v: 1.1 * v)


def _map(out, function):
    return torch.utils._pytree.tree_map(lambda v: function(v) if isinstance(v, torch.Tensor) else v, out)


class Idle(ToyPatch):
    def changed(self, call, out):
        return out


class Blurring(ToyPatch):
    def changed(self, call, out):
        return _map(out, lambda v: v + v.mean(0, keepdim=True))


class Shared(ToyPatch):
    """Remembers for the sample, not for the branch."""

    def changed(self, call, out):
        last = call.memory.shared.get("last") if call.at is not None and call.at.i else None
        call.memory.shared["last"] = out
        return out if last is None else last


class Writing(ToyPatch):
    """Changes the weights."""

    def around(self, call):
        with torch.no_grad():
            next(call.module.parameters()).mul_(1.01)
        return call()


class Curt(ToyPatch):
    def sites(self, net):
        if not net.attention("cross"):
            raise Refused("no")
        return super().sites(net)


@dataclass(frozen=True)
class Hollow(CachePolicy):
    """Keeps nothing of what it returns later."""

    def sites(self, net):
        return [s for s in net.units if s.stage == "mid"]

    def fresh(self, site, at):
        return at.i == 0

    def kept(self, site):
        return False


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (Idle(), "it_does_something"),
        (Blurring(), "batch_equals_singles"),
        (Blurring(), "branches_are_apart"),
        (Shared(), "branches_are_apart"),
        (Curt(), "networks_are_patched_or_refused"),
        (Hollow(), "reuse_is_exact_at_rest"),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_patches(method, name):
    fails(method, name)


def test_a_patch_that_writes_weights_is_caught():
    from suffuse.testing.checks import subject

    try:
        assert "a plain run on unet afterwards" in fails(Writing(), "nothing_is_left_behind")
    finally:
        subject.denoiser.cache_clear()


# the rest
class Exploding(Objective):
    def __call__(self, roles, batch, noise, parts):
        p = roles.model(batch.data, Coef(0.5), batch.cond)
        return Loss((p.value.flatten(1).mean(1) * 0.0).sqrt())


class Summed(Objective):
    def __call__(self, roles, batch, noise, parts):
        return Loss(roles.model(batch.data, Coef(0.5), batch.cond).value.square().mean()[None])


@dataclass(frozen=True)
class Forgetting(Metric):
    def init(self):
        return 0

    def measure(self, batch):
        return len(batch)

    def merge(self, first, second):
        return second

    def result(self, state):
        return {"count": Estimate(float(state), (0.0, 100.0), state, "pictures")}


@dataclass(frozen=True)
class Rising(Spacing):
    def grid(self, process, n, shape=()):
        return Grid(torch.linspace(0, 1, n + 1))


@dataclass(frozen=True)
class WrongInverse(Flow):
    def time(self, rho):
        return rho


@dataclass(frozen=True)
class LoudPosterior(Flow):
    def reverse_std(self, t, s):
        return self.sigma(s) + 0.1


@dataclass(frozen=True)
class NoData(Flow):
    def sigma(self, t):
        return t + 0.1


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (Exploding(), "the_gradient_is_finite"),
        (Summed(), "the_gradient_is_finite"),
        (Forgetting(), "parts_merge"),
        (Rising(), "times_fall"),
        (WrongInverse(), "time_and_ratio_are_inverse"),
        (LoudPosterior(), "no_move_leaves_alone"),
        (LoudPosterior(), "posteriors_join_marginals"),
        (NoData(), "time_zero_is_data"),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_the_rest(method, name):
    fails(method, name)


def test_a_sound_method_of_a_third_party_passes():
    found = check_method(Toy())
    assert found["the_law_is_drawn"] is None and found["batch_equals_singles"] is None
    assert found["neutral_is_the_identity"] == "it declares no neutral setting"
    assert check_method(ToyGuidance)["it_composes"] is None


def test_a_class_that_needs_arguments_is_refused():
    @dataclass(frozen=True)
    class Needy(DDIM):
        need: float = field(kw_only=True)

    with pytest.raises(BadInput, match="Needy needs arguments"):
        check_method(Needy)


def test_a_method_without_an_example_fails_by_name():
    cases = [case for case in all_checks() if case.method.name == "Reweight"]
    assert [str(case) for case in cases] == ["Reweight-has_an_example"]
    with pytest.raises(Failed, match="Reweight.*examples"):
        cases[0]()
