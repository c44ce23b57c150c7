"""What a step does, and what it leaves alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from suffuse.core.cond import Cond
from suffuse.core.errors import BadInput, Diverged, Refused
from suffuse.core.noise import Keyed
from suffuse.training import EMA, AdamW, Batch, Copy, Loss, Objective, Phase, Trainer, WarmupDecay, checkpoint


@dataclass(frozen=True)
class Square(Objective):
    """|w|^2 / 2 of a role, whose gradient is w."""

    role: str = "model"
    noises: list = field(default_factory=list, compare=False)

    def __call__(self, roles, batch, noise, parts):
        self.noises.append(noise.normal(torch.zeros(len(batch), 1), batch.ids.tolist(), "z"))
        return Loss(roles[self.role].weight.square().sum().div(2).expand(len(batch)), {"one": torch.ones(())})


def linear(seed: int = 0) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(3, 2, bias=False)


def batches(step: int) -> Batch:
    return Batch(torch.zeros(4, 1), Cond(), torch.arange(4))


def run(trainer: Trainer, steps: int, **how) -> list:
    return list(trainer.fit(batches, steps, **how))


def test_a_step_is_adamw_on_the_clipped_gradient():
    model, reference = linear(), linear()
    optim = AdamW(1e-2, (0.8, 0.9), 0.1, schedule=WarmupDecay(2, 0.5))
    logs = run(Trainer({"model": model}, Phase(Square(), optim=optim, clip=0.1)), 6)
    theirs = torch.optim.AdamW(reference.parameters(), betas=(0.8, 0.9), weight_decay=0.1)
    for step in range(6):
        reference.weight.grad = reference.weight.detach().clone()
        nn.utils.clip_grad_norm_(reference.parameters(), 0.1)
        theirs.param_groups[0]["lr"] = optim.rate(step, 6)
        theirs.step()
    torch.testing.assert_close(model.weight, reference.weight, rtol=1e-6, atol=1e-7)
    assert [log.step for log in logs] == [1, 2, 3, 4, 5, 6]
    assert [log.lr["model"] for log in logs] == [optim.rate(step, 6) for step in range(6)]
    assert logs[0].losses["model.one"] == 1 and logs[0].images_per_second > 0
    assert logs[0].losses["model"] == pytest.approx(linear().weight.square().sum().item() / 2)
    assert logs[5].seconds > logs[4].seconds and "model" in str(logs[0])


def test_noise_is_a_function_of_seed_step_phase_repetition_and_sample():
    objective = Square()
    phases = {"a": Phase(objective, times=2), "b": Phase(objective, every=2)}
    run(Trainer({"model": linear()}, phases, seed=5), 2)
    assert len({tuple(z.flatten().tolist()) for z in objective.noises}) == len(objective.noises) == 5
    expected = Keyed(5).fold(1).fold("a").fold(0).normal(torch.zeros(4, 1), range(4), "z")
    assert torch.equal(objective.noises[3], expected)


def test_phases_train_only_their_own_roles():
    roles = {"model": linear(0), "critic": linear(1), "teacher": linear(2)}
    flags = []

    @dataclass(frozen=True)
    class Both(Objective):
        def __call__(self, roles, batch, noise, parts):
            flags.append([module.weight.requires_grad for module in roles.values()])
            return Loss((roles.model.weight * roles.critic.weight * roles.teacher.weight).sum().expand(len(batch)))

    before = {name: module.weight.detach().clone() for name, module in roles.items()}
    trainer = Trainer(roles, {"critic": Phase(Both(), "critic", every=2), "student": Phase(Both())})
    logs = trainer.fit(batches, 3)
    assert set(next(logs).losses) == {"critic", "student"} and set(next(logs).losses) == {"student"}
    logs.close()
    assert flags == [[False, True, False], [True, False, False], [True, False, False]]
    assert not torch.equal(before["model"], roles["model"].weight)
    assert torch.equal(before["teacher"], roles["teacher"].weight)
    assert all(module.weight.requires_grad and module.weight.grad is None for module in roles.values())


def test_modes_and_flags_are_restored():
    model, teacher = nn.Sequential(linear()), nn.Sequential(linear(1), nn.Dropout()).train()
    model.eval()
    teacher[0].weight.requires_grad_(False)
    modes = []

    @dataclass(frozen=True)
    class Watch(Objective):
        def __call__(self, roles, batch, noise, parts):
            modes.append((roles.model.training, roles.teacher[1].training, roles.ema.training))
            return Loss(roles.model[0].weight.sum().expand(len(batch)))

    run(Trainer({"model": model, "teacher": teacher}, Watch(), {"ema": EMA()}), 1)
    assert modes == [(True, False, False)]
    assert not model.training and teacher[1].training
    assert model[0].weight.requires_grad and not teacher[0].weight.requires_grad


def test_part_of_a_role_trains_and_followers_share_the_rest():
    model = nn.Sequential(linear(0), nn.Linear(2, 2))

    @dataclass(frozen=True)
    class Out(Objective):
        def __call__(self, roles, batch, noise, parts):
            return Loss(roles.model(torch.ones(len(batch), 3)).square().sum(1))

    trainer = Trainer({"model": model, "head": model[1]}, Phase(Out(), "head"), {"ema": EMA("model", 0.5)})
    frozen = model[0].weight.detach().clone()
    assert trainer.roles.ema[0].weight is model[0].weight
    assert trainer.roles.ema[1].weight is not model[1].weight and not trainer.roles.ema[1].weight.requires_grad
    run(trainer, 3)
    assert torch.equal(model[0].weight, frozen)
    assert not torch.equal(trainer.roles.ema[1].weight, model[1].weight)


def test_frozen_parameters_inside_a_trained_role_stay(tmp_path):
    model = nn.Sequential(linear(0), nn.Linear(2, 2))
    model[0].weight.requires_grad_(False)

    @dataclass(frozen=True)
    class Out(Objective):
        def __call__(self, roles, batch, noise, parts):
            return Loss(roles.model(torch.ones(len(batch), 3)).square().sum(1))

    frozen = model[0].weight.clone()
    run(Trainer({"model": model}, Out()), 2, folder=tmp_path)
    assert torch.equal(model[0].weight, frozen)
    assert set(checkpoint.read(tmp_path).tensors["role.model"]) == {"1.weight", "1.bias"}


def test_a_frozen_role_that_changes_is_named(tmp_path):
    @dataclass(frozen=True)
    class Meddle(Objective):
        def __call__(self, roles, batch, noise, parts):
            with torch.no_grad():
                roles.teacher.weight[0, 0] += 1e-6
            return Loss(roles.model.weight.sum().expand(len(batch)))

    trainer = Trainer({"model": linear(), "judge": linear(1), "teacher": linear(2)}, Meddle())
    with pytest.raises(Refused, match="role 'teacher' changed although no phase trains it"):
        run(trainer, 2, folder=tmp_path, save_every=1)
    assert checkpoint.read(tmp_path) is None


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_divergence_names_step_and_phase_and_keeps_the_checkpoint(tmp_path, what):
    model = linear()

    @dataclass(frozen=True)
    class Breaks(Objective):
        def __call__(self, roles, batch, noise, parts):
            loss = roles.model.weight.sum()
            if batch.ids[0] == 7:
                loss = loss * torch.nan if what == "loss" else torch.sqrt(loss * 0) + 1
            return Loss(loss.expand(len(batch)))

    def source(step):
        return Batch(torch.zeros(2, 1), Cond(), torch.tensor([step, step]))

    trainer = Trainer({"model": model}, {"student": Phase(Breaks())})
    with pytest.raises(Diverged, match="step 7, phase 'student': .*(nan|gradient)"):
        list(trainer.fit(source, 20, folder=tmp_path, save_every=5))
    assert trainer.step == 7 and checkpoint.read(tmp_path).step == 5
    assert model.weight.isfinite().all() and model.weight.grad is None


def test_parts_start_the_same_whatever_the_global_seed(toy):
    one = toy.full()
    torch.manual_seed(99)
    two = toy.full()
    for a, b in zip(one._phases, two._phases, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a.parts.parameters(), b.parts.parameters(), strict=True))


def test_parts_of_objective_and_reducer_train(toy):
    trainer = toy.full()
    before = [p.detach().clone() for p in trainer._phases[1].parts.parameters()]
    run_ = list(trainer.fit(toy.source(), 3))
    after = list(trainer._phases[1].parts.parameters())
    assert len(before) == 3 and not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert {"student", "student.fit", "student.gap"} <= set(run_[0].losses)


def test_bf16_keeps_weights_in_float32():
    seen = []

    @dataclass(frozen=True)
    class Out(Objective):
        def __call__(self, roles, batch, noise, parts):
            out = roles.model(torch.ones(len(batch), 3))
            seen.append(out.dtype)
            return Loss(out.float().square().sum(1))

    model = linear()
    run(Trainer({"model": model}, Out(), precision="bf16"), 1)
    assert seen == [torch.bfloat16] and model.weight.dtype == torch.float32
    run(Trainer({"model": model}, Out()), 1)
    assert seen[1] == torch.float32


def test_a_source_may_see_the_roles_and_the_noise():
    drawn = []

    def rollouts(roles, noise, step):
        drawn.append(noise.normal(torch.zeros(2, 1), [0, 1], "x"))
        return Batch(roles.model(torch.ones(2, 3)).detach(), Cond(), torch.arange(2))

    trainer = Trainer({"model": linear()}, Square())
    list(trainer.fit(rollouts, 2))
    again = Trainer({"model": linear()}, Square())
    list(again.fit(rollouts, 2))
    assert not torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Trainer({"model": linear()}, Phase(Square(), "modle")),
            "trains='modle' is no role; did you mean model",
        ),
        (lambda: Trainer({"model": nn.Identity()}, Square()), "none of its parameters requires a gradient"),
        (lambda: Trainer({"model": linear()}, Square(), {"model": EMA()}), "'model' is a role already"),
        (lambda: Trainer({"model": linear()}, Square(), {"ema": EMA("modell")}), "of='modell' is no role"),
        (lambda: Trainer({"model": linear()}, Square(), precision="fp16"), "precision='fp16'"),
        (lambda: Trainer({"model": linear()}, Phase(Square(), every=0)), "every=0"),
        (lambda: Trainer({"model": linear()}, Square()).fit(batches, 0), "steps=0"),
        (lambda: Trainer({"model": linear()}, Square()).fit(batches, 1, save_every=0), "save_every=0"),
        (lambda: Trainer({"model": linear()}, Square()).fit(batches, 1, shard=(2, 2)), r"shard=\(2, 2\)"),
        (lambda: run(Trainer({"model": linear()}, Square()), 1, shard=(0, 3)), "a batch of 4; use a multiple of 3"),
        (lambda: Trainer({"model": linear()}, Square()).fit(lambda a, b: a, 1), "takes 2 arguments"),
        (lambda: Trainer({"model": linear()}, Square()).fit(iter([batches(0)]), 1), "cannot start again"),
    ],
)
def test_bad_input_is_one_clear_line(make, message):
    with pytest.raises(BadInput, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_a_loss_of_the_wrong_kind_is_named():
    @dataclass(frozen=True)
    class Averaged(Objective):
        def __call__(self, roles, batch, noise, parts):
            return Loss(roles.model.weight.sum())

    @dataclass(frozen=True)
    class Unrelated(Objective):
        def __call__(self, roles, batch, noise, parts):
            return Loss(torch.zeros(4))

    with pytest.raises(BadInput, match=r"per_sample has shape \(\)"):
        run(Trainer({"model": linear()}, Averaged()), 1)
    with pytest.raises(BadInput, match="does not depend on 'model'"):
        run(Trainer({"model": linear()}, Unrelated()), 1)


def test_copies_follow_a_follower():
    trainer = Trainer({"model": linear()}, Square(), {"ema": EMA("model", 0.5), "late": Copy("ema", 2)})
    logs = trainer.fit(batches, 4)
    next(logs)
    start = linear().weight
    assert torch.equal(trainer.roles.late.weight, start) and not torch.equal(trainer.roles.ema.weight, start)
    next(logs)
    assert torch.equal(trainer.roles.late.weight, trainer.roles.ema.weight)
