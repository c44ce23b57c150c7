"""Features in their principal axes."""

from __future__ import annotations

import torch

from suffuse.evaluation import PrincipalFeatures
from suffuse.evaluation.features import Features


class Flattened(Features):
    name = "flat"

    def __call__(self, images):
        return images.flatten(1)


def test_axes_hold_what_differs_and_the_set_has_no_mean():
    generator = torch.Generator().manual_seed(0)
    along = torch.nn.functional.normalize(torch.randn(12, generator=generator), dim=0)
    images = (5.0 + torch.randn(40, 1, generator=generator) * along).view(40, 3, 2, 2)
    features = PrincipalFeatures.fit(Flattened(), images, 2)
    found = features(images)
    assert found.shape == (40, 2)
    torch.testing.assert_close(found.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        found[:, 0].abs(), ((images.flatten(1) - features.mean) @ along).abs(), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(found[:, 1], torch.zeros(40), atol=1e-4, rtol=0)
    assert features.name.startswith("flat, 2 principal axes ")
    assert features.name != PrincipalFeatures.fit(Flattened(), images[:20], 2).name
