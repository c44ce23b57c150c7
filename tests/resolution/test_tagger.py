"""Taggers: true pictures are read truly, and tuning brings what is said of degraded ones nearer to the clean ones."""

from __future__ import annotations

import pytest
import torch

from suffuse.core.cond import Cond
from suffuse.core.errors import BadInput
from suffuse.core.fitted import load_method, save_method
from suffuse.core.noise import Keyed
from suffuse.core.training import Batch, Roles
from suffuse.resolution import DegradationAwareTagger, TagReader
from suffuse.resolution.tagger import Consistency
from suffuse.restoration import RealWorld
from suffuse.training import Shuffled
from suffuse.world import batch, parse
from suffuse.zoo.reader import Reader

VIEWS, CAPTIONS = batch("validation", 0, 16)
READER = TagReader.of(Reader.load())


def test_true_pictures_have_the_tags_of_their_captions():
    tags = DegradationAwareTagger(READER)(VIEWS.rgb)
    for hard, caption in zip(tags.hard, CAPTIONS, strict=True):
        assert set(hard) == {f"{o.colour} {o.shape}" for o in caption.objects}
    assert tags.scores.shape == (16, 64) and tags.soft.shape == (16, 16, 128)
    assert ((tags.scores >= 0) & (tags.scores <= 1)).all()


def test_prompts_say_the_tags_in_the_words_of_the_world():
    assert READER.prompt(()) is None
    said = parse(READER.prompt(("red circle", "blue square", "green star")))
    assert [(p.colour, p.shape) for p in said.phrases] == [("red", "circle"), ("blue", "square"), ("green", "star")]


def test_hard_tags_are_the_most_probable_above_the_threshold():
    tags = DegradationAwareTagger(READER, threshold=1e-9, most=3)(VIEWS.rgb)
    for hard, row in zip(tags.hard, tags.scores, strict=True):
        assert [READER.names.index(name) for name in hard] == row.topk(3).indices.tolist()
    assert set(DegradationAwareTagger(READER, threshold=2.0)(VIEWS.rgb).hard) == {()}


def test_nothing_is_seen_in_an_empty_picture_and_batches_are_their_pictures():
    assert DegradationAwareTagger(READER)(torch.zeros(1, 3, 48, 80)).hard == [()]
    whole, alone = (DegradationAwareTagger(READER)(VIEWS.rgb[rows]) for rows in (slice(4), slice(2, 3)))
    torch.testing.assert_close(whole.soft[2:3], alone.soft, atol=1e-5, rtol=1e-4)
    assert whole.hard[2] == alone.hard[0]


def test_the_loss_is_zero_only_where_both_say_the_same():
    def loss(degraded):
        data = Batch(VIEWS.rgb, Cond({"source": degraded}), torch.arange(16))
        return Consistency()(Roles({"model": READER, "teacher": READER}), data, None, None)

    same, other = loss(VIEWS.rgb), loss(VIEWS.rgb.flip(0))
    assert same.terms["soft"].abs().max() == 0.0
    assert (other.terms["soft"] > 0.01).all() and (other.per_sample > same.per_sample).all()


def test_tuning_brings_degraded_pictures_nearer_and_leaves_the_teacher():
    before = {k: v.clone() for k, v in READER.state_dict().items()}
    degraded = RealWorld(4, (1.0, 3.0), (0.05, 0.2)).draw(VIEWS.rgb, Keyed(9), range(16)).y
    source = Shuffled(VIEWS.rgb, Cond({"source": degraded}), 8)
    tuned = DegradationAwareTagger.fit(READER, source, steps=20)
    assert all(torch.equal(v, before[k]) for k, v in READER.state_dict().items())
    wanted = READER(VIEWS.rgb)[1]
    far, near = ((net(degraded)[1] - wanted).square().mean() for net in (READER, tuned.network))
    assert near < 0.9 * far


def test_a_tagger_is_kept_in_a_small_file(tmp_path):
    tagger = DegradationAwareTagger(READER, threshold=0.3, most=2)
    path = save_method(tagger, tmp_path / "tagger.safetensors")
    again = load_method(path)
    assert path.stat().st_size < 2e6 and (again.threshold, again.most) == (0.3, 2)
    assert torch.equal(again(VIEWS.rgb).scores, tagger(VIEWS.rgb).scores)


def test_refusals():
    with pytest.raises(BadInput, match="threshold"):
        DegradationAwareTagger(READER, threshold=0.0)
    with pytest.raises(BadInput, match="most"):
        DegradationAwareTagger(READER, most=0)
