"""Pictures of the gallery by what is fitted while they are drawn."""

from __future__ import annotations

import torch

from suffuse import load
from suffuse.docs import fitted
from suffuse.guidance import CFG


def test_a_scale_of_nothing_is_the_model_without_its_classes():
    model = load("digits")
    found = fitted.by_experts(model, "3", experts=0, s=0.0, samples=[2])
    assert torch.equal(found.latents, model.generate("3", guidance=CFG(0.0), samples=[2]).latents)
