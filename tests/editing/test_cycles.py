"""Cyclic one-way diffusion: levels, what is put in where, how often the network is asked, and the canvas."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch

from suffuse.core.cond import Cond
from suffuse.core.engine import Start, sample
from suffuse.core.errors import BadInput
from suffuse.core.hook import Hook
from suffuse.core.value import Coef
from suffuse.editing import CyclicOneWay, Diversify, Pasted, cyclic_one_way
from suffuse.editing.cycles import renoised
from suffuse.editing.pasting import GREY, canvas
from suffuse.guidance import CFG
from suffuse.loading.pipelines import assemble
from suffuse.processes import VP, Flow
from suffuse.samplers import DDIM
from suffuse.testing import pipelines
from suffuse.testing.fixtures import conditions, states

from .editing_toys import net

CYCLE = CyclicOneWay(cycles=2)


@cache
def model():
    pipe = pipelines.stable_diffusion()
    scheduler = {"_class_name": type(pipe.scheduler).__name__, **pipe.scheduler.config}
    return assemble(type(pipe).__name__, pipe.components, scheduler)


class Walked(Hook):
    """Where the inner steps went, and with which state they ended."""

    def __init__(self):
        self.seen = []

    def __call__(self, step, x, at):
        out = step(x, at)
        self.seen.append((at.i, at.folds, out))
        return out


def run(cycle, *inner, mask=None, guidance=None, n=2):
    known = torch.stack([(1 + k) * states("unet", n) for k in range(8)], 1)
    free = torch.ones(n, 1, 8, 8)
    free[..., 4:] = 0.0
    path = Cond({"states": known, "mask": free if mask is None else mask})
    cond = conditions("unet", n).with_alt(path=path)
    grid_node = 0.5
    out = sample(
        net("unet"), Start.exactly(states("unet", n), grid_node), sampler=DDIM(), steps=10, cond=cond,
        hooks=[cycle, *inner], guidance=guidance,
    )  # fmt: skip
    return out, known


def test_cycles_go_up_to_t2_and_down_to_t1_and_then_on_to_the_end():
    walked = Walked()
    out, _ = run(CYCLE, walked)
    assert [i for i, *_ in walked.seen] == [3, 4, 3, 4, 5, 6, 7, 8, 9]
    assert len({folds for _, folds, _ in walked.seen}) == 3
    assert out.nfe.tolist() == [9, 9]


def test_the_given_part_is_put_in_at_every_level_and_last_at_its_level():
    walked = Walked()
    out, known = run(CYCLE, walked)
    level = dict(zip(range(3, 11), range(8), strict=True))

    class Before(Hook):
        seen = []

        def __call__(self, step, x, at):
            self.seen.append((at.i, x))
            return step(x, at)

    before = Before()
    run(CYCLE, before)
    for k, (i, x) in enumerate(before.seen):
        if k < 4 or i in (5, 6):  # the cycles, the start of the free part, and the last time
            assert torch.equal(x[..., 4:], known[:, level[i], ..., 4:]), (k, i)
        else:
            assert not torch.equal(x[..., 4:], known[:, level[i], ..., 4:])


def test_without_cycles_and_without_a_given_part_it_is_the_plain_run():
    free = torch.ones(2, 1, 8, 8)
    plain = sample(net("unet"), Start.exactly(states("unet", 2), 0.5), sampler=DDIM(), steps=10,
                   cond=conditions("unet", 2))  # fmt: skip
    assert torch.equal(run(CyclicOneWay(cycles=0), mask=free)[0].x, plain.x)
    assert not torch.equal(run(CYCLE, mask=free)[0].x, plain.x)
    assert not torch.equal(run(replace(CYCLE, eta=0.0), mask=free)[0].x, run(CYCLE, mask=free)[0].x)


def test_steps_of_the_cycles_are_ancestral_and_those_after_them_the_run_s_own():
    assert CyclicOneWay().eta == 1.0

    class Samplers(Hook):
        seen = []

        def __call__(self, step, x, at):
            self.seen.append((step.sampler, at.i))
            return step(x, at)

    samplers = Samplers()
    run(CYCLE, samplers)
    assert [sampler for sampler, _ in samplers.seen] == 4 * [DDIM(1.0)] + 5 * [DDIM()]


def test_pictures_alone_are_what_they_are_in_a_batch():
    torch.testing.assert_close(run(CYCLE)[0].x[:1], run(CYCLE, n=1)[0].x, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("process", [VP(), Flow()])
def test_noise_is_added_by_the_forward_kernel(process):
    """Two steps of noise are one: mean and variance of q(x_s | x0) come out."""
    t, s, x0 = Coef(0.3), Coef(0.6), torch.full((200_000,), 2.0)
    first, second = torch.randn(2, 200_000, generator=torch.Generator().manual_seed(0))
    x = renoised(process.alpha(t) * x0 + process.sigma(t) * first, process, t, s, second)
    assert x.mean().item() == pytest.approx(2.0 * process.alpha(s).item(), abs=0.01)
    assert x.std().item() == pytest.approx(process.sigma(s).item(), abs=0.01)
    assert torch.equal(renoised(x0, process, t, t, second), x0)


def test_diversify_moves_the_free_part_of_cfg_as_the_paper_says():
    x, t, w = states("unet", 2), Coef(0.6), 3.0
    whole = conditions("unet", 6)
    free = torch.ones(2, 1, 8, 8)
    free[..., 4:] = 0.0
    alt = {"suppress": whole[2:4], "diverse": whole[4:]}
    cond = whole[:2].with_alt(path=Cond({"mask": free}), **{k: Cond({"text": v["text"]}) for k, v in alt.items()})
    guided = net("unet").guided(Diversify("a", "b", w - 1) | CFG(w))(x, t, cond).eps
    c, n, down, up = (
        net("unet")(x, t, Cond({"text": v})).eps
        for v in (cond["text"], cond.alt["null"]["text"], alt["suppress"]["text"], alt["diverse"]["text"])
    )
    null = torch.lerp(n, n + down - up, free)
    assert torch.allclose(guided, null + w * (c - null), atol=1e-4)
    with pytest.raises(BadInput, match="has no alternative 'suppress'"):
        net("unet").guided(Diversify("a", "b") | CFG(w))(x, t, conditions("unet", 2))


def test_the_canvas_is_grey_with_crops_on_it():
    red, blue = torch.tensor([1.0, -1, -1])[:, None, None], torch.tensor([-1.0, -1, 1])[:, None, None]
    mask = torch.ones(1, 1, 4, 6)
    mask[..., :3] = 0.0
    pixels, given = canvas([Pasted(red.expand(3, 4, 6), 2, 1), Pasted(blue.expand(3, 4, 6), 2, 3, mask)], 8, 10)
    assert torch.equal(pixels[0, :, 0, 0], torch.full((3,), GREY)) and given.sum() == 24 + 6
    assert torch.equal(pixels[0, :, 4, 2], red[:, 0, 0]) and torch.equal(pixels[0, :, 4, 7], blue[:, 0, 0])
    with pytest.raises(BadInput, match="a crop of 6 x 4 does not lie on a canvas of 10 x 8"):
        canvas([Pasted(red.expand(3, 4, 6), 5, 1)], 8, 10)
    with pytest.raises(BadInput, match="conditions: none"):
        canvas([], 8, 8)


def test_pictures_around_crops():
    crop = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    how = {"conditions": [Pasted(crop, 8, 4)], "steps": 10, "guidance": 3.0, "cycle": CYCLE}
    out = cyclic_one_way(model(), ["a red circle", "a blue square"], **how)
    assert len(out.images) == 2 and out.recipes[1]["prompt"] == "a blue square" and not out.recipes[1].get("lost")
    assert out.nfe.tolist() == [7 + 2 * 9] * 2
    again = cyclic_one_way(model(), ["a red circle", "a blue square"], **how)
    assert torch.equal(out.latents, again.latents)
    led = cyclic_one_way(model(), "a red circle", **how, suppress="a circle")
    assert led.nfe.tolist() == [7 + 2 * 9 + 2 * 4] and not torch.equal(led.latents, out.latents[:1])
    wide = cyclic_one_way(model(), "a red circle", **how, width=48)
    assert wide.images[0].size == (48, 32)
    each = {**how, "conditions": [how["conditions"], [Pasted(-crop, 0, 0)]]}
    apart = cyclic_one_way(model(), ["a red circle", "a blue square"], **each)
    torch.testing.assert_close(apart.latents[:1], out.latents[:1], atol=1e-3, rtol=1e-3)
    assert not torch.allclose(apart.latents[1], out.latents[1], atol=1e-2)
    assert apart.recipes[0]["canvas"] == out.recipes[0]["canvas"] != apart.recipes[1]["canvas"]


def test_what_is_wrong_is_said():
    for bad in ({"low": 0.8}, {"cycles": -1}, {"last": 0.6}):
        with pytest.raises(BadInput, match="CyclicOneWay"):
            CyclicOneWay(**bad)
    with pytest.raises(BadInput, match=r"give cond.with_alt\(path=Cond"):
        sample(net("unet"), states("unet", 2), sampler=DDIM(), steps=4, cond=conditions("unet", 2), hooks=[CYCLE])
