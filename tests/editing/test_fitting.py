"""Fitting to one picture, and Imagic on it: what moves, what stays, and what is kept in a file."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from suffuse.adapters import LoRA
from suffuse.core.errors import Damaged, Refused
from suffuse.core.fingerprint import fingerprint
from suffuse.core.noise import Keyed
from suffuse.core.training import Batch, Roles
from suffuse.editing import Fitted, fit_to_image, imagic
from suffuse.editing.fitting import Embedding
from suffuse.loading.pipelines import assemble
from suffuse.samplers import DDIM
from suffuse.testing import pipelines
from suffuse.training import Denoising

QUICK = {"embedding": (3, 1e-2), "fine_tuning": (3, 1e-2)}


@cache
def model(kind="stable_diffusion"):
    pipe = getattr(pipelines, kind)()
    scheduler = {"_class_name": type(pipe.scheduler).__name__, **pipe.scheduler.config}
    return assemble(type(pipe).__name__, pipe.components, scheduler)


def picture(k=0):
    return torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(k)) * 2 - 1


@cache
def fitted(weights=LoRA(2)):
    return fit_to_image(model(), picture(), "a red circle", weights=weights, **QUICK)


def images(fit, etas=(0.0, 1.0), **more):
    return imagic(model(), fit, etas, steps=3, guidance=2.0, **more).latents


def test_the_model_stays_what_it_is_to_the_bit():
    before = fingerprint(model().net)
    flags = [p.requires_grad for p in model().net.parameters()]
    fit = fit_to_image(model(), picture(), "a red circle", **QUICK)
    images(fit)
    assert fingerprint(model().net) == before
    assert [p.requires_grad for p in model().net.parameters()] == flags
    assert all(p.grad is None for p in model().net.parameters())


@pytest.mark.parametrize("kind", ["stable_diffusion", "stable_diffusion_3"])
def test_embeddings_and_weights_move(kind):
    fit = fit_to_image(model(kind), picture(), "a red circle", weights=LoRA(2), **QUICK)
    names = {"text"} if kind == "stable_diffusion" else {"text", "pooled"}
    assert set(fit.found) == set(fit.target) == names
    for name in names:
        moved = (fit.found[name] - fit.target[name]).abs()
        assert 0 < moved.max() <= 3 * 1.1e-2  # three steps of Adam
    assert any(p.abs().max() > 0 for n, p in fit.weights.named_parameters() if "lora_up" in n)


def test_both_stages_lower_the_loss_that_they_lower():
    """The same draws before and after: the embedding alone helps, the weights help on top."""
    x0, n = model().encode(picture()).expand(16, -1, -1, -1), 16
    cond = model().condition(["a red circle"], n=n)

    def loss(fit, found):
        roles = Roles({"model": model().denoiser if fit.weights is None else model().denoiser.with_(fit.weights)})
        told = Embedding(found).told(cond)
        with torch.no_grad():
            batch = Batch(x0, told, torch.arange(n))
            return Denoising()(roles, batch, Keyed(5), torch.nn.ModuleDict()).total.item()

    how = {"batch": 4, "embedding": (25, 2e-2), "fine_tuning": (20, 1e-2)}
    fit = fit_to_image(model(), picture(), "a red circle", weights=LoRA(4, where="full"), **how)
    plain = Fitted(fit.prompt, fit.target, fit.found, None, fit.made_for)
    assert loss(fit, fit.found) < loss(plain, fit.found) < loss(plain, fit.target)


def test_eta_leads_from_the_picture_to_the_prompt():
    fit = fitted()
    assert torch.equal(fit.mixed(0.0)["text"], fit.found["text"])
    assert torch.equal(fit.mixed(1.0)["text"], fit.target["text"])
    assert torch.allclose(fit.mixed(0.25)["text"], 0.25 * fit.target["text"] + 0.75 * fit.found["text"])
    out = images(fit, (0.0, 0.5, 1.0))
    gaps = [(out[eta] - out[0.0]).norm() for eta in (0.5, 1.0)]
    assert 0 < gaps[0] < gaps[1]


def test_without_a_second_stage_eta_one_is_plain_generation():
    out = images(fitted(None), (1.0,))[1.0]
    plain = model().generate("a red circle", steps=3, guidance=2.0, sampler=DDIM(), seed=0)
    assert torch.allclose(out, plain.latents, atol=1e-5)


def test_seeds_are_shared_by_etas_and_pictures_are_their_own():
    out = images(fitted(), (0.5,), n=2)[0.5]
    assert torch.allclose(out[:1], images(fitted(), (0.5,))[0.5], atol=1e-4) and not torch.equal(out[0], out[1])


def test_a_fit_is_kept_in_a_file_and_refused_elsewhere(tmp_path):
    for name, weights in (("lora", LoRA(2)), ("none", None)):
        fit = fitted(weights)
        again = Fitted.load(fit.save(tmp_path / f"{name}.fit"), model())
        assert torch.equal(images(again)[0.0], images(fit)[0.0])
    (tmp_path / "broken.fit").write_bytes(b"no")
    for name in ("broken.fit", "absent.fit"):
        with pytest.raises(Damaged, match="not a fit to a picture"):
            Fitted.load(tmp_path / name, model())
    other = model("stable_diffusion_3")
    with pytest.raises(Refused, match="a red circle"):
        Fitted.load(tmp_path / "lora.fit", other)
    with pytest.raises(Refused, match="a red circle"):
        imagic(other, fitted(), steps=2)


def test_a_fit_is_the_same_every_time():
    again = fit_to_image(model(), picture(), "a red circle", weights=LoRA(2), **QUICK)
    assert torch.equal(again.found["text"], fitted().found["text"])
    other = fit_to_image(model(), picture(), "a red circle", weights=None, **QUICK, seed=1)
    assert not torch.equal(other.found["text"], fitted().found["text"])
