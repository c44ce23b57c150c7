"""The training loop: roles, phases, followers, and nothing that a stopped run would lose."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..core.errors import BadInput, Diverged, Refused, nearest
from ..core.noise import Keyed, Noise
from ..core.training import Batch, Follower, Objective, Phase, Roles, Source
from . import checkpoint
from .checkpoint import Checkpoint
from .interrupt import Interrupt
from .optimisers import AdamW
from .ranks import Ranks
from .seeding import seeded
from .sources import seekable
from .state import copy_sharing, fingerprint, load_into, load_moments, matched, moments, tensors_of


@dataclass(frozen=True)
class Log:
    """What a step did.

    Args:
        step: steps done, this one included.
        losses: mean loss of each phase that ran, and its terms as "phase.term".
        seconds: training time so far, over all resumptions.
        images_per_second: of this step, over all processes.
        lr: learning rate of each phase that ran.
    """

    step: int
    losses: Mapping[str, float]
    seconds: float
    images_per_second: float
    lr: Mapping[str, float]

    def __str__(self) -> str:
        losses = "  ".join(f"{name} {value:.4f}" for name, value in self.losses.items())
        return f"step {self.step}  {losses}  {self.images_per_second:.0f} images/s  {self.seconds:.0f} s"


class Running:
    """A phase with its modules, parameters and optimiser."""

    def __init__(
        self, name: str, phase: Phase, trained: Mapping[str, Tensor], objective: nn.ModuleDict, reduce: nn.ModuleDict
    ):
        self.name, self.phase, self.objective, self.reduce = name, phase, objective, reduce
        self.parts = nn.ModuleDict({"objective": objective, "reduce": reduce})
        self.params = {**trained, **{f"parts.{n}": p for n, p in self.parts.named_parameters()}}
        self.tensors = list(self.params.values())
        self.recipe = phase.optim or AdamW()
        self.optimiser = self.recipe.build(self.tensors)


class Trainer:
    """Trains some roles, keeps the others as they are, and can be stopped at any moment.

    Every random number is a function of (seed, step, sample id), torch's global generator included; so a run that was
    killed and resumed ends with the same bits as one that was not.

    Args:
        roles: the networks by name; an objective sees all of them.
        phases: objectives by name, run in this order in every step; one alone trains the role "model".
        followers: copies by name, which become roles too.
        seed: of all randomness but the data order, which belongs to the source.
        precision: "bf16" runs the objectives under autocast; weights and moments stay as they are.
    """

    def __init__(
        self,
        roles: Mapping[str, nn.Module],
        phases: Mapping[str, Phase] | Phase | Objective,
        followers: Mapping[str, Follower] | None = None,
        seed: int = 0,
        precision: Literal["fp32", "bf16"] = "fp32",
    ):
        if precision not in ("fp32", "bf16"):
            raise BadInput(f"precision={precision!r} is unknown; use 'fp32' or 'bf16'")
        if isinstance(phases, Objective):
            phases = Phase(phases)
        if isinstance(phases, Phase):
            phases = {"+".join(phases.names): phases}
        self.seed, self.precision = seed, precision
        self.step, self.seconds = 0, 0.0
        self._active: Running | None = None
        self._given = dict(roles)
        self._trained = {name: _trainable(name, roles) for phase in phases.values() for name in phase.names}
        moving = {id(p) for params in self._trained.values() for p in params.values()}
        self._resting = {id(p): p for m in roles.values() for p in m.parameters() if id(p) not in moving}
        self.device = next(p.device for params in self._trained.values() for p in params.values())

        modules = dict(roles)
        self._followers: list[tuple[str, Follower, tuple[Any, Any]]] = []
        for name, follower in (followers or {}).items():
            if name in modules or follower.of not in modules:
                fault = f"of={follower.of!r} is no role; {nearest(follower.of, modules)}"
                raise BadInput(f"followers: {name!r} is a role already" if name in modules else f"followers: {fault}")
            modules[name] = copy_sharing(modules[follower.of], self._resting)
            self._followers.append((name, follower, matched(modules[name], modules[follower.of])))
        self.roles = Roles(modules)
        self._phases = [self._start(name, phase) for name, phase in phases.items()]

    def _start(self, name: str, phase: Phase) -> Running:
        if phase.every < 1 or phase.times < 1:
            raise BadInput(f"phase {name!r}: every={phase.every}, times={phase.times}; both must be at least 1")
        with seeded(self.device, self.seed, "parts", name):
            objective, reduce = phase.objective.parts(self.roles), phase.reduce.parts()
        trained: dict[int, tuple[str, Tensor]] = {}
        for role in phase.names:
            for n, p in self._trained[role].items():
                trained.setdefault(id(p), (f"{role}.{n}", p))
        return Running(name, phase, dict(trained.values()), objective.to(self.device), reduce.to(self.device))

    # running ----------------------------------------------------------------------------------------------------------

    def fit(
        self,
        source: Source | Iterable[Batch],
        steps: int,
        *,
        shard: tuple[int, int] = (0, 1),
        folder: str | Path | None = None,
        save_every: int = 1000,
    ) -> Iterator[Log]:
        """Train until `steps` steps are done, counting those of earlier calls and of the checkpoint in `folder`.

        Args:
            source: (step) -> Batch or (roles, noise, step) -> Batch, of the global batch; or an iterable of batches.
            steps: length of the run; schedules refer to it.
            shard: (k, n), this is process k of n; it takes its slice of each batch.
            folder: where checkpoints are; an existing one is resumed.
            save_every: steps between two checkpoints; the end and Ctrl-C write one too.

        Raises:
            Damaged: the newest checkpoint is incomplete or altered.
            Diverged: a loss or gradient is not finite; the last checkpoint stays.
            Refused: a role that no phase trains has changed.
            KeyboardInterrupt: after Ctrl-C, once the step is finished and saved.
        """
        if steps < 1 or save_every < 1:
            raise BadInput(f"steps={steps}, save_every={save_every}; both must be at least 1")
        path = None if folder is None else Path(folder)
        if path and path.exists() and not path.is_dir():
            raise BadInput(f"folder={str(path)!r} is a file; name a folder for the checkpoints")
        return self._run(seekable(source), steps, Ranks(shard), path, save_every)

    def _run(
        self, source: Callable[..., Batch], steps: int, ranks: Ranks, folder: Path | None, save_every: int
    ) -> Iterator[Log]:
        interrupt = Interrupt()
        if folder:
            ranks.wait()
            self.restore(folder)
            if ranks.writes:
                checkpoint.sweep(folder)
        ranks.agree(self.step, [tensor for group in self._groups().values() for tensor in group.values()])
        with self._training():
            frozen = self._frozen()
            unsaved = torn = False
            try:
                while self.step < steps:
                    with interrupt:
                        unsaved = torn = True
                        log = self._advance(source, steps, ranks)
                        torn = False
                        stop = ranks.any(interrupt.pending)
                        if folder and (stop or self.step % save_every == 0 or self.step == steps):
                            self._save(folder, ranks, frozen)
                            unsaved = False
                    yield log
                    if stop:
                        raise KeyboardInterrupt
            except (GeneratorExit, KeyboardInterrupt):  # the caller left the loop, perhaps by Ctrl-C in its body
                if folder and unsaved and not torn and not sys.is_finalizing():
                    self._save(folder, ranks, frozen)
                raise

    def _advance(self, source: Callable[..., Batch], steps: int, ranks: Ranks) -> Log:
        start = time.perf_counter()
        noise = Keyed(self.seed).fold(self.step)
        whole = source(self.roles, noise.fold("source"), self.step)
        batch = ranks.own(whole)
        if self.device.type != "cpu":
            batch = batch.to(self.device)
        losses: dict[str, float] = {}
        rates: dict[str, float] = {}
        for running in self._phases:
            if self.step % running.phase.every == 0:
                rates[running.name] = running.recipe.rate(self.step, steps)
                for k in range(running.phase.times):
                    own = noise.fold(running.name).fold(k)
                    with seeded(self.device, self.seed, self.step, running.name, k, ranks.k):
                        losses |= self._descend(running, batch, own, rates[running.name], ranks)
        for _, follower, (copied, of) in self._followers:
            follower.update(copied, of, self.step)
        self.step += 1
        duration = time.perf_counter() - start
        self.seconds += duration
        return Log(self.step, losses, self.seconds, len(whole) / duration, rates)

    def _descend(self, running: Running, batch: Batch, noise: Noise, rate: float, ranks: Ranks) -> dict[str, float]:
        """One gradient step of one phase."""
        name, phase = running.name, running.phase
        self._unfreeze(running)
        with torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext():
            loss = phase.objective(self.roles, batch, noise, running.objective)
        if loss.per_sample.ndim != 1:
            shape = tuple(loss.per_sample.shape)
            raise BadInput(f"phase {name!r}: Loss.per_sample has shape {shape}; it must be (B,), one loss a sample")
        if not loss.per_sample.requires_grad:
            raise BadInput(
                f"phase {name!r}: its loss does not depend on {phase.trains!r}, which it trains; see `trains`"
            )
        phase.reduce.backward(loss, running.tensors, running.reduce)
        means = {name: loss.total, **{f"{name}.{term}": value.mean() for term, value in loss.terms.items()}}
        values = ranks.average(running.tensors, torch.stack([v.detach().float() for v in means.values()]))
        losses = dict(zip(means, values.tolist(), strict=True))
        finite = math.isfinite(losses[name])
        if finite and phase.clip is not None:
            finite = math.isfinite(nn.utils.clip_grad_norm_(running.tensors, phase.clip).item())
        if not finite:
            what = f"loss {losses[name]}" if not math.isfinite(losses[name]) else "a gradient that is not finite"
            raise Diverged(f"step {self.step}, phase {name!r}: {what}; lower the learning rate or look at this batch")
        for group in running.optimiser.param_groups:
            group["lr"] = rate
        running.optimiser.step()
        running.optimiser.zero_grad(set_to_none=True)
        return losses

    def _unfreeze(self, running: Running) -> None:
        """Only what this phase trains takes gradients."""
        if self._active is not running:
            for params in self._trained.values():
                for param in params.values():
                    param.requires_grad_(False)
            for param in running.tensors:
                param.requires_grad_(True)
            self._active = running

    @contextmanager
    def _training(self) -> Iterator[None]:
        """Trained roles in training mode, all others frozen in evaluation mode; as they were afterwards."""
        modules = [m for role in self.roles.values() for m in role.modules()]
        modes = [(m, m.training) for m in modules]
        flags = [(p, p.requires_grad) for role in self.roles.values() for p in role.parameters()]
        try:
            for param in self._resting.values():
                param.requires_grad_(False)
            for name, role in self.roles.items():
                if name not in self._trained:
                    role.eval()
            for name in self._trained:
                self.roles[name].train()
            yield
        finally:
            self._active = None
            for tensor in (tensor for running in self._phases for tensor in running.tensors):
                tensor.grad = None
            for param, flag in flags:
                param.requires_grad_(flag)
            for module, mode in modes:
                module.training = mode

    # state ------------------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Write a checkpoint of the present step; the newest two of the folder are kept."""
        tensors, numbers = self._groups(), {}
        for running in self._phases:
            tensors[f"optimiser.{running.name}"], numbers[running.name] = moments(running.optimiser, running.params)
        state = {"seed": self.seed, "seconds": self.seconds, "frozen": self._frozen(), "optimisers": numbers}
        return checkpoint.write(Path(folder), Checkpoint(self.step, tensors, state))

    def restore(self, folder: str | Path) -> bool:
        """Take the newest checkpoint of a folder; False where it has none."""
        stored = checkpoint.read(Path(folder))
        if stored is None:
            return False
        if stored.numbers["seed"] != self.seed:
            raise BadInput(f"seed={self.seed}, but {folder} was begun with seed={stored.numbers['seed']}; use that")
        self._compare(stored.numbers["frozen"], f"is not the one of the run in {folder}; load the weights it had then")
        tensors, numbers = dict(stored.tensors), stored.numbers["optimisers"]
        found = [(running, tensors.pop(f"optimiser.{running.name}", {})) for running in self._phases]
        live = self._groups()
        for group in [*live, *(tensors.keys() - live.keys())]:
            load_into(live.get(group, {}), tensors.get(group, {}), group)
        for running, state in found:
            load_moments(running.optimiser, running.params, state, numbers.get(running.name, {}))
        self.step, self.seconds = stored.step, stored.numbers["seconds"]
        return True

    def _save(self, folder: Path, ranks: Ranks, frozen: Mapping[str, int]) -> None:
        self._compare(
            frozen, "changed although no phase trains it; train it in a phase, or keep its weights as they are"
        )
        if ranks.writes:
            self.save(folder)

    def _groups(self) -> dict[str, dict[str, Tensor]]:
        """Every tensor that training moves, by the file that it is stored in."""
        groups: dict[str, dict[str, Tensor]] = {}
        seen = set(self._resting)
        of_roles = {f"role.{name}": self.roles[name] for name in self._trained}
        of_followers = {f"follower.{name}": self.roles[name] for name, _, _ in self._followers}
        of_parts = {f"parts.{running.name}": running.parts for running in self._phases}
        for group, module in {**of_roles, **of_followers, **of_parts}.items():
            groups[group] = {n: t for n, t in tensors_of(module).items() if id(t) not in seen}
            seen |= {id(t) for t in groups[group].values()}
        return groups

    def _frozen(self) -> dict[str, int]:
        """A hash of what no phase trains, for each role that was given."""
        moving = {id(t) for group in self._groups().values() for t in group.values()}
        still = {
            name: {n: t for n, t in tensors_of(module).items() if id(t) not in moving}
            for name, module in self._given.items()
        }
        return {name: fingerprint(tensors) for name, tensors in still.items() if tensors}

    def _compare(self, frozen: Mapping[str, int], fault: str) -> None:
        for name, value in self._frozen().items():
            if frozen.get(name) != value:
                raise Refused(f"role {name!r} {fault}")


def _trainable(name: str, roles: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    if name not in roles:
        raise BadInput(f"trains={name!r} is no role; {nearest(name, roles)}")
    found: dict[str, Tensor] = {n: p for n, p in roles[name].named_parameters() if p.requires_grad}
    if not found:
        raise BadInput(f"trains={name!r}: none of its parameters requires a gradient; unfreeze what shall be trained")
    return found
