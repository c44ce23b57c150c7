"""A small training run that uses everything that has state, and a program that kills and resumes it.

`python toy.py kill FOLDER` and `python toy.py ranks FOLDER`; each run is a forked process, so torch is imported once.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from suffuse.core.cond import Cond
from suffuse.training import (
    EMA,
    AdamW,
    Copy,
    CosineDecay,
    Loss,
    Objective,
    Phase,
    Reducer,
    Shuffled,
    Trainer,
    WarmupDecay,
)

STEPS = 45


def network(seed: int, dropout: float = 0.2) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.SiLU(), nn.Dropout(dropout), nn.Linear(16, 3))


@dataclass(frozen=True)
class Flow(Objective):
    """Flow matching of three numbers, with a distance from a frozen teacher as a second term."""

    role: str = "model"
    seen: list[list[int]] = field(default_factory=list)

    def parts(self, roles):
        return nn.ModuleDict({"out": nn.Linear(3, 3)})

    def __call__(self, roles, batch, noise, parts):
        ids = batch.ids.tolist()
        self.seen.append(ids)
        x = batch.data
        t = noise.uniform(x[:, :1], ids, "t")
        eps = noise.normal(x, ids, "eps")
        z = torch.cat([torch.lerp(x, eps, t), t], 1)
        v = parts["out"](roles[self.role](z))
        loss = (v - (eps - x)).square().mean(1)
        terms = {"fit": loss.detach()}
        if "teacher" in roles:
            terms["gap"] = (v - roles.teacher(z)).square().mean(1)
            loss = loss + 0.1 * terms["gap"]
        return Loss(loss, terms, t[:, 0])


@dataclass(frozen=True)
class Uncertain(Reducer):
    """Weighs the loss by a learned variance, to show a reducer with state."""

    def parts(self):
        return nn.ModuleDict({"logvar": nn.ParameterList([torch.zeros(())])})

    def backward(self, loss, params, parts):
        (s,) = parts["logvar"]
        (loss.total * torch.exp(-s) + s).backward()


def data(n: int = 50) -> torch.Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(3))


def source(batch: int = 8) -> Shuffled:
    return Shuffled(data(), Cond({"row": torch.arange(50)}), batch, seed=5)


def full() -> Trainer:
    """Two trained roles, a frozen one, two followers, parts, a reducer with state, dropout and running statistics."""
    return Trainer(
        {"model": network(0), "critic": network(1), "teacher": network(2)},
        {
            "critic": Phase(Flow("critic"), "critic", AdamW(1e-2, schedule=CosineDecay(5)), every=2, times=2),
            "student": Phase(Flow(), "model", AdamW(3e-3, schedule=WarmupDecay(9)), reduce=Uncertain(), clip=0.5),
        },
        {"ema": EMA("model", 0.95), "opponent": Copy("model", 7)},
        seed=11,
    )


def plain(dropout: float = 0.0) -> Trainer:
    return Trainer({"model": nn.Sequential(*network(0, dropout)[::2])}, Flow(), {"ema": EMA(decay=0.9)})


def flow_only(**phase) -> Trainer:
    return Trainer({"model": network(0)}, Phase(Flow(), **phase))


def train(folder: Path, lines: Path) -> None:
    """Run to the end, writing what each step did in one write a line."""
    trainer = full()
    handle = os.open(lines, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for log in trainer.fit(source(), STEPS, folder=folder, save_every=3):
        seen = [running.phase.objective.seen[-1] for running in trainer._phases if running.phase.objective.seen]
        line = {"step": log.step, "losses": log.losses, "lr": log.lr, "ids": seen[-1]}
        os.write(handle, (json.dumps(line) + "\n").encode())


def fork(function, *args) -> int:
    pid = os.fork()
    if not pid:
        try:
            function(*args)
            os._exit(0)
        except BaseException as error:  # a fork must never return into the parent's code
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return pid


def join(pid: int) -> None:
    if os.waitpid(pid, 0)[1]:
        sys.exit("a run failed")


def kill(folder: Path, seed: int, mean: int) -> None:
    """An uninterrupted run in `whole`; in `cut` the same, killed again and again at random moments."""
    rng = random.Random(seed)
    join(fork(train, folder / "whole", folder / "whole.log"))
    lines = folder / "cut.log"
    kills = 0
    while True:
        before = lines.read_bytes().count(b"\n") if lines.exists() else 0
        target = before + rng.randint(1, 2 * mean)
        pid = fork(train, folder / "cut", lines)
        done = 0
        while not done and (not lines.exists() or lines.read_bytes().count(b"\n") < target):
            done, status = os.waitpid(pid, os.WNOHANG)
            time.sleep(0.0005)
        if not done:
            time.sleep(rng.uniform(0, 0.02))  # into the next steps and checkpoints
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            print(json.dumps({"kills": kills, "exit": os.WEXITSTATUS(status)}))
            return
        kills += 1


def rank(k: int, folder: Path, store: str, stops: list[int]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / store}", rank=k, world_size=2)
    for steps in stops:
        trainer = plain()
        losses = [log.losses for log in trainer.fit(source(), steps, shard=(k, 2), folder=folder / f"{store}.run")]
    torch.save([losses, trainer.roles.model.state_dict()], folder / f"{store}.{k}.pt")
    dist.destroy_process_group()


def ranks(folder: Path) -> None:
    """Two processes, once in one go and once resumed half way."""
    for store, stops in {"whole": [10], "cut": [5, 10]}.items():
        for pid in [fork(rank, k, folder, store, stops) for k in range(2)]:
            join(pid)


if __name__ == "__main__":
    torch.set_num_threads(1)
    importlib.import_module("torch._dynamo")  # which the first optimiser step would import, in every fork anew
    where = Path(sys.argv[2])
    if sys.argv[1] == "kill":
        kill(where, *map(int, sys.argv[3:]))
    else:
        ranks(where)
