"""Phases of growing size, DemoFusion and DiffuseHigh, on a tiny model and by hand."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch

from suffuse.core.cond import Cond
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput
from suffuse.core.value import Coef
from suffuse.guidance import CFG
from suffuse.images import recipe_of, to_pil, to_tensor
from suffuse.loading.pipelines import assemble
from suffuse.rebuild import replay
from suffuse.resolution import DemoFusion, DiffuseHigh, DilatedSampling, LowBand, SkipResidual, Wavelet
from suffuse.resolution.demofusion import cosine, dilated, standardised, statistics
from suffuse.samplers import DDIM, DPMSolverPP, Heun
from suffuse.testing import pipelines
from suffuse.testing.fixtures import conditions, fixture, states

NET, COND = fixture("unet"), conditions("unet", 2)
GUIDE = Cond({"x0": states("unet", 4)[2:], "noise": states("unet", 6)[4:]})


@cache
def model():
    pipe = pipelines.stable_diffusion()
    return assemble(
        type(pipe).__name__, pipe.components, {"_class_name": type(pipe.scheduler).__name__, **pipe.scheduler.config}
    )


HOW = {"steps": 3, "guidance": 2.0, "sampler": DDIM(), "seed": 1}
SMALL = DemoFusion(DilatedSampling(window=8))


def test_sizes_of_phases():
    method = DemoFusion()
    assert method.first((64, 64), (128, 256), 8) == (32, 64)
    assert method.first((64, 64), (48, 40), 8) == (48, 40)
    assert method.sizes((64, 64), (192, 192), 8) == [(64, 64), (128, 128), (192, 192)]
    assert method.sizes((64, 64), (160, 160), 8) == [(64, 64), (128, 128), (160, 160)]
    assert method.sizes((32, 64), (48, 96), 8) == [(32, 64), (48, 96)]
    assert method.sizes((64, 64), (64, 64), 8) == [(64, 64)]


@pytest.mark.parametrize("method", [SMALL, DiffuseHigh(), DiffuseHigh(latent=True, sharpness=0.0)], ids=str)
def test_pictures_grow_phase_by_phase_and_go_on_from_any(method):
    seen = []
    side = model().defaults.size[0]
    how = {**HOW, "height": 3 * side, "width": 3 * side, "upscale": method}
    whole = model().generate("a red circle", preview=seen.append, **how)
    assert [i.images[0].size for i in seen] == [(side, side), (2 * side, 2 * side), (3 * side, 3 * side)]
    assert torch.equal(seen[-1].latents, whole.latents) and whole.nfe[0] > seen[1].nfe[0] > seen[0].nfe[0]
    again = model().generate("a red circle", image=seen[1], **how)
    assert torch.equal(again.latents, whole.latents) and again.nfe[0] == whole.nfe[0] - seen[1].nfe[0]


def test_pictures_are_what_they_are_alone():
    how = {**HOW, "upscale": SMALL, "height": 2 * model().defaults.size[0], "width": 2 * model().defaults.size[1]}
    both = model().generate(["a red circle", "a blue square"], **how)
    alone = model().generate("a blue square", samples=[1], **how)
    torch.testing.assert_close(alone.latents, both.latents[1:], atol=1e-3, rtol=1e-3)
    parted = model().generate(["a red circle", "a blue square"], batch=1, **how)
    torch.testing.assert_close(parted.latents, both.latents, atol=1e-3, rtol=1e-3)


def test_a_picture_is_enlarged_and_made_again(tmp_path):
    picture = to_pil(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1)[0]
    large = model().upscale(picture, "a red circle", factor=1.5, method=DiffuseHigh(), **HOW)
    assert large.images[0].size == (96, 96) and "upscale" in large.recipes[0] and "strength" not in large.recipes[0]
    (file,) = large.save(tmp_path / "large.png")
    assert recipe_of(file)["upscale"] == "DiffuseHigh()"
    again = replay(file, model=model(), image=picture)
    assert torch.equal(to_tensor(again.images), to_tensor(large.images))
    with pytest.raises(BadInput, match="image"):
        replay(file, model=model())
    # states are not in the file, and going on from the picture would make another one
    first = model().generate("a red circle", **HOW)
    (file,) = model().upscale(first, "a red circle", factor=1.5, **HOW).save(tmp_path / "on.png")
    with pytest.raises(BadInput, match="a recipe cannot hold"):
        replay(file, model=model(), image=first.images[0])


def test_refusals_of_the_task():
    with pytest.raises(BadInput, match="both"):
        model().upscale(to_pil(torch.zeros(1, 3, 64, 64))[0], width=128)
    with pytest.raises(BadInput, match="above 1"):
        model().upscale(to_pil(torch.zeros(1, 3, 64, 64))[0], factor=1.0)
    with pytest.raises(BadInput, match="strength"):
        model().upscale(to_pil(torch.zeros(1, 3, 64, 64))[0], strength=0.5)
    with pytest.raises(BadInput, match="guide"):
        sample(NET, states("unet", 2), sampler=DDIM(), steps=1, cond=COND, guidance=LowBand())


# DemoFusion -----------------------------------------------------------------------------------------------------------
def test_the_skip_residual_by_hand():
    x, cond = states("unet", 2), COND.with_alt(guide=GUIDE)
    t = Coef(0.6)
    found = sample(NET, x, sampler=DDIM(), steps=1, start=0.6, stop=0.3, cond=cond, hooks=[SkipResidual(2.0)]).x
    c = (0.5 * (1 + math.cos(math.pi * 0.4))) ** 2
    noised = NET.process.marginal(GUIDE["x0"], t).at(GUIDE["noise"])
    plain = sample(NET, c * noised + (1 - c) * x, sampler=DDIM(), steps=1, start=0.6, stop=0.3, cond=cond).x
    torch.testing.assert_close(found, plain)
    assert cosine(Coef(1.0)).item() == 1.0 and cosine(Coef(0.0)).item() == pytest.approx(0.0)


def test_dilated_views_take_every_entry_once():
    for size, s in (((16, 16), 2), ((17, 12), 3)):
        count = torch.zeros(size)
        for view in dilated(size, s):
            view.box.add(count, view.weight)
        assert torch.equal(count, torch.ones(size))


def test_dilated_sampling_by_hand():
    """At t = 1 the dilated views alone count; without blur they are the network on every second row and column."""
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    asked = []

    def keep(predict, x, t, cond, at):
        p = predict(x, t, cond)
        asked.append(p)
        return p

    class Probe(DilatedSampling):
        __call__ = lambda self, predict, x, t, cond, at: keep(  # noqa: E731
            lambda *a: super(Probe, self).__call__(predict, *a, at), x, t, cond, at
        )

    sample(NET, x, sampler=DDIM(), steps=2, cond=COND, guidance=Probe(window=8, sigma=1e-4))
    for h in range(2):
        for w in range(2):
            alone = NET(x[..., h::2, w::2], 1.0, COND).value
            torch.testing.assert_close(asked[0].value[..., h::2, w::2], alone, atol=1e-4, rtol=1e-4)


def test_dilated_sampling_at_its_own_size_is_the_plain_run():
    run = {"sampler": DDIM(), "steps": 2, "cond": COND}
    found = sample(NET, states("unet", 2), guidance=DilatedSampling() | CFG(3.0), **run).x
    assert torch.equal(found, sample(NET, states("unet", 2), guidance=CFG(3.0), **run).x)


def test_statistics_are_exchanged():
    x = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(0)) * 3 + 1
    y = standardised(x, Coef(torch.tensor([2.0, 0.0])), Coef(torch.tensor([0.5, 1.0])))
    mean, std = statistics(y)
    torch.testing.assert_close(mean.d, torch.tensor([2.0, 0.0], dtype=torch.float64), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(std.d, torch.tensor([0.5, 1.0], dtype=torch.float64), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sampler", [DPMSolverPP(), Heun()], ids=str)
def test_solvers_of_several_steps_and_evaluations(sampler):
    x = torch.randn(2, 4, 12, 16, generator=torch.Generator().manual_seed(0))
    guide = Cond({"x0": 0.5 * x, "noise": x})
    out = sample(NET, x, sampler=sampler, steps=3, cond=COND.with_alt(guide=guide), hooks=[SkipResidual()],
                 guidance=DilatedSampling(window=8) | CFG(2.0))  # fmt: skip
    assert bool(torch.isfinite(out.x).all())


# LowBand --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["unet", "unet-v", "sd3"])
def test_the_low_band_of_the_last_prediction_is_the_guides(name):
    """The last step of DDIM returns x0 as it was corrected, whatever the network outputs."""
    net, x, cond, band = fixture(name), states(name, 2), conditions(name, 2), Wavelet(2)
    guide = states(name, 4)[2:]
    told = cond.with_alt(guide=Cond({"x0": guide}))
    run = {"sampler": DDIM(), "steps": 1}
    plain = sample(net, x, cond=cond, start=0.5, **run).x
    found = sample(net, x, cond=told, start=0.5, guidance=LowBand(band), **run).x
    torch.testing.assert_close(found, plain + band.low(guide - plain), atol=1e-4, rtol=1e-4)


def test_in_pixels_the_codec_is_between():
    class Double(torch.nn.Module):
        def decode(self, x):
            return 2.0 * x

        def encode(self, x):
            return 0.5 * x, None

    guide = states("unet", 4)[2:]
    latent, pixel = (COND.with_alt(guide=Cond(entries)) for entries in ({"x0": guide}, {"pixels": 2.0 * guide}))
    run = {"sampler": DDIM(), "steps": 2, "start": 0.5}
    one = sample(NET, states("unet", 2), guidance=LowBand(), cond=latent, **run).x
    two = sample(NET, states("unet", 2), guidance=LowBand(codec=Double()), cond=pixel, **run).x
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


def test_the_guide_of_diffusehigh_is_sharper_and_of_any_size():
    codec, x0 = model().codec, model().encode(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    factor = codec.space.factor
    soft, sharp = (DiffuseHigh(sharpness=s).guide(codec, x0, (96 // factor, 80 // factor)) for s in (0.0, 1.0))
    assert sharp["pixels"].shape == (2, 3, 96, 80) and sharp["x0"].shape[-2:] == (96 // factor, 80 // factor)

    def fine(v):
        return (v - Wavelet().low(v)).std()

    assert fine(sharp["pixels"]) > 1.05 * fine(soft["pixels"])
    plugs = DiffuseHigh(band=None).guided(CFG(3.0), codec)
    assert plugs == CFG(3.0)
