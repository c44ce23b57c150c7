"""What the recipes of the bundled models promise, on untrained or tiny networks."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import CLIPTokenizer

from suffuse.core.files import read_json
from suffuse.loading.sources import BUNDLED
from suffuse.processes.tables import Table
from suffuse.world import describe, parse, sample_scenes, vocabulary
from suffuse.zoo.recipes import digits, flow, recipe, text, vae
from suffuse.zoo.recipes.building import Figure
from suffuse.zoo.recipes.folder import save_vocabulary
from suffuse.zoo.recipes.shapes import NormalLogNoise


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return text.train_tokenizer(vocabulary())


def test_each_word_of_the_world_is_one_token_and_others_are_pieces(tokenizer: CLIPTokenizer) -> None:
    assert all(len(tokenizer.tokenize(word)) == 1 for word in vocabulary())
    pieces = tokenizer.tokenize("turquoise")
    assert len(pieces) > 1 and "".join(pieces) == "turquoise</w>"
    assert tokenizer.unk_token_id not in tokenizer("Größe 42", add_special_tokens=False).input_ids


def test_a_saved_tokenizer_gives_the_same_tokens(tokenizer: CLIPTokenizer, tmp_path) -> None:
    tokenizer.save_pretrained(tmp_path)
    save_vocabulary(tokenizer, tmp_path)
    texts = ["", "a turquoise elephant", *(str(c) for c in describe(sample_scenes(64, 0), 0))]
    assert CLIPTokenizer.from_pretrained(tmp_path)(texts).input_ids == tokenizer(texts).input_ids
    assert (tmp_path / "vocab.json").exists() and (tmp_path / "merges.txt").exists()


def test_tokens_are_padded_with_the_end_token(tokenizer: CLIPTokenizer) -> None:
    ids = text.tokens(tokenizer, ["a red circle", ""])
    assert ids.shape == (2, text.LENGTH)
    assert (ids[0, 4:] == tokenizer.eos_token_id).all() and (ids[1, 1:] == tokenizer.eos_token_id).all()


def test_mirrored_relations_mean_the_same_in_place_order() -> None:
    captions = ("a red circle left of a blue square", "a blue square right of a red circle")
    said = torch.tensor([text.meaning(parse(caption)) for caption in captions])
    ordered = text._ordered(said)
    assert torch.equal(ordered[0], ordered[1]) and not torch.equal(said[0], said[1])


def test_comprehension_trains_every_layer(tokenizer: CLIPTokenizer) -> None:
    from suffuse.core.noise import Keyed
    from suffuse.core.training import Roles

    encoder = text.network(tokenizer)
    nouns = tuple(tokenizer.convert_tokens_to_ids(["circle</w>", "star</w>", "squares</w>"]))
    objective = text.Comprehension(nouns, tokenizer.eos_token_id)
    roles = Roles({"model": encoder})
    loss = objective(roles, text.Captions(tokenizer, size=8)(0), Keyed(0), objective.parts(roles))
    assert loss.per_sample.shape == (8,)
    loss.total.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in encoder.parameters())


def test_normalised_latents_have_unit_variance_and_decode_alike() -> None:
    torch.manual_seed(0)
    network = vae.network().eval()
    pixels = vae.Pictures(size=16)(3).data
    with torch.no_grad():
        before = network.decode(network.encode(pixels).latent_dist.mean).sample
        spread = network.encode(pixels).latent_dist
        relative = spread.std / spread.mean.std((0, 2, 3), keepdim=True)
        vae.normalise(network, pixels)
        posterior = network.encode(pixels).latent_dist
        after = network.decode(posterior.mean).sample
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(posterior.mean.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(posterior.mean.std((0, 2, 3)), torch.ones(4), rtol=1e-3, atol=0)
    torch.testing.assert_close(posterior.std, relative, rtol=1e-3, atol=0)


def test_crops_keep_their_object_in_sight() -> None:
    crops = vae.Pictures(size=16, mapped=0.0)(0).data
    assert crops.shape == (16, 3, 32, 32)
    assert (crops.flatten(2).std(2).amax(1) > 0.02).all()


def test_times_fall_on_the_timesteps_of_the_table() -> None:
    t = NormalLogNoise()(torch.linspace(0, 1, 201, dtype=torch.float64))
    k = t * Table().N
    torch.testing.assert_close(k, k.round(), rtol=0, atol=1e-9)
    assert t.min() >= 1 / Table().N and t.max() <= 1 and (t.diff() >= 0).all()


@pytest.mark.parametrize("n", [1, 7])
def test_one_token_stands_for_n_empty_ones(n: int) -> None:
    torch.manual_seed(0)
    network = flow.network().eval()
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.05 * torch.randn_like(p))
        x, words, pooled = torch.randn(2, 4, 16, 16), torch.randn(2, 5, 256), torch.randn(2, 256)
        t = torch.tensor([500.0, 20.0])
        many = network(x, torch.nn.functional.pad(words, (0, 0, 0, n)), pooled, t, return_dict=False)[0]
        network.set_attn_processor(flow.JointSoftmax())
        keys = {"last_key": torch.full((2, 1, 1, 1), math.log(n))}
        padded = torch.nn.functional.pad(words, (0, 0, 0, 1))
        one = network(x, padded, pooled, t, joint_attention_kwargs=keys, return_dict=False)[0]
    torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-4)


def test_an_epoch_of_digits_shows_each_picture_once() -> None:
    ids = torch.cat([digits.source(step).ids for step in range(1797 // 64)])
    assert len(ids.unique()) == len(ids)
    assert digits.source(0).cond.branch("null")["label"].eq(digits.NULL).all()


@pytest.mark.parametrize("name", ["digits", "reader", "shapes", "shapes-flow"])
def test_a_recipe_measures_as_the_card_says(name: str) -> None:
    card, known = read_json(BUNDLED / name / "card.json"), recipe(name)
    assert {key: card[key] for key in ("summary", "defaults", "protocol")} == {
        "summary": known.summary,
        "defaults": known.defaults,
        "protocol": known.protocol,
    }
    assert card["recipe"].startswith(known.build.__module__) and card["training"]["steps"] == known.steps
    assert all(str(Figure.read(text)) == text for text in card["measured"].values() if "[" in text)
