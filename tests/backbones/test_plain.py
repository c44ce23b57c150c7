"""Networks of one's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import suffuse
from suffuse import BadInput, Cond, Refused, sample
from suffuse.adapters import LoRA
from suffuse.backbones.plain import Plain
from suffuse.caching import DeepCache
from suffuse.core.prediction import EPS, X0
from suffuse.guidance import CFG
from suffuse.processes import VP
from suffuse.samplers import DDIM
from suffuse.testing.fixtures import conditions, fixture, states


class Own(nn.Module):
    """Of states (B, 2); the last class is none."""

    def __init__(self) -> None:
        super().__init__()
        self.classes, self.layer = nn.Embedding(3, 2), nn.Linear(2, 2)
        self.told: list[Tensor] = []

    def forward(self, x: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        self.told.append(timestep)
        return self.layer(x) + self.classes(label) + timestep[:, None] / 1000


def cond(label: Tensor) -> Cond:
    return Cond({"label": label}, {"null": Cond({"label": torch.full_like(label, 2)})})


def test_it_is_called_with_timesteps_and_what_it_reads() -> None:
    net, label, x = Own(), torch.tensor([0, 1]), torch.randn(2, 2)
    denoiser = suffuse.denoiser(net, VP(), X0, reads=["label"])
    p = denoiser(x, 0.5, cond(label))
    assert torch.equal(net.told[0], torch.tensor([500.0, 500.0]))
    torch.testing.assert_close(p.x0, net(x, torch.tensor([500.0, 500.0]), label))
    out = sample(denoiser, (2, 2), sampler=DDIM(), steps=3, cond=cond(label), guidance=CFG(2.0))
    assert out.nfe.tolist() == [6, 6] and out.x.shape == (2, 2)
    adapter = LoRA(1, where="full").on(denoiser)
    assert adapter.names == ["layer"]
    assert torch.equal(sample(denoiser, out.x, sampler=DDIM(), steps=2, cond=cond(label), patches=[adapter]).x,
                       sample(denoiser, out.x, sampler=DDIM(), steps=2, cond=cond(label)).x)  # fmt: skip


def test_what_needs_blocks_refuses_it_and_what_it_does_not_read_is_named() -> None:
    denoiser, label = suffuse.denoiser(Own(), VP(), reads=("label",)), torch.tensor([0])
    run = {"sampler": DDIM(), "steps": 2}
    with pytest.raises(Refused, match="DeepCache"):
        sample(denoiser, (1, 2), cond=cond(label), patches=[DeepCache()], **run)
    with pytest.raises(BadInput, match=r"cond\['label'\]: this network is told it"):
        sample(denoiser, (1, 2), **run)
    with pytest.raises(Refused, match=r"cond\['text'\]: neither this module nor"):
        sample(denoiser, (1, 2), cond=Cond({"label": label, "text": torch.zeros(1, 3)}), **run)


def test_networks_of_diffusers_are_known() -> None:
    known = fixture("unet")
    again = suffuse.denoiser(known.net, known.process, EPS)
    x, c = states("unet", 2), conditions("unet", 2)
    assert not isinstance(again.family, Plain) and torch.equal(again(x, 0.5, c).value, known(x, 0.5, c).value)


@pytest.mark.parametrize("wrong", [(3, VP(), EPS), (Own(), "vp", EPS), (Own(), VP(), "epsilon")])
def test_other_things_are_refused(wrong: tuple) -> None:
    with pytest.raises(BadInput, match="must be a"):
        suffuse.denoiser(*wrong)
