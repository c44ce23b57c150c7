"""What a scheduler's configuration says: the process, the kind of prediction, and how released samplers place their steps."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..core.errors import BadInput, nearest
from ..core.grid import Spacing
from ..core.prediction import EPS, FLOW, V, X0, Kind
from ..core.process import Gaussian
from ..core.step import Sampler
from ..processes.continuous import Flow
from ..processes.tables import Table
from ..samplers.ancestral import DDIM
from .interim import FlowDynamicShift, FlowShift, Leading, Linear, Trailing

KINDS = {"epsilon": EPS, "v_prediction": V, "sample": X0, "flow_prediction": FLOW}
FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
TABLES = (
    "DDIMInverseScheduler", "DDIMScheduler", "DDPMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler", "DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler",
    "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LCMScheduler",
    "LMSDiscreteScheduler", "PNDMScheduler", "TCDScheduler", "UniPCMultistepScheduler",
)  # fmt: skip


@dataclass(frozen=True)
class Schedule:
    """A scheduler's configuration in the terms of suffuse."""

    process: Gaussian
    kind: Kind
    spacing: Spacing
    sampler: Sampler


def read_schedule(config: Mapping[str, Any]) -> Schedule:
    """The schedule of a scheduler_config.json; what it leaves out is the default of its class.

    Raises:
        BadInput: a scheduler or an option that is not known.
    """
    name = str(config.get("_class_name"))
    if name not in (*FLOWS, *TABLES):
        raise BadInput(f"scheduler {name!r}: its process is unknown; {nearest(name, (*FLOWS, *TABLES))}")
    full = {**_defaults(name), **config}
    return _flow(full) if name in FLOWS or full.get("use_flow_sigmas") else _table(name, full)


def _defaults(name: str) -> dict[str, Any]:
    import diffusers

    parameters = inspect.signature(getattr(diffusers, name).__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _table(name: str, c: Mapping[str, Any]) -> Schedule:
    betas = c.get("trained_betas")
    process = Table(
        c["beta_schedule"], c["beta_start"], c["beta_end"], c["num_train_timesteps"],
        None if betas is None else tuple(float(b) for b in betas), bool(c.get("rescale_betas_zero_snr")),
    )  # fmt: skip
    kind = KINDS.get(c.get("prediction_type") or "epsilon")
    if kind is None:
        raise BadInput(
            f"scheduler: prediction_type {c['prediction_type']!r} is unknown; {nearest(str(c['prediction_type']), KINDS)}"
        )
    return Schedule(process, kind, _spacing(name, c), DDIM())


def _spacing(name: str, c: Mapping[str, Any]) -> Spacing:
    rule = c.get("timestep_spacing", "leading")
    # DDIM's and PNDM's released samplers stop at the first timestep of the table, where a trace of noise is left.
    final = 0.0 if c.get("set_alpha_to_one", True) else 1.0 / c["num_train_timesteps"]
    if rule == "leading":
        return Leading(c.get("steps_offset", 0), final)
    if rule == "trailing":
        return Trailing()
    if rule == "linspace":
        return Linear()
    raise BadInput(
        f"scheduler: timestep_spacing {rule!r} is unknown; {nearest(str(rule), ('leading', 'trailing', 'linspace'))}"
    )


def _flow(c: Mapping[str, Any]) -> Schedule:
    if c.get("use_dynamic_shifting"):
        spacing: Spacing = FlowDynamicShift(
            c["base_shift"], c["max_shift"], c["base_image_seq_len"], c["max_image_seq_len"]
        )  # fmt: skip
    else:
        spacing = FlowShift(c.get("shift") or c.get("flow_shift") or 1.0)
    return Schedule(Flow(), FLOW, spacing, DDIM())
