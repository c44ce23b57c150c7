from __future__ import annotations

import os

# Before torch is imported: tests run in several processes of one thread, and waiting threads must not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings  # noqa: E402

# How long an example takes says more about what else the machine does than about the code.
settings.register_profile("suffuse", deadline=None)
settings.load_profile("suffuse")
