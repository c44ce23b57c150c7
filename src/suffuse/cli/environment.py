"""What suffuse runs on."""

from __future__ import annotations

import os

from .output import AsJson, show, show_json


def env(as_json: AsJson = False) -> None:
    """Print versions, processor, threads and devices: what to add to a bug report."""
    import torch

    from suffuse.core.environment import commit, fast_types, processor, versions
    from suffuse.tuning import calibrations, chosen

    found = {
        **versions(),
        "commit": commit(),
        **processor(),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "low-precision instructions": fast_types(),
        "threads": torch.get_num_threads(),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY"),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "tuned": [str(chosen(case)) for case in calibrations().values()],
        "devices": ["cpu", *(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))],
    }
    if as_json:
        show_json(found)
    else:
        show([{"what": name, "value": value} for name, value in found.items()])
