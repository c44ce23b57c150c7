"""What a scheduler's configuration says: process, kind of prediction, and how the released sampler places its steps."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..core.errors import BadInput, nearest
from ..core.grid import Spacing
from ..core.prediction import EPS, FLOW, X0, Kind, V
from ..core.process import Gaussian
from ..core.sampler import Sampler
from ..processes.continuous import Flow
from ..processes.tables import Table
from ..samplers.ancestral import DDIM, DDPM, Euler, EulerAncestral
from ..samplers.deis import DEIS
from ..samplers.dpm_solver import DPMSolverPP
from ..samplers.lcm import LCM
from ..samplers.runge_kutta import Heun
from ..samplers.spacing import FlowDynamicShift, FlowShift, Karras, Leading, Linear, LogSNR, Skipping, Trailing
from ..samplers.unipc import UniPC

Config = Mapping[str, Any]

KINDS: Mapping[str, Kind] = {"epsilon": EPS, "v_prediction": V, "sample": X0, "flow_prediction": FLOW}

FLOWS: Mapping[str, Sampler] = {
    "FlowMatchEulerDiscreteScheduler": Euler(),
    "FlowMatchHeunDiscreteScheduler": Heun(),
}

MULTISTEP = ("DEISMultistepScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
"""They place one step more than they make, and leave out the last."""

TABLES: Mapping[str, Callable[[Config], Sampler]] = {
    "DDIMScheduler": lambda c: DDIM(),
    "DDPMScheduler": lambda c: DDPM(),
    "DEISMultistepScheduler": lambda c: DEIS(order=c["solver_order"]),
    "DPMSolverMultistepScheduler": lambda c: DPMSolverPP(
        c["solver_order"], str(c["algorithm_type"]).startswith("sde-")
    ),
    "DPMSolverSinglestepScheduler": lambda c: DPMSolverPP(),
    "EulerAncestralDiscreteScheduler": lambda c: EulerAncestral(),
    "EulerDiscreteScheduler": lambda c: Euler(),
    "HeunDiscreteScheduler": lambda c: Heun(),
    "KDPM2DiscreteScheduler": lambda c: DPMSolverPP(),
    "LCMScheduler": lambda c: LCM(),
    "LMSDiscreteScheduler": lambda c: DPMSolverPP(),
    "PNDMScheduler": lambda c: DPMSolverPP(),
    "UniPCMultistepScheduler": lambda c: UniPC(c["solver_order"], c["solver_type"]),
}
"""The sampler of a scheduler; for the few that have no counterpart here, a better one on the same steps."""


@dataclass(frozen=True)
class Schedule:
    """A scheduler's configuration in the terms of suffuse."""

    process: Gaussian
    kind: Kind
    spacing: Spacing
    sampler: Sampler


def read_schedule(config: Config, *, even: bool = False) -> Schedule:
    """The schedule of a scheduler_config.json; what it leaves out is the default of its class.

    Args:
        config: with its "_class_name".
        even: the pipeline places the steps of a flow evenly before they are shifted, as Flux does.

    Raises:
        BadInput: a scheduler or an option that is not known.
    """
    name = str(config.get("_class_name"))
    if name not in FLOWS and name not in TABLES:
        raise BadInput(f"scheduler {name!r} is unknown; {nearest(name, (*FLOWS, *TABLES))}")
    full = {**_defaults(name), **config}
    if full.get("use_beta_sigmas"):
        raise BadInput("scheduler: use_beta_sigmas is not supported; remove it from scheduler_config.json")
    if name in FLOWS:
        return Schedule(Flow(), FLOW, _flow_spacing(full, even), FLOWS[name])
    kind = str(full.get("prediction_type") or "epsilon")
    if kind not in KINDS:
        raise BadInput(f"scheduler: prediction_type {kind!r} is unknown; {nearest(kind, KINDS)}")
    sampler = TABLES[name](full)
    if full.get("use_flow_sigmas"):
        return Schedule(Flow(), FLOW, FlowShift(full.get("flow_shift") or 1.0, skip_first=True), sampler)
    return Schedule(_table(full), KINDS[kind], _spacing(name, full), sampler)


def _defaults(name: str) -> dict[str, Any]:
    import diffusers

    parameters = inspect.signature(getattr(diffusers, name).__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _table(c: Config) -> Table:
    betas = c.get("trained_betas")
    explicit = None if betas is None else tuple(float(b) for b in betas)
    schedule, zero_snr = c.get("beta_schedule", "linear"), bool(c.get("rescale_betas_zero_snr"))
    return Table(schedule, c["beta_start"], c["beta_end"], c["num_train_timesteps"], explicit, zero_snr)


def _spacing(name: str, c: Config) -> Spacing:
    multistep, rule = name in MULTISTEP, str(c.get("timestep_spacing", "leading"))
    # Some released samplers stop at the first timestep of the table, where a trace of noise is left.
    stops = not c.get("set_alpha_to_one", True) or c.get("final_sigmas_type") == "sigma_min"
    end = 1.0 / c["num_train_timesteps"] if stops else 0.0
    if c.get("use_karras_sigmas"):
        return Karras(end=end)
    if c.get("use_exponential_sigmas") or c.get("use_lu_lambdas"):
        return LogSNR(end=end)
    if name == "LCMScheduler":
        return Skipping(c["original_inference_steps"])
    if rule == "leading":
        return Leading(c.get("steps_offset", 0), multistep, end)
    if rule == "trailing":
        return Trailing(end)
    if rule == "linspace":
        return Linear(
            whole=multistep or name in ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler"),
            skip_first=multistep,
            end=end,
        )
    raise BadInput(
        f"scheduler: timestep_spacing {rule!r} is unknown; {nearest(rule, ('leading', 'trailing', 'linspace'))}"
    )


def _flow_spacing(c: Config, even: bool) -> Spacing:
    if c.get("use_karras_sigmas") or c.get("use_exponential_sigmas") or c.get("shift_terminal"):
        raise BadInput("scheduler: this spacing of a flow is not supported; remove it from scheduler_config.json")
    if not c.get("use_dynamic_shifting"):
        shift = float(c["shift"])
        mu = math.log(shift)
        return FlowShift(shift) if not even else Trailing() if shift == 1.0 else FlowDynamicShift(mu, mu)
    if not even:
        raise BadInput("scheduler: use_dynamic_shifting is known for Flux only; set it to false and give a shift")
    return FlowDynamicShift(c["base_shift"], c["max_shift"], c["base_image_seq_len"], c["max_image_seq_len"])
