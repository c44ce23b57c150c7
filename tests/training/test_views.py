"""Training an adapter on a view: the base is shared, frozen and never stored."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import UNet2DModel
from torch import nn

from suffuse.backbones.unet import PlainUNet
from suffuse.core.cond import Cond
from suffuse.core.denoiser import Network
from suffuse.core.patch import Patch
from suffuse.core.prediction import FLOW
from suffuse.processes.continuous import Flow
from suffuse.training import EMA, AdamW, Phase, Shuffled, Trainer, checkpoint
from suffuse.training.denoising import Denoising


@dataclass(frozen=True)
class Gain(Patch):
    """Each convolution's output times a learned number."""

    def sites(self, net):
        return net.of("conv")

    def make(self, site):
        return nn.ParameterList([torch.ones(())])

    def around(self, call):
        return call() * call.part[0]


def base() -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = UNet2DModel(4, 1, 1, block_out_channels=(8,), down_block_types=("DownBlock2D",),
                          up_block_types=("UpBlock2D",), layers_per_block=1, norm_num_groups=4)  # fmt: skip
    return Network(net, PlainUNet(), Flow(), FLOW)


def test_an_adapter_trains_resumes_and_is_averaged(tmp_path):
    data = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(1))

    def trainer() -> Trainer:
        model = base()
        gain = Gain().on(model)
        roles = {"model": model.with_(gain), "gain": gain, "base": model}
        return Trainer(roles, Phase(Denoising(), "gain", AdamW(1e-2)), {"ema": EMA("model", 0.5)})

    source = Shuffled(data, Cond(), 4)
    whole, cut = trainer(), trainer()
    frozen = {name: p.clone() for name, p in whole.roles.base.named_parameters()}
    list(whole.fit(source, 6))
    list(trainer().fit(source, 3, folder=tmp_path))
    list(cut.fit(source, 6, folder=tmp_path))
    stored = checkpoint.read(tmp_path)
    assert all("net." not in name for name in stored.tensors["role.gain"] | stored.tensors["follower.ema"])
    for one, two in ((whole.roles.gain, cut.roles.gain), (whole.roles.ema, cut.roles.ema)):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert all(torch.equal(p, frozen[name]) for name, p in whole.roles.base.named_parameters())

    x, t = torch.randn(2, 1, 4, 4), torch.full((2,), 0.5)
    with torch.no_grad():
        plain, trained, averaged = (whole.roles[name](x, t).value for name in ("base", "model", "ema"))
    assert not torch.equal(plain, trained) and not torch.equal(trained, averaged) and not torch.equal(plain, averaged)
    shared = {id(p) for p in whole.roles.base.parameters()}
    assert shared <= {id(p) for p in whole.roles.ema.parameters()}
