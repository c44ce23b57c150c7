"""A picture predicted view by view: exact where one view is the whole, and by hand where there are several."""

from __future__ import annotations

import pytest
import torch

from suffuse.core.cond import Cond
from suffuse.core.denoiser import EMPTY, Denoiser
from suffuse.core.engine import sample, trace
from suffuse.core.errors import BadInput
from suffuse.core.prediction import EPS
from suffuse.core.recording import Recorder
from suffuse.core.value import Coef
from suffuse.guidance import CFG, AdaptiveGuidance
from suffuse.processes.continuous import VP
from suffuse.resolution import FSTD, Bell, Cosine, Flat, MultiDiffusion
from suffuse.resolution.tiles import Box
from suffuse.resolution.views import View, ask, cut, overlapping, parted
from suffuse.samplers import DDIM, DPMSolverPP
from suffuse.testing.fixtures import conditions, fixture, states

NET, COND = fixture("unet"), conditions("unet", 2)


def large(n: int = 2, height: int = 8, width: int = 16) -> torch.Tensor:
    return torch.randn(n, 4, height, width, generator=torch.Generator().manual_seed(3))


def run(guidance, x=None, **changes):
    settings = {"sampler": DDIM(), "steps": 2, "cond": COND, "noise": 5, **changes}
    return sample(NET, large() if x is None else x, guidance=guidance, **settings)


class Pointwise(Denoiser):
    """Each entry of its prediction depends on that entry of the state and of the source alone."""

    process = VP()

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, x, t, cond=EMPTY):
        self.asked.append((tuple(x.shape), dict(cond)))
        return self.process.predict(x, Coef(t), torch.sin(x) + (cond["source"] if "source" in cond else 0.0), EPS)


def test_one_view_is_the_plain_run():
    x = states("unet", 2)
    assert torch.equal(run(MultiDiffusion() | CFG(3.0), x).x, run(CFG(3.0), x).x)
    torch.testing.assert_close(run(CFG(3.0) | MultiDiffusion(), x).x, run(CFG(3.0), x).x, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(run(MultiDiffusion()).x, run(None).x)


@pytest.mark.parametrize("method", [
    MultiDiffusion(8), MultiDiffusion(8, weight=Bell()), MultiDiffusion(8, 0.3, Cosine(), jitter=True),
    MultiDiffusion(8, wrap=True), MultiDiffusion(6, 1.0), FSTD(8),
], ids=str)  # fmt: skip
def test_views_of_a_pointwise_network_are_the_plain_run(method):
    net, x = Pointwise(), large(2, 20, 27)
    source = Cond({"source": large(2, 20, 27).flip(0)})
    for sampler in (DDIM(), DPMSolverPP()):
        how = {"sampler": sampler, "steps": 4, "cond": source}
        found, plain = sample(net, x, guidance=method, **how).x, sample(net, x, **how).x
        torch.testing.assert_close(found, plain, atol=1e-3, rtol=1e-5)
    assert max(shape[0] for shape, _ in net.asked) <= 16


def test_two_windows_by_hand():
    recorder = Recorder()
    run(recorder | MultiDiffusion(8))
    halves = [NET(large()[..., k : k + 8], 1.0, COND).value for k in (0, 4, 8)]
    by_hand = torch.cat([halves[0][..., :4], (halves[0][..., 4:] + halves[1][..., :4]) / 2,
                         (halves[1][..., 4:] + halves[2][..., :4]) / 2, halves[2][..., 4:]], -1)  # fmt: skip
    torch.testing.assert_close(recorder.kept["", 0].value, by_hand, atol=1e-5, rtol=1e-5)


def test_guidance_in_views_and_views_in_guidance_agree_where_both_are_linear():
    inside, outside = run(MultiDiffusion(8) | CFG(3.0)), run(CFG(3.0) | MultiDiffusion(8))
    torch.testing.assert_close(inside.x, outside.x, atol=1e-4, rtol=1e-4)
    assert inside.nfe.tolist() == outside.nfe.tolist() == [2 * 3 * 2] * 2


def test_rows_are_on_paths_of_their_own_and_few_at_once():
    recorder = Recorder()
    run(MultiDiffusion(8, batch=4) | CFG(3.0) | recorder)
    assert {p for path, _ in recorder.kept for p in path} == {
        f"tile{k}" + f"/{b}" for k in range(3) for b in ("cond", "null")
    }
    assert max(len(path) for path, _ in recorder.kept) == 4


def test_a_picture_is_alike_in_any_batch():
    method = MultiDiffusion(8, jitter=True, batch=3) | AdaptiveGuidance(0.9) | CFG(3.0)
    x = large(2, 12, 20)
    together = run(method, x)
    for k in range(2):
        alone = run(method, x[k : k + 1], cond=COND[k : k + 1], samples=[k])
        torch.testing.assert_close(alone.x, together.x[k : k + 1], atol=1e-4, rtol=1e-4)
        assert alone.nfe.item() == together.nfe[k]


def test_jitter_moves_windows_and_keeps_everything_covered():
    method = MultiDiffusion(8, 0.5, jitter=True)
    steps = [r.at for r in trace(Pointwise(), large(1, 24, 24), sampler=DDIM(), steps=12) if r.at is not None]
    seen = [method.views((24, 24), (8, 8), at) for at in steps]
    assert len({tuple(v.box for v in views) for views in seen}) == len(seen)
    for views in seen:
        count = torch.zeros(24, 24)
        for view in views:
            assert 0 <= view.box.top <= 16 and 0 <= view.box.left <= 16
            view.box.add(count, view.weight)
        assert count.min() >= 1
    again = method.views((24, 24), (8, 8), steps[3].but(samples=(7,)))
    assert [v.box for v in again] == [v.box for v in seen[3]]


@pytest.mark.parametrize("wrap", [False, True])
def test_no_border_stays_where_windows_jitter(wrap):
    """Not even those of windows at the edges of the picture, which stay there themselves."""
    method = MultiDiffusion(8, 0.5, jitter=True, wrap=wrap)
    steps = [r.at for r in trace(Pointwise(), large(1, 16, 16), sampler=DDIM(), steps=12) if r.at is not None]
    for views in zip(*(method.views((16, 16), (8, 8), at) for at in steps), strict=True):
        assert len({(v.box.top, int(v.weight.sum(1).count_nonzero())) for v in views}) > 1
        assert len({(v.box.left, int(v.weight.sum(0).count_nonzero())) for v in views}) > 1


def test_a_box_goes_on_at_the_other_edge_and_skips():
    picture = torch.arange(36.0).reshape(1, 1, 6, 6)
    assert Box(5, 4, 2, 3).of(picture).tolist() == [[[[34, 35, 30], [4, 5, 0]]]]
    assert Box(1, 0, 3, 3, every=2).of(picture).tolist() == [[[[6, 8, 10], [18, 20, 22], [30, 32, 34]]]]
    assert torch.equal(Box(1, 2, 2, 3).of(picture.repeat_interleave(2, -1).repeat_interleave(2, -2), 2)[..., ::2, ::2],
                       Box(1, 2, 2, 3).of(picture))  # fmt: skip
    assert Box(1, 0, 2, 3, every=2).of(torch.arange(144).reshape(1, 1, 12, 12), 2).shape == (1, 1, 4, 6)


def test_the_condition_of_a_view():
    cond = Cond(
        {"time_ids": torch.tensor([[64.0, 128, 0, 0, 64, 128]]), "source": large(1), "fine": large(1, 32, 64),
         "resolution": torch.tensor([[64.0, 128.0]]), "aspect_ratio": torch.tensor([[0.5]]),
         "text": torch.zeros(1, 5, 4)},
        {"tile1": Cond({"text": torch.ones(1, 5, 4)}), "null": Cond({"source": large(1)})},
    )  # fmt: skip
    told = cut(cond, View("tile1", Box(0, 4, 8, 8), torch.ones(8, 8)), (8, 16))
    assert told["time_ids"].tolist() == [[64, 128, 0, 32, 64, 128]]
    assert torch.equal(told["source"], cond["source"][..., 4:12]) and torch.equal(
        told["fine"], cond["fine"][..., 16:48]
    )
    assert told["resolution"].tolist() == [[64, 64]] and told["aspect_ratio"].tolist() == [[1]]
    assert told["text"].mean() == 1 and torch.equal(told.alt["null"]["source"], cond["source"][..., 4:12])
    assert torch.equal(cond["time_ids"][:, 2:4], torch.zeros(1, 2))


def test_views_of_their_own_prompts():
    other = conditions("unet", 3)[1:]
    recorder = Recorder()
    run(recorder | MultiDiffusion(8, 1.0), cond=COND.with_alt(tile1=Cond({"text": other["text"]})))
    found = recorder.kept[("", 0)].value
    torch.testing.assert_close(found[..., 8:], NET(large()[..., 8:], 1.0, COND | {"text": other["text"]}).value)
    torch.testing.assert_close(found[..., :8], NET(large()[..., :8], 1.0, COND).value)


def test_windows_cover_and_parts_divide():
    assert overlapping(16, 8, 4) == [0, 4, 8] and overlapping(17, 8, 8) == [0, 8, 9] and overlapping(8, 8, 4) == [0]
    assert overlapping(16, 8, 4, wrap=True) == [0, 4, 8, 12]
    assert parted(20, 8, 3) == [(0, 3), (3, 11), (11, 19), (19, 20)] and parted(16, 8, 0) == [(0, 8), (8, 16)]


def test_views_of_different_sizes_are_asked_apart():
    views = [View("a", Box(0, 0, 8, 8), torch.ones(8, 8)), View("b", Box(0, 8, 8, 4), torch.ones(8, 4)),
             View("c", Box(0, 8, 8, 8), torch.ones(8, 8))]  # fmt: skip
    net, x = Pointwise(), large()

    class Probe(MultiDiffusion):
        def __call__(self, predict, x, t, cond, at):
            parts = ask(predict, x, t, cond, views, 16)
            assert all(torch.equal(p.x, v.box.of(x)) for p, v in zip(parts, views, strict=True))
            return predict(x, t, cond)

    sample(net, x, sampler=DDIM(), steps=1, guidance=Probe())
    assert sorted(shape for shape, _ in net.asked) == [(2, 4, 8, 4), (2, 4, 8, 16), (4, 4, 8, 8)]


def test_refusals():
    with pytest.raises(BadInput, match="stride=0"):
        MultiDiffusion(stride=0.0)
    with pytest.raises(BadInput, match="size"):
        sample(Pointwise(), large(), sampler=DDIM(), steps=1, guidance=MultiDiffusion())


def test_weights():
    assert Flat()(2, 3).tolist() == [[1.0] * 3] * 2
    half = Cosine().profile(8)
    torch.testing.assert_close(half[:4] + half[4:], torch.ones(4))
    assert Bell(0.5).profile(3).tolist() == pytest.approx([0.1353, 1.0, 0.1353], abs=1e-4)


def test_moving_tiles_cover_everything_once_and_cost_no_overlap():
    steps = [r.at for r in trace(Pointwise(), large(1, 24, 20), sampler=DDIM(), steps=8) if r.at is not None]
    for at in steps:
        count = torch.zeros(24, 20)
        views = FSTD().views((24, 20), (8, 8), at)
        for view in views:
            assert 0 <= view.box.top <= 16 and 0 <= view.box.left <= 12
            view.box.add(count, view.weight)
        assert torch.equal(count, torch.ones(24, 20)) and len(views) <= 16
    fixed = FSTD(moving=False).views((24, 16), (8, 8), steps[0])
    assert len(fixed) == 6 and all(bool((v.weight == 1).all()) for v in fixed)
    assert len({tuple(v.box for v in FSTD().views((24, 20), (8, 8), at)) for at in steps}) == len(steps)
