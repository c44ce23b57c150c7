"""Each architecture is called as the pipelines of diffusers call it, and described in the order in which it runs."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from diffusers import (
    FluxPipeline,
    FluxTransformer2DModel,
    LatentConsistencyModelPipeline,
    Transformer2DModel,
    UNet2DConditionModel,
)
from torch import Tensor, nn

from suffuse.backbones import family_of
from suffuse.backbones.flux import pack, positions, unpack
from suffuse.backbones.unet import embedded_scale
from suffuse.core.cond import Cond
from suffuse.core.denoiser import Network
from suffuse.core.errors import BadInput, Refused
from suffuse.core.prediction import EPS, FLOW
from suffuse.processes.continuous import Flow
from suffuse.processes.tables import Table
from suffuse.testing.fixtures import NAMES, conditions, fixture, shape, states

net = cache(fixture)


def direct(name: str, x: Tensor, timestep: Tensor, c: Cond) -> Tensor:
    """What a pipeline computes, written out."""
    module = net(name).net
    if name in ("unet", "unet-v"):
        return module(x, timestep, encoder_hidden_states=c["text"]).sample
    if name == "unet-sdxl":
        added = {"text_embeds": c["pooled"], "time_ids": c["time_ids"]}
        return module(x, timestep, encoder_hidden_states=c["text"], added_cond_kwargs=added).sample
    if name == "unet-class":
        return module(x, timestep, class_labels=c["label"]).sample
    if name == "sd3":
        out = module(x, encoder_hidden_states=c["text"], pooled_projections=c["pooled"], timestep=timestep)
        return out.sample
    if name == "pixart":
        added = {"resolution": c["resolution"], "aspect_ratio": c["aspect_ratio"]}
        out = module(
            x,
            encoder_hidden_states=c["text"],
            encoder_attention_mask=c["text_mask"],
            timestep=timestep,
            added_cond_kwargs=added,
        )
        return out.sample.chunk(2, dim=1)[0]
    if name == "dit":
        return module(x, timestep=timestep, class_labels=c["label"]).sample.split(4, dim=1)[0]
    b, channels, h, w = x.shape
    out = module(
        FluxPipeline._pack_latents(x, b, channels, h, w),
        timestep=timestep / 1000,
        guidance=c["guidance_scale"],
        pooled_projections=c["pooled"],
        encoder_hidden_states=c["text"],
        txt_ids=torch.zeros(c["text"].shape[1], 3),
        img_ids=FluxPipeline._prepare_latent_image_ids(b, h // 2, w // 2, "cpu", x.dtype),
    ).sample
    return FluxPipeline._unpack_latents(out, h * 8, w * 8, 8)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_call_of_the_stock_pipeline(name: str) -> None:
    x, c, d = states(name, 2), conditions(name, 2), net(name)
    flow = isinstance(d.process, Flow)
    timestep = torch.tensor(617.25 if flow else 617)  # flow schedulers give fractions, tables give indices
    t = 0.61725 if flow else 618 / 1000
    expected = direct(name, x, timestep.expand(2), c)
    assert (d(x, t, c).value - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_times_may_differ_in_a_batch(name: str) -> None:
    x, c = states(name, 2), conditions(name, 2)
    both = net(name)(x, torch.tensor([0.2, 0.9]), c).value
    for k, t in enumerate((0.2, 0.9)):
        alone = net(name)(x[k : k + 1], t, c[k : k + 1]).value
        assert torch.allclose(both[k : k + 1], alone, atol=1e-5 * float(alone.abs().max()))


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_networks_return_the_precision_of_the_state(name: str) -> None:
    d = fixture(name)
    d.net.to(torch.bfloat16)
    value = d(states(name, 1), 0.5, conditions(name, 1)).value
    full = net(name)(states(name, 1), 0.5, conditions(name, 1)).value
    assert value.dtype == torch.float32 and (value - full).abs().max() < 0.1 * full.abs().max()


def test_flux_packing_is_that_of_the_pipeline() -> None:
    x = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    assert torch.equal(pack(x), FluxPipeline._pack_latents(x, 2, 3, 4, 6))
    assert torch.equal(unpack(pack(x), 2, 3), x)
    assert torch.equal(positions(2, 3), FluxPipeline._prepare_latent_image_ids(1, 2, 3, "cpu", torch.float32))


def test_scale_embedding_of_latent_consistency_models() -> None:
    w = torch.tensor([1.0, 7.5])
    expected = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, w - 1, embedding_dim=17)
    assert torch.allclose(embedded_scale(w, 17), expected, atol=1e-5)
    unet = UNet2DConditionModel(**{**net("unet").net.config, "time_cond_proj_dim": 8})
    d = Network(unet, family_of(unet), Table(), EPS)
    c = conditions("unet", 2) | {"guidance_scale": torch.tensor([3.0, 8.0])}
    assert not torch.equal(
        d(states("unet", 2), 0.5, c).value, d(states("unet", 2), 0.5, c | {"guidance_scale": w}).value
    )
    with pytest.raises(BadInput, match="guidance_scale"):
        d(states("unet", 2), 0.5, conditions("unet", 2))


def test_sources_stand_beside_the_state() -> None:
    unet = UNet2DConditionModel(**{**net("unet").net.config, "in_channels": 9})
    d = Network(unet, family_of(unet), Table(), EPS)
    x, c, source = states("unet", 2), conditions("unet", 2), torch.randn(2, 5, 8, 8)
    expected = unet(torch.cat([x, source], 1), 499, c["text"]).sample
    assert torch.allclose(d(x, 0.5, c | {"source": source}).value, expected, atol=1e-5)
    assert d.family.shape(unet) == (4, 8, 8)
    with pytest.raises(BadInput, match="source"):
        d(x, 0.5, c)
    with pytest.raises(BadInput, match=r"cond\['source'\] has shape \(2, 5, 4, 4\)"):
        d(x, 0.5, c | {"source": source[:, :, :4, :4]})
    flux = FluxTransformer2DModel(**{**net("flux").net.config, "in_channels": 32, "out_channels": 16})
    d = Network(flux, family_of(flux), Flow(), FLOW)
    c = conditions("flux", 2) | {"source": torch.randn(2, 4, 8, 8)}
    assert d(states("flux", 2), 0.5, c).value.shape == (2, 4, 8, 8)


@torch.no_grad()
@pytest.mark.parametrize("name", ["unet", "pixart"])
def test_masked_tokens_are_not_read(name: str) -> None:
    x, c = states(name, 2), conditions(name, 2)
    c = c | {"text_mask": torch.tensor([[True] * 3 + [False] * 2] * 2)}
    other = c["text"].clone()
    other[:, 3:] = 7.0
    assert torch.allclose(net(name)(x, 0.5, c).value, net(name)(x, 0.5, c | {"text": other}).value, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("name", "norm"), [("dit", "ada_norm_zero"), ("pixart", "ada_norm_single")])
def test_checkpoints_of_the_old_common_class(name: str, norm: str) -> None:
    config = {k: v for k, v in net(name).net.config.items() if not k.startswith("_")}
    old = Transformer2DModel(**{**config, "norm_type": norm, "norm_elementwise_affine": False}).eval()
    old.load_state_dict(net(name).net.state_dict())
    d = Network(old, family_of(old), net(name).process, EPS)
    x, c = states(name, 2), conditions(name, 2)
    assert torch.allclose(d(x, 0.5, c).value, net(name)(x, 0.5, c).value, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_sites_name_modules_in_the_order_of_execution(name: str) -> None:
    sites = net(name).sites
    modules = dict(net(name).net.named_modules())
    called: list[str] = []
    watched = [s for s in sites if s.kind in ("block", "unit")]
    hooks = [s.module.register_forward_pre_hook(lambda *_, name=s.name: called.append(name)) for s in watched]
    with torch.no_grad():
        net(name)(states(name, 1), 0.5, conditions(name, 1))
    for hook in hooks:
        hook.remove()
    assert all(modules[s.name] is s.module for s in sites if s.module is not None)
    assert len({(s.name, s.kind) for s in sites}) == len(list(sites))
    nested = [s.name for s in watched if s.role == "feedforward"]
    assert [n for n in called if n not in nested] == [s.name for s in watched if s.name not in nested]
    assert sorted(called) == sorted(s.name for s in watched)
    depths = [s.depth for s in watched]
    assert depths == sorted(depths) and (depths[0], depths[-1]) == (0.0, 1.0)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_rows_of_fixtures(name: str) -> None:
    assert torch.equal(states(name, 5)[:2], states(name, 2)) and states(name, 2, 12).shape[1:] == shape(name, 12)
    a, b = conditions(name, 5)[:2], conditions(name, 2)
    assert all(torch.equal(a[k], b[k]) for k in b)
    assert all(torch.equal(a.alt["null"][k], b.alt["null"][k]) for k in b.alt["null"])
    before = torch.random.get_rng_state()
    assert all(torch.equal(p, q) for p, q in zip(fixture(name).parameters(), net(name).parameters(), strict=True))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("name", "size", "drop", "message"),
    [
        ("unet", (8, 8), "text", r"cond\['text'\] is missing"),
        ("unet-sdxl", (8, 8), "time_ids", r"cond\['time_ids'\] is missing"),
        ("unet-class", (8, 8), "label", r"cond\['label'\] is missing"),
        ("sd3", (8, 8), "pooled", r"cond\['pooled'\] is missing"),
        ("flux", (8, 8), "guidance_scale", r"cond\['guidance_scale'\] is missing"),
        ("pixart", (8, 8), "aspect_ratio", r"cond\['aspect_ratio'\] is missing"),
        ("sd3", (8, 7), "", "multiples of 2"),
        ("flux", (7, 8), "", "multiples of 2"),
        ("dit", (8, 6), "", "square"),
    ],
)
def test_bad_input_is_named(name: str, size: tuple[int, int], drop: str, message: str) -> None:
    c = conditions(name, 1)
    c = Cond({k: v for k, v in c.entries.items() if k != drop})
    with pytest.raises(BadInput, match=message):
        net(name)(torch.randn(1, shape(name)[0], *size), 0.5, c)


def test_unknown_things_are_named() -> None:
    with pytest.raises(Refused, match="Linear: no family"):
        family_of(nn.Linear(2, 2))
    with pytest.raises(BadInput, match="did you mean 'unet'|unet"):
        fixture("unett")
    with pytest.raises(BadInput, match="16 rows"):
        states("unet", 17)


@pytest.mark.parametrize("name", NAMES)
def test_networks_without_an_input_for_the_guidance_scale_refuse_it(name: str) -> None:
    d = net(name)
    if name == "flux":
        plain = FluxTransformer2DModel(**{**net("flux").net.config, "guidance_embeds": False})
        d = Network(plain, family_of(plain), Flow(), FLOW)
    with pytest.raises(Refused, match=r"cond\['guidance_scale'\].*; (use guidance=CFG|leave it out)"):
        d(states(name, 1), 0.5, conditions(name, 1) | {"guidance_scale": torch.tensor([3.0])})
