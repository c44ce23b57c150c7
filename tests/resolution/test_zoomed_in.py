"""Enlarging by windows that are read: any size, prompts encoded once, nothing said of empty windows."""

from __future__ import annotations

import pytest
import torch

import suffuse
from suffuse.adapters import EncodedInput
from suffuse.core.errors import BadInput, Refused
from suffuse.core.noise import Keyed
from suffuse.layout import ControlNet
from suffuse.personalization import ImagePrompt
from suffuse.resolution import DegradationAwareTagger, LocalPrompts, TagReader, ZoomedIn
from suffuse.restoration import adain
from suffuse.restoration.degradation import enlarge
from suffuse.world import batch
from suffuse.zoo.reader import Reader

MODEL = suffuse.load("shapes")
TAGGER = DegradationAwareTagger(TagReader.of(Reader.load()))


def branches():
    """A control branch and an attention that do something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = ControlNet(widths=(4, 4, 8)).on(MODEL.denoiser), ImagePrompt("soft").on(MODEL.denoiser)
        for p in (p for branch in made for p in branch.parameters()):
            p.data += 0.02 * torch.randn(p.shape)
    return made


CONTROL, SOFT = branches()
VIEW = MODEL.with_(CONTROL, SOFT)
PICTURES = batch("validation", 0, 2)[0].rgb


def zoomed(pictures=PICTURES, model=VIEW, tagger=TAGGER, noise=3, samples=None, **how):
    made = ZoomedIn(model, tagger, **{"factor": 1.5, "steps": 1, **how})
    return made(pictures, noise=noise, samples=samples)


def test_any_size_and_proportions():
    for size, factor, windows in (((10, 30), 4.0, (1, 3)), ((64, 64), 1.0, (1, 1)), ((40, 33), 2.5, (3, 2))):
        found = zoomed(torch.rand(1, 3, *size) * 2 - 1, factor=factor)
        assert found.pictures.shape == (1, 3, round(size[0] * factor), round(size[1] * factor))
        assert found.pictures.isfinite().all() and found.pictures.abs().max() <= 1
        assert found.tags.scores.shape[1:3] == windows == (len(found.tags.boxes), len(found.tags.boxes[0]))


def test_a_picture_in_a_batch_is_what_it_is_alone():
    both, alone = zoomed(), zoomed(PICTURES[1:], samples=[1])
    torch.testing.assert_close(both.pictures[1:], alone.pictures, atol=2e-4, rtol=1e-3)
    assert both.tags.hard[1] == alone.tags.hard[0]


def test_the_map_says_what_each_window_shows():
    found = zoomed(PICTURES[:1], factor=2.0)
    large = enlarge(PICTURES[:1], 2)
    assert [b.left for b in found.tags.boxes[0]] == [0, 32, 64]
    for boxes, row in zip(found.tags.boxes, found.tags.hard[0], strict=True):
        assert row == [TAGGER(box.of(large)).hard[0] for box in boxes]


def test_prompts_are_encoded_once_and_few_windows_are_asked_at_a_time():
    encoded, asked = [], []
    hooks = [
        VIEW.conditioner.components["text_encoder"].register_forward_hook(lambda m, a, out: encoded.append(1)),
        VIEW.net.register_forward_hook(lambda m, a, out: asked.append(len(a[0]))),
    ]
    counts = []
    for steps in (1, 2):
        zoomed(PICTURES[:1], factor=2.0, steps=steps, windows=LocalPrompts(batch=4))
        counts.append((len(encoded), len(asked)))
        encoded.clear(), asked.clear()
    for hook in hooks:
        hook.remove()
    assert counts[1] == (counts[0][0], 2 * counts[0][1])


def test_windows_without_tags_have_no_prompt():
    silent = DegradationAwareTagger(TAGGER.network, threshold=2.0)
    found = zoomed(tagger=silent, guidance=suffuse.guidance.CFG(7.0), model=MODEL.with_(CONTROL))
    plain = zoomed(tagger=silent, guidance=suffuse.guidance.CFG(1.0), model=MODEL.with_(CONTROL))
    assert {tags for picture in found.tags.hard for row in picture for tags in row} == {()}
    torch.testing.assert_close(found.pictures, plain.pictures, atol=1e-4, rtol=1e-3)  # guidance has nothing to lead to


def test_one_prompt_for_all_is_read_from_the_whole():
    found = zoomed(factor=2.0, local=False)
    whole = TAGGER(enlarge(PICTURES, 2))
    for picture, hard in zip(found.tags.hard, whole.hard, strict=True):
        assert {tags for row in picture for tags in row} == {hard}
    assert not torch.equal(found.pictures, zoomed(factor=2.0).pictures)


def test_soft_embeddings_reach_models_that_read_them():
    with_soft, without = zoomed(), zoomed(model=MODEL.with_(CONTROL))
    assert not torch.equal(with_soft.pictures, without.pictures)
    assert torch.equal(zoomed(model=MODEL.with_(CONTROL, SOFT.scaled(0.0))).pictures, without.pictures)


def test_windows_are_encoded_by_themselves():
    wide = EncodedInput(4).on(MODEL.denoiser)
    torch.nn.init.normal_(wide.parts[0].weight, generator=torch.Generator().manual_seed(1))
    model = MODEL.with_(wide)
    whole, half = (zoomed(v, model, factor=1.0, windows=LocalPrompts(stride=1.0), colours=None) for v in
                   (torch.cat([PICTURES, PICTURES.flip(0)], 3), PICTURES))  # fmt: skip
    assert whole.tags.scores.shape[1:3] == (1, 2) and whole.pictures.shape[3] == 128
    blind = zoomed(0 * PICTURES, model, factor=1.0, colours=None)
    assert (blind.pictures - half.pictures).abs().max() > 0.1


def test_colours_are_those_of_the_degraded_picture():
    fixed, plain = zoomed(factor=1.0, colours=adain), zoomed(factor=1.0, colours=None)
    errors = [(f.pictures.mean((2, 3)) - PICTURES.mean((2, 3))).abs().max() for f in (fixed, plain)]
    assert errors[0] < 0.3 * errors[1]


def test_seeds_repeat():
    assert torch.equal(zoomed().pictures, zoomed(noise=Keyed(3)).pictures)
    assert not torch.equal(zoomed().pictures, zoomed(noise=4).pictures)


def test_refusals():
    with pytest.raises(Refused, match="degraded picture"):
        ZoomedIn(MODEL, TAGGER)
    with pytest.raises(BadInput, match="factor"):
        ZoomedIn(VIEW, TAGGER, factor=0.5)
    with pytest.raises(BadInput, match="shape"):
        zoomed(PICTURES[0])
