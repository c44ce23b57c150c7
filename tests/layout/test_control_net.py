"""Control branches: diffusers' pictures, exactly nothing before training, only where they are asked for."""

from __future__ import annotations

import pytest
import torch
from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline

import suffuse
from suffuse.core.cond import Cond
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput, Refused
from suffuse.guidance import CFG
from suffuse.layout import ControlNet, controlled
from suffuse.resolution import MultiDiffusion
from suffuse.samplers.ancestral import DDIM
from suffuse.samplers.spacing import Leading
from suffuse.testing import pipelines
from suffuse.testing.fixtures import conditions, fixture, states

SMALL = ControlNet(widths=(4, 8))


def random(branch):
    """No parameter of it zero."""
    generator = torch.Generator().manual_seed(1)
    for p in branch.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=generator)
    return branch


def picture(n, side=16):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(2))


def run(denoiser, name="unet", n=2, control=None, **how):
    given = {} if control is None else {"control": control}
    settings = {"sampler": DDIM(), "guidance": CFG(3.0), "steps": 3, **how}
    return sample(denoiser, states(name, n), cond=conditions(name, n) | given, **settings).x


@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_diffusers_picture(tmp_path, scale):
    stock = pipelines.stable_diffusion()
    made = pipelines.seeded(
        lambda: ControlNetModel.from_unet(stock.unet, conditioning_embedding_out_channels=(4, 8, 8))
    )
    for p in made.parameters():
        p.data += 0.05
    stock.save_pretrained(tmp_path / "model")
    made.save_pretrained(tmp_path / "control")
    theirs = StableDiffusionControlNetPipeline(**stock.components, controlnet=made)
    theirs.scheduler = DDIMScheduler.from_config(stock.scheduler.config, clip_sample=False)
    theirs.set_progress_bar_config(disable=True)
    z, edges = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)), picture(2, 32)
    prompts = ["a red circle left of a blue square", "photo"]
    expected = theirs(
        prompts, edges, latents=z, num_inference_steps=3, guidance_scale=4.0, output_type="latent", height=32, width=32,
        controlnet_conditioning_scale=scale,
    ).images  # fmt: skip
    model, branch = suffuse.load(tmp_path / "model"), ControlNet.load(tmp_path / "control").scaled(scale)
    how = {"latents": z, "steps": 3, "guidance": 4.0, "sampler": DDIM(), "spacing": Leading(offset=1, end=1 / 1000)}
    found = controlled(model, branch, edges * 2 - 1).generate(prompts, height=32, width=32, **how).latents
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert (found - model.generate(prompts, height=32, width=32, **how).latents).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["unet", "unet-sdxl", "unet-v"])
def test_a_new_branch_adds_nothing(name):
    net = fixture(name)
    branch = SMALL.on(net)
    assert torch.equal(run(net.with_(branch), name, control=picture(2)), run(net, name))
    assert not torch.equal(run(net.with_(random(branch)), name, control=picture(2)), run(net, name))


def test_two_branches_add_up_and_have_pictures_of_their_own():
    net, x, t = fixture("unet"), states("unet", 2), 0.5
    one, two = random(SMALL.on(net)), random(ControlNet("depth", widths=(4, 8)).on(net))
    cond = conditions("unet", 2) | {"control": picture(2), "depth": 1 - picture(2)}
    both, swapped = net.with_(one, two)(x, t, cond).value, net.with_(two, one)(x, t, cond).value
    torch.testing.assert_close(both, swapped, atol=1e-5, rtol=1e-4)
    alone = net.with_(one.scaled(0.0), two)(x, t, cond).value
    assert (both - alone).abs().max() > 1e-3
    assert torch.equal(alone, net.with_(two)(x, t, Cond({k: v for k, v in cond.items() if k != "control"})).value)


def test_a_part_of_the_run_and_one_branch_of_guidance():
    net = fixture("unet")
    branch = random(SMALL.on(net))
    assert torch.equal(run(net.with_(branch.during(0.0, 0.0)), control=picture(2)), run(net))
    on_null = run(net.with_(branch.only("null")), control=picture(2), guidance=CFG(1.0))
    assert torch.equal(on_null, run(net, guidance=CFG(1.0)))
    x, t, cond = states("unet", 2), 0.5, conditions("unet", 2) | {"control": picture(2)}
    assert not torch.equal(
        run(net.with_(branch.only("cond")), control=picture(2)), run(net.with_(branch), control=picture(2))
    )
    assert torch.equal(net.with_(branch.scaled(0.0))(x, t, cond).value, net(x, t, conditions("unet", 2)).value)


def test_windows_see_their_part_of_the_picture():
    net = fixture("unet")
    view = net.with_(random(SMALL.on(net)))
    control = picture(1, 32)
    changed = control.clone()
    changed[..., 16:] = 0.5  # the right half
    how = {"guidance": MultiDiffusion(8, stride=1.0, batch=4), "steps": 1}
    x = states("unet", 1, 16)
    cond = conditions("unet", 1)
    a, b = (sample(view, x, cond=cond | {"control": c}, sampler=DDIM(), **how).x for c in (control, changed))
    assert torch.equal(a[..., :8], b[..., :8]) and not torch.equal(a[..., 8:], b[..., 8:])


def test_gradients_reach_the_branch():
    net = fixture("unet")
    branch = SMALL.on(net).train()
    out = net.with_(branch)(states("unet", 2), 0.5, conditions("unet", 2) | {"control": picture(2)})
    out.value.square().mean().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in branch.parameters())


def test_refusals():
    net = fixture("unet")
    view = net.with_(SMALL.on(net))
    with pytest.raises(BadInput, match="control"):
        run(view)
    with pytest.raises(Refused, match="UNet"):
        SMALL.on(fixture("sd3"))
    with pytest.raises(Refused, match="UNet"):
        SMALL.on(fixture("unet-class"))
    with pytest.raises(Refused, match="control"):
        run(net, control=picture(2))
