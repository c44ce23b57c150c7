from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from suffuse.caching import DeepCache
from suffuse.core.engine import sample
from suffuse.evaluation.operations import Operations, operations
from suffuse.guidance import CFG, AdaptiveGuidance
from suffuse.samplers import DDIM
from suffuse.testing.fixtures import conditions, fixture, states


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_attention_counts(mode):
    q, k = torch.randn(2, 4, 16, 8), torch.randn(2, 4, 20, 8)
    with mode():
        assert operations(lambda: F.scaled_dot_product_attention(q, k, k)) == 2 * 2 * (2 * 4 * 16 * 20 * 8)


def spent(ids, **how):
    rows = len(ids)
    with Operations() as counter:
        sample(fixture("unet"), states("unet", rows), sampler=DDIM(), steps=4, cond=conditions("unet", rows),
               samples=ids, **how)  # fmt: skip
    assert sum(counter.of_sample.values()) == pytest.approx(counter.total)
    return counter.of_sample


def test_pictures_alike_spend_alike_and_by_identity():
    alone = spent([7], guidance=CFG(3.0))
    both = spent([7, 2], guidance=CFG(3.0))
    assert both == pytest.approx({7: alone[7], 2: alone[7]})
    assert spent([7, 2], guidance=CFG(3.0), patches=[DeepCache(every=2)])[2] < 0.9 * alone[7]


def test_who_leaves_guidance_early_spends_less():
    def run(threshold):
        guidance = AdaptiveGuidance(w=3.0, threshold=threshold)
        start, cond = states("unet", 2), conditions("unet", 2)
        return sample(fixture("unet"), start, sampler=DDIM(), steps=4, cond=cond, guidance=guidance).nfe.tolist()

    threshold = next(t for t in torch.linspace(0.5, 0.99999, 60).tolist() if len(set(run(t))) == 2)
    found, evaluations = spent([0, 1], guidance=AdaptiveGuidance(w=3.0, threshold=threshold)), run(threshold)
    assert found[0] / found[1] == pytest.approx(evaluations[0] / evaluations[1])
