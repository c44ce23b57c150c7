"""Checks of training objectives."""

from __future__ import annotations

import torch

from ...core.noise import Keyed
from ...core.training import Batch, Objective, Roles
from .. import fixtures
from .check import check
from .subject import Subject

ROLES = ("model", "student", "teacher", "critic", "reference")
"""Names under which objectives look for networks; all get the same fixture, each a copy of its own."""


@check(Objective, "Its loss is one finite number a sample, and so is its gradient.")
def the_gradient_is_finite(subject: Subject) -> None:
    for name in ("unet", "sd3"):
        roles = Roles({role: fixtures.fixture(name) for role in ROLES})
        cond = subject.conditions(name, 3)
        batch = Batch(fixtures.states(name, 3), cond, torch.arange(3))
        parts = subject.method.parts(roles)
        loss = subject.method(roles, batch, Keyed(0), parts)
        again = subject.method(roles, batch, Keyed(0), parts)
        assert loss.per_sample.shape == (3,), f"the loss on {name} has shape {tuple(loss.per_sample.shape)}, not (3,)"
        assert bool(torch.isfinite(loss.per_sample).all()), f"the loss on {name} is {loss.per_sample.tolist()}"
        assert torch.equal(loss.per_sample, again.per_sample), f"the same noise gave another loss on {name}"
        loss.per_sample.mean().backward()
        gradients = [p.grad for role in roles.values() for p in role.parameters() if p.grad is not None]
        assert gradients, f"no parameter of {name} has a gradient"
        assert all(bool(torch.isfinite(g).all()) for g in gradients), f"a gradient on {name} is not finite"
        assert any(bool(g.any()) for g in gradients), f"every gradient on {name} is zero"
