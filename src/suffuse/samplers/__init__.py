"""How a state moves along a grid: solvers of the ODE and the SDE, ancestral sampling, spacings."""

from __future__ import annotations

from ..core.registry import lazy

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Ancestral": "ancestral",
        "BDIA": "bdia",
        "DDIM": "ancestral",
        "DDPM": "ancestral",
        "Euler": "ancestral",
        "EulerAncestral": "ancestral",
        "DEIS": "deis",
        "DPMSolverPP": "dpm_solver",
        "LCM": "lcm",
        "LinearSolver": "linear",
        "OLSS": "olss",
        "PNDM": "pndm",
        "Restart": "restart",
        "Heun": "runge_kutta",
        "RhoRK": "runge_kutta",
        "AlignYourSteps": "spacing",
        "Beta": "spacing",
        "Explicit": "spacing",
        "FlowDynamicShift": "spacing",
        "FlowShift": "spacing",
        "Karras": "spacing",
        "Leading": "spacing",
        "Linear": "spacing",
        "LogSNR": "spacing",
        "Quadratic": "spacing",
        "Skipping": "spacing",
        "Trailing": "spacing",
        "UniPC": "unipc",
    },
)
