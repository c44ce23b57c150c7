from __future__ import annotations

import torch
from torch import nn

from suffuse.core.cond import Cond
from suffuse.core.denoiser import Network
from suffuse.core.noise import Keyed
from suffuse.core.training import Batch, Roles
from suffuse.evaluation import ReaderDistance
from suffuse.evaluation.features import load_reader
from suffuse.restoration import Bicubic, Pairs, PerceptualLoss
from suffuse.training import Denoising, Shuffled, Trainer


def batch(size: int = 16) -> Batch:
    x, y = torch.rand(2, 4, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Batch(x, Cond({"source": y}), torch.arange(4))


def loss_of(model: Network, *extra: PerceptualLoss, data: Batch | None = None):
    return Denoising(extra=extra)(
        Roles({"model": model}), data or batch(), Keyed(0), nn.ModuleDict({"perceptual": nn.ModuleDict()})
    )


def test_it_is_added_with_its_weight_and_reported(restoring):
    model = restoring()
    plain, both = loss_of(model), loss_of(model, PerceptualLoss(scale=0.5))
    torch.testing.assert_close(both.per_sample, plain.per_sample + 0.5 * both.terms["perceptual"])
    assert (both.terms["perceptual"] > 0).all()
    assert torch.equal(loss_of(model, PerceptualLoss(scale=0.0)).per_sample, plain.per_sample)


def test_its_gradient_reaches_the_network_and_nothing_else(restoring):
    model = restoring()
    loss_of(model, PerceptualLoss()).terms["perceptual"].sum().backward()
    assert model.net.conv_in.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in load_reader(None)[0].parameters())


def test_pictures_of_a_latent_model_are_decoded_first(restoring, codec):
    model = restoring()
    loss = loss_of(model, PerceptualLoss(codec=codec))
    assert not torch.allclose(loss.terms["perceptual"], loss_of(model, PerceptualLoss()).terms["perceptual"])
    loss.terms["perceptual"].sum().backward()
    assert model.net.conv_in.weight.grad.abs().sum() > 0


def test_a_restorer_trains_with_it(restoring):
    model = restoring()
    objective = Denoising(extra=(PerceptualLoss(),))
    pictures = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    logs = list(Trainer({"model": model}, objective).fit(Pairs(Shuffled(pictures, Cond(), 4), Bicubic(4)), 2))
    assert {"model", "model.perceptual"} <= set(logs[-1].losses)


def test_the_distance_of_equal_pictures_is_zero_and_grows():
    x = batch(64).data
    near, far = x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2)), x.flip(0)
    distance = ReaderDistance().distance
    assert (distance(x, x) == 0).all()
    assert (0 < distance(x, near)).all() and (distance(x, near) < distance(x, far)).all()
    torch.testing.assert_close(distance(x, far), distance(far, x))
