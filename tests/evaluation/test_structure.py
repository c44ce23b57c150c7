"""Structure distance on the reader's features and on the keys of a ViT."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from transformers import ViTConfig, ViTModel

from suffuse.core.errors import BadInput, Damaged
from suffuse.evaluation import Pictures, StructureDistance, evaluate
from suffuse.evaluation.structure import DINOKeys, PatchFeatures
from suffuse.world import batch


@dataclass(frozen=True)
class Pixels(PatchFeatures):
    """The pixels themselves."""

    name = "pixels"

    def __call__(self, images):
        return images.flatten(2).transpose(1, 2)


def distance(images, references, **settings):
    return evaluate(Pictures(images, (), references), [StructureDistance(**settings)])["structure distance"]


def test_it_is_the_mean_square_of_differences_of_cosines():
    x = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]], [[0.0, 0.0]]]]).repeat(2, 1, 1, 1)  # two places, orthogonal
    y = torch.tensor([[[[1.0, 1.0]], [[0.0, 1.0]], [[0.0, 0.0]]]]).repeat(2, 1, 1, 1)  # at 45 degrees
    assert distance(x, y, features=Pixels()).mean == pytest.approx(2 * 0.5 / 4)
    assert distance(3 * x / 3, x, features=Pixels()).mean == 0.0


def test_the_readers_features_tell_a_moved_object_from_a_recoloured_one():
    views, _ = batch("train", 0, 8)
    moved = distance(views.rgb.roll(16, 3), views.rgb).mean
    assert distance(views.rgb, views.rgb).mean == 0.0
    assert moved > distance(views.rgb[:, [1, 2, 0]], views.rgb).mean > 0.0


def test_the_keys_of_a_vit(tmp_path):
    config = ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=32,
                       patch_size=16)  # fmt: skip
    torch.manual_seed(0)
    model = ViTModel(config, add_pooling_layer=False).eval()
    model.save_pretrained(tmp_path)
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    keys = DINOKeys(str(tmp_path))
    found = keys(images)
    assert found.shape == (2, 14 * 14 + 1, 16) and "last keys of" in keys.name
    block = [m for n, m in model.named_modules() if n.endswith((".key", ".k_proj"))]
    assert len(block) == 2
    assert distance(images, images.flip(3), features=keys).mean > 0.0
    assert distance(images, images, features=keys).mean == 0.0


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(Damaged, match="give a whole ViT folder"):
        DINOKeys(str(tmp_path / "none"))(torch.zeros(1, 3, 8, 8))
    with pytest.raises(BadInput, match="structure distance compares with them"):
        evaluate(Pictures(torch.zeros(2, 3, 64, 64)), [StructureDistance()])
