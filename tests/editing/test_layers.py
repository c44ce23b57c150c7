"""Diffusion Brush: strokes change what is under them, at the cost of the steps that are left, and can be taken back."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import pytest
import torch

from suffuse.core.errors import BadInput, Damaged
from suffuse.core.patch import Patch
from suffuse.editing import DDIMInversion, SDEdit, diffusion_brush
from suffuse.editing.layers import WINDOW, Stroke, renewed
from suffuse.loading.pipelines import assemble
from suffuse.samplers import DPMSolverPP
from suffuse.testing import pipelines

RUN = {"steps": 6, "guidance": 3.0}


@dataclass(frozen=True, eq=False)
class Counting(Patch):
    """The steps at which the network is asked."""

    steps: list = field(default_factory=list)

    def sites(self, net):
        return [net.root]

    def around(self, call):
        self.steps.append(call.at.i)
        return call()


@cache
def model():
    pipe = pipelines.stable_diffusion()
    scheduler = {"_class_name": type(pipe.scheduler).__name__, **pipe.scheduler.config}
    return assemble(type(pipe).__name__, pipe.components, scheduler)


@cache
def canvas(prompt="a red circle"):
    return diffusion_brush(model(), prompt, **RUN)


def half(value=1.0):
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., :16] = value
    return mask


def test_a_stroke_changes_what_is_under_it_alone():
    before, after = canvas().pixels, canvas().paint(half(), start=0.34, seed=1).render()
    assert torch.equal(after[..., 16:], before[..., 16:])
    assert (after[..., :16] - before[..., :16]).abs().mean() > 1e-3
    other = canvas().paint(half(), start=0.34, seed=2).render()
    assert not torch.equal(other, after)


def test_what_changes_nothing_gives_the_picture_back_to_the_bit():
    before, strong = canvas().pixels, canvas().paint(half(), seed=1)
    assert torch.equal(canvas().render(), before)
    assert torch.equal(canvas().paint(half(0.0)).render(), before)
    assert torch.equal(canvas().paint(half(), alpha=0.0).render(), before)
    assert torch.equal(strong.hide(0).render(), before)
    assert torch.equal(strong.arrange([]).render(), before)
    assert not torch.equal(strong.render(), before)
    assert torch.equal(strong.hide(0).hide(0, False).render(), strong.render())


@pytest.mark.parametrize("sampler", [None, DPMSolverPP(2)])
def test_a_layer_without_noise_runs_along_the_known_run(sampler):
    """alpha = 0 with the picture's own prompt is not left out, and still ends where the picture does."""
    made = diffusion_brush(model(), "a red circle", **RUN, **({} if sampler is None else {"sampler": sampler}))
    again = made.paint(torch.ones(1, 1, 32, 32), start=0.5, alpha=0.0, prompt="a red circle")
    assert again.strokes[0].shown and torch.equal(again.render(), made.pixels)


def test_a_stroke_costs_the_steps_that_are_left_and_is_made_once():
    count = Counting()
    made = diffusion_brush(model().with_(count), "a red circle", **RUN)
    assert count.steps == [0, 1, 2, 3, 4, 5]
    painted = made.paint(half(), start=0.5).paint(half(), start=0.67, seed=1)
    painted.render()
    assert count.steps[6:] == [3, 4, 5, 4, 5]
    painted.arrange([1, 0]).hide(0).render()
    painted.render()
    assert len(count.steps) == 11


def test_layers_do_not_touch_each_other_and_later_ones_lie_on_top():
    a, b = ({"mask": m, "seed": k} for k, m in enumerate((half(), half().flip(-1))))
    both = canvas().paint(**a).paint(**b)
    assert torch.equal(both.render()[..., :16], canvas().paint(**a).render()[..., :16])
    assert torch.equal(both.hide(0).render(), canvas().paint(**b).render())
    over = canvas().paint(half(), seed=1).paint(half(), seed=2)
    assert torch.equal(over.render(), canvas().paint(half(), seed=2).render())
    assert torch.equal(over.arrange([1, 0]).render(), canvas().paint(half(), seed=1).render())


def test_soft_brushes_blend():
    hard, soft = (canvas().paint(half(v), seed=1) for v in (1.0, 0.5))
    before = canvas().pixels
    assert 0 < (soft.render() - before).abs().sum() < (hard.render() - before).abs().sum()


def test_a_prompt_alone_is_an_edit_and_settling_moves_the_inside():
    asked = canvas().paint(half(), alpha=0.0, prompt="a blue circle")
    assert not torch.equal(asked.render(), canvas().pixels)
    settled = canvas().paint(half(), seed=1, settle=0.5).render()
    assert not torch.equal(settled, canvas().paint(half(), seed=1).render())
    assert torch.equal(settled[..., 16:], canvas().pixels[..., 16:])


@pytest.mark.parametrize("inversion", [None, DDIMInversion(strength=0.5)])
def test_a_given_picture_can_be_painted_on(inversion):
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    made = diffusion_brush(model(), "a red circle", image, inversion=inversion, **RUN)
    assert torch.equal(made.render()[0], made.pixels[0]) and torch.allclose(made.pixels[0], image, atol=1e-6)
    out = made.paint(half(), start=0.5, seed=1).render()
    assert torch.equal(out[..., 16:], made.pixels[..., 16:]) and not torch.equal(out, made.pixels)
    if inversion is not None:
        with pytest.raises(BadInput, match=r"start=0.0: the run is known from 0.5 on"):
            made.paint(half(), start=0.0).render()


def test_layers_are_kept_in_a_file(tmp_path):
    painted = canvas().paint(half(0.5), 0.34, 0.8, 3, "a blue circle", 0.2).paint(half(), seed=1).hide(1)
    again = canvas().load_layers(painted.save_layers(tmp_path / "layers.safetensors"))
    assert [s.key for s in again.strokes] == [s.key for s in painted.strokes] and again.strokes[1].hidden
    assert torch.equal(again.render(), painted.render())
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    for name in ("broken.safetensors", "absent.safetensors"):
        with pytest.raises(Damaged, match="not a file of layers"):
            canvas().load_layers(tmp_path / name)


def test_noise_keeps_the_variance_of_the_state():
    z = 3.0 * torch.randn(4, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    whole, none = torch.ones(4, 1, 32, 32), torch.zeros(4, 1, 32, 32)
    for alpha in (0.3, 0.7, 1.0):
        assert renewed(z, whole, alpha, noise).std().item() == pytest.approx(3.0, abs=0.15)
    assert torch.equal(renewed(z, none, 1.0, noise), z) and torch.equal(renewed(z, whole, 0.0, noise), z)
    flat = torch.full((1, 1, 2 * WINDOW, 2 * WINDOW), 5.0)
    assert torch.equal(renewed(flat, torch.ones_like(flat), 1.0, torch.ones_like(flat)), torch.zeros_like(flat))


def test_what_is_wrong_is_said():
    for bad in ({"start": 1.0}, {"alpha": 2.0}, {"settle": -0.1}):
        with pytest.raises(BadInput, match="Stroke"):
            Stroke(half(), **bad)
    with pytest.raises(BadInput, match="there are 1; give each once"):
        canvas().paint(half()).hide(1)
    with pytest.raises(BadInput, match="inversion: finds a given picture"):
        diffusion_brush(model(), "a red circle", inversion=SDEdit())
