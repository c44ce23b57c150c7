"""Error against evaluations of samplers here and diffusers' schedulers: `benchmarks/nfe_quality.py shapes shapes-flow`.

On the bundled `shapes` and `shapes-flow`, captions of the frozen validation split, the model's own guidance. Writes
docs/nfe-quality.json and docs/nfe-quality.png; `suffuse docs build` then writes docs/nfe-quality.md. Takes about ten
minutes of one core for each model; `--captions` sets how many.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from suffuse import load
from suffuse.claims import microworld as mw
from suffuse.core.files import read_json, write_json
from suffuse.core.grid import Spacing
from suffuse.core.sampler import Sampler
from suffuse.docs.nfe_quality import best, over_pictures
from suffuse.samplers import (
    DDIM,
    DEIS,
    PNDM,
    Beta,
    DPMSolverPP,
    FlowShift,
    Heun,
    Karras,
    RhoRK,
    Trailing,
    UniPC,
)
from suffuse.testing.nfe_bench import Arm, Course, Ours, Point, Theirs, compete, distances, geometric, learned

BUDGETS = (4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50)
LEARNED = 12
"""Captions that OLSS learns from, the last of the split."""
FINE: Mapping[str, Spacing] = {"shapes": Karras(rho=3.0), "shapes-flow": Trailing()}
"""Spacing of the runs that OLSS learns from."""
FINEST, OTHER = UniPC(3), DEIS(2)
CHECKED = 2
"""Solvers of the reference and of its check, and captions of the check."""
DOCS = Path(__file__).parents[1] / "docs"

SOLVERS: Mapping[str, tuple[Sampler, Callable[[int], int]]] = {
    "DDIM": (DDIM(), lambda budget: budget),
    "DEIS tAB1": (DEIS(1), lambda budget: budget),
    "DEIS tAB2": (DEIS(2), lambda budget: budget),
    "DEIS log-rho 1": (DEIS(1, "logrhoAB"), lambda budget: budget),
    "DPM++ 2M": (DPMSolverPP(2), lambda budget: budget),
    "DPM++ 3M": (DPMSolverPP(3), lambda budget: budget),
    "UniPC 2": (UniPC(2), lambda budget: budget),
    "UniPC 3": (UniPC(3), lambda budget: budget),
    "PNDM": (PNDM(), lambda budget: budget - 1),
    "Heun": (Heun(), lambda budget: (budget + 1) // 2),
    "rhoRK3": (RhoRK(3), lambda budget: (budget + 2) // 3),
}
"""Name -> (sampler, how many of its steps a budget has evaluations for)."""

SPACINGS: Mapping[str, Mapping[str, Spacing]] = {
    "shapes": {
        "Trailing": Trailing(),
        "Karras": Karras(),
        "Karras(rho=3)": Karras(rho=3.0),
        "Karras(rho=2)": Karras(rho=2.0),
        "Beta": Beta(),
    },
    "shapes-flow": {
        "Trailing": Trailing(),
        "FlowShift(2)": FlowShift(2.0),
        "FlowShift(3)": FlowShift(3.0),
        "FlowShift(2, skip_first)": FlowShift(2.0, skip_first=True),
        "FlowShift(3, skip_first)": FlowShift(3.0, skip_first=True),
    },
}

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "linspace": dict(timestep_spacing="linspace"),
    "trailing": dict(timestep_spacing="trailing"),
    "leading": dict(timestep_spacing="leading"),
    "Karras": dict(timestep_spacing="linspace", use_karras_sigmas=True),
    "beta": dict(timestep_spacing="linspace", use_beta_sigmas=True),
    "Lu": dict(timestep_spacing="linspace", use_lu_lambdas=True),
}
"""Spacings of diffusers' schedulers; exponential sigmas are Lu's lambdas."""

SIGMAS = ("linspace", "trailing", "Karras", "beta")
SCHEDULERS: Sequence[tuple[str, str, Mapping[str, Any], Sequence[str]]] = (
    ("DDIM", "DDIMScheduler", {}, ("leading", "linspace", "trailing")),
    ("PNDM", "PNDMScheduler", dict(skip_prk_steps=True), ("leading", "trailing")),
    ("Euler", "EulerDiscreteScheduler", {}, SIGMAS),
    ("Heun", "HeunDiscreteScheduler", {}, SIGMAS),
    ("LMS", "LMSDiscreteScheduler", {}, SIGMAS),
    ("KDPM2", "KDPM2DiscreteScheduler", {}, SIGMAS),
    ("DEIS 1", "DEISMultistepScheduler", {}, SIGMAS),
    ("DEIS 2", "DEISMultistepScheduler", dict(solver_order=3), SIGMAS),
    ("DPM++ 2M", "DPMSolverMultistepScheduler", {}, (*SIGMAS, "Lu")),
    ("DPM++ 3M", "DPMSolverMultistepScheduler", dict(solver_order=3), (*SIGMAS, "Lu")),
    ("DPM++ 2S", "DPMSolverSinglestepScheduler", {}, SIGMAS),
    ("UniPC 2", "UniPCMultistepScheduler", {}, SIGMAS),
    ("UniPC 3", "UniPCMultistepScheduler", dict(solver_order=3), SIGMAS),
)
"""Name, class, settings and spacings of diffusers' schedulers for tables of betas."""

FLOWS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "DEIS 1": ("DEISMultistepScheduler", {}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {}),
    "DPM++ 3M": ("DPMSolverMultistepScheduler", dict(solver_order=3)),
    "UniPC 2": ("UniPCMultistepScheduler", {}),
    "UniPC 3": ("UniPCMultistepScheduler", dict(solver_order=3)),
}
"""Schedulers that can also solve flows."""


def theirs(model: str) -> list[Arm]:
    """Diffusers' deterministic schedulers, with every spacing."""
    if model == "shapes":
        return [
            Theirs(name, spacing, scheduler, {**OPTIONS[spacing], **settings})
            for name, scheduler, settings, spacings in SCHEDULERS
            for spacing in spacings
        ]
    shifts = {f"shift={shift}": shift for shift in (1.0, 2.0, 3.0)}
    arms: list[Arm] = []
    for name, shift in shifts.items():
        arms += [
            Theirs(f"flow {s}", name, f"FlowMatch{s}DiscreteScheduler", dict(shift=shift)) for s in ("Euler", "Heun")
        ]
        flow = dict(use_flow_sigmas=True, flow_shift=shift, prediction_type="flow_prediction")
        arms += [Theirs(solver, name, cls, {**flow, **settings}) for solver, (cls, settings) in FLOWS.items()]
    for name in ("karras", "exponential", "beta"):
        arms.append(Theirs("flow Euler", name, "FlowMatchEulerDiscreteScheduler", {f"use_{name}_sigmas": True}))
    return arms


def ours(model: str, seed: int) -> list[Arm]:
    """Samplers of suffuse, with every spacing, and OLSS, which learns from other captions and other noise."""
    fit = learned(course_of(model, mw.captions(512)[-LEARNED:], seed + 1), FINE[model], 100)
    return [Ours("OLSS", "its own", fit)] + [
        Ours(name, spacing, lambda n, sampler=sampler: sampler, placed, steps)
        for name, (sampler, steps) in SOLVERS.items()
        for spacing, placed in SPACINGS[model].items()
    ]


def course_of(model: str, texts: Sequence[Any], seed: int) -> Course:
    """Captions on a bundled model with its own guidance."""
    loaded = load(model)
    place = mw.place(loaded, texts)
    config = dict(loaded.to_diffusers().scheduler.config)
    return Course(loaded.denoiser, place["cond"], place["x"], loaded.defaults.guidance, config, seed)


def measured(model: str, captions: int, seed: int, budgets: Sequence[int], fine: int) -> dict[str, Any]:
    """What one model has in the file."""
    course = course_of(model, mw.captions(captions), seed)
    entered = {"suffuse": ours(model, seed), "diffusers": theirs(model)}
    reference, _ = course.run(sampler=FINEST, spacing=Trailing(), steps=fine)
    other, _ = course_of(model, mw.captions(CHECKED), seed).run(sampler=OTHER, spacing=Trailing(), steps=fine)

    def measure(arm: Arm, budget: int) -> Point:
        end, evaluations = arm(course, budget)
        point = Point(arm, budget, evaluations, distances(end, reference))
        print(model, arm.solver, arm.spacing, budget, f"{point.size:.4g}", sep=", ", flush=True)
        return point

    sides = {side: compete(measure, arms, budgets) for side, arms in entered.items()}
    return {
        "guidance": str(course.guidance),
        "captions": captions,
        "seed": seed,
        "reference": f"{FINEST}, {fine} steps",
        "check": {"solver": f"{OTHER}, {fine} steps", "errors": digits(distances(other, reference[:CHECKED]))},
        "budgets": list(budgets),
        "spacings": {side: tried(arms) for side, arms in entered.items()},
        "points": [
            {
                "side": side,
                "solver": p.arm.solver,
                "spacing": p.arm.spacing,
                "budget": p.budget,
                "evaluations": p.evaluations,
                "errors": digits(p.errors),
            }
            for side, points in sides.items()
            for p in points
        ],
    }


def tried(arms: Sequence[Arm]) -> dict[str, list[str]]:
    """Spacings of each solver."""
    return {arm.solver: [a.spacing for a in arms if a.solver == arm.solver] for arm in arms}


def digits(errors: Any) -> list[float]:
    """Four digits of each."""
    return [float(f"{v:.4g}") for v in errors]


def draw(models: Mapping[str, Any], path: Path) -> None:
    """One panel for each model: thin lines for solvers, thick ones for the best of each side."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(models), figsize=(6 * len(models), 5), squeeze=False)
    for panel, (name, found) in zip(panels[0], models.items(), strict=True):
        budgets = found["budgets"]
        for side, colour in (("diffusers", "tab:orange"), ("suffuse", "tab:blue")):
            for solver in found["spacings"][side]:
                points = [p for p in found["points"] if (p["side"], p["solver"]) == (side, solver)]
                sizes = [geometric(np.array(p["errors"])) for p in points]
                panel.plot([p["budget"] for p in points], sizes, color=colour, alpha=0.3, linewidth=0.8)
            least = [best(found, side, budget)["errors"] for budget in budgets]
            line, *sides = zip(*([e.mean, *e.interval] for e in map(over_pictures, least)), strict=True)
            panel.plot(budgets, line, color=colour, marker="o", linewidth=2, label=f"best of {side}")
            panel.fill_between(budgets, *sides, color=colour, alpha=0.15)
        panel.set(xscale="log", yscale="log", title=f"{name}, {found['guidance']}", ylim=(None, 2.0))
        panel.set(xlabel="evaluations of the guided network", ylabel="relative error of the latents")
        panel.set_xticks(budgets, list(map(str, budgets)))
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        panel.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main() -> None:
    """Measure some models and keep what the file has of the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=f"some of {', '.join(SPACINGS)}; none only draws")
    parser.add_argument("--captions", type=int, default=6, help="how many validation captions")
    parser.add_argument("--seed", type=int, default=0, help="of the start noise")
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS, help="evaluations of the guided network")
    parser.add_argument("--fine", type=int, default=1000, help="steps of the reference")
    parser.add_argument("--output", type=Path, default=DOCS / "nfe-quality.json", help="file; the plot lies beside it")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for model in given.models:
        found = measured(model, given.captions, given.seed, given.budgets, given.fine)
        write_json(given.output, {"models": {**kept(given.output), model: found}})
    draw(kept(given.output), given.output.with_suffix(".png"))


def kept(path: Path) -> dict[str, Any]:
    """What the file has."""
    return read_json(path)["models"] if path.exists() else {}


if __name__ == "__main__":
    main()
