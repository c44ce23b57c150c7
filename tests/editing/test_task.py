"""`edit` on whole models: prompts and pictures in, pictures out."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import suffuse
from suffuse.conditioning import Switch, Weighted
from suffuse.core.errors import BadInput, Refused
from suffuse.editing import DirectInversion, LocalBlend, MasaCtrl, PromptToPrompt, SDEdit, edit, edit_direction
from suffuse.guidance import CFG
from suffuse.images import to_pil, to_tensor
from suffuse.loading.pipelines import assemble
from suffuse.samplers import DDIM, DDPM
from suffuse.testing import pipelines


@cache
def model(kind="stable_diffusion"):
    pipe = getattr(pipelines, kind)()
    return assemble(
        type(pipe).__name__, pipe.components, {"_class_name": type(pipe.scheduler).__name__, **pipe.scheduler.config}
    )


def picture(k=0, size=64):
    return torch.rand(3, size, size, generator=torch.Generator().manual_seed(k)) * 2 - 1


def changed(**more):
    return edit(model(), picture(), "a red circle", "a blue circle", **{"steps": 4, "guidance": 3.0, **more})


def test_a_picture_is_edited_and_reconstructed():
    out = changed()
    x0 = model().encode(picture())
    assert len(out.images) == 1 and out.images[0].size == (64, 64)
    assert float((out.decoded.source - x0).abs().max()) < 1e-5
    assert not torch.allclose(out.decoded.target, x0, atol=1e-2)
    assert out.decoded.nfe.tolist() == [4 * 4]


def test_the_prompts_words_are_found_by_the_models_own_tokenizer():
    """A blend of the only changed word, from the tokenizer's spans, is not the plain edit."""
    plain, blended = changed(), changed(editor=[PromptToPrompt(), LocalBlend(threshold=0.99)])
    assert not torch.equal(plain.decoded.target, blended.decoded.target)


def test_a_code_edits_again_without_the_picture():
    first = changed()
    again = edit(model(), None, "a red circle", "a blue circle", inversion=first.code, steps=4, guidance=3.0)
    assert torch.equal(again.decoded.target, first.decoded.target)
    other = edit(model(), None, "a red circle", "a blue square", inversion=first.code, steps=4, guidance=5.0)
    assert torch.allclose(other.decoded.source, first.decoded.source, atol=1e-5)


def test_several_pictures_at_once_are_what_they_are_alone():
    images = torch.stack([picture(0), picture(1)])
    both = edit(model(), images, ["a red circle"] * 2, ["a blue circle", "a blue square"], steps=3)
    alone = edit(model(), picture(1), "a red circle", "a blue square", steps=3)
    assert torch.allclose(both.decoded.target[1:], alone.decoded.target, atol=1e-3)


def test_files_and_pil_images_go_in(tmp_path):
    out = changed(steps=2)
    out.images[0].save(tmp_path / "a.png")
    again = edit(model(), tmp_path / "a.png", "a red circle", "a blue circle", steps=2)
    assert torch.equal(to_tensor(tmp_path / "a.png"), to_tensor(out.images[0])) and len(again.images) == 1


@pytest.mark.parametrize("kind", ["stable_diffusion_3", "flux"])
def test_masactrl_on_flow_models(kind):
    editors = [MasaCtrl(0.0, 0.0)]
    out = edit(model(kind), picture(), "a red circle", "a red square", steps=3, guidance=3.0, editor=editors)
    x0 = model(kind).encode(picture())
    assert float((out.decoded.source - x0).abs().max()) < 1e-5
    assert torch.isfinite(out.decoded.target).all() and not torch.allclose(out.decoded.target, x0, atol=1e-2)


def test_seeds_matter_to_sdedit_alone():
    assert torch.equal(changed(seed=1).decoded.target, changed(seed=2).decoded.target)
    assert not torch.equal(*(changed(inversion=SDEdit(0.5), seed=s).decoded.target for s in (1, 2)))


def test_the_models_own_method_and_prompt_values():
    """The method is the function; a prompt that changes from the first step on is what it changes to."""
    words = ("a red circle", "a blue circle")
    by_method = model().edit(picture(), *words, steps=3, guidance=3.0, editor=[])
    by_function = edit(model(), picture(), *words, steps=3, guidance=3.0, editor=())
    assert torch.equal(by_method.decoded.target, by_function.decoded.target)
    said = [Weighted(words[0]), Switch("a", words[1], when=0.0)]
    again = model().edit(picture(), *said, steps=3, guidance=3.0, editor=[], negative_prompt=Switch("", "a", 1.0))
    assert torch.allclose(again.decoded.target, by_method.decoded.target, atol=1e-5)
    assert again.recipes[0]["source"] == {"expression": "Weighted(text='a red circle')"}
    other = model().edit(picture(), words[0], Switch(*words), steps=3, guidance=3.0)
    assert not torch.allclose(other.decoded.target, by_method.decoded.target, atol=1e-3)


def test_edits_are_saved_with_their_recipes(tmp_path):
    out = edit(model(), torch.stack([picture(0), picture(1)]), ["a", "a red circle"], ["b", "a blue circle"], steps=2)
    files = out.save(tmp_path)
    again = suffuse.replay(files[1], model=model(), image=picture(1))
    assert torch.allclose(again.decoded.target, out.decoded.target[1:], atol=1e-3)
    with pytest.raises(BadInput, match="this is not the one"):
        suffuse.replay(files[1], model=model(), image=picture(0))
    assert edit(model(), None, "a", "b", inversion=out.code[:1], steps=2).recipes[0]["lost"] == ["inversion: Code"]


@pytest.mark.parametrize("how", [{"inversion": SDEdit(0.7)}, {"sampler": DDPM()}])
def test_with_noise_a_picture_of_a_batch_is_what_it_is_alone_and_is_made_again(how, tmp_path):
    run = {"steps": 4, "guidance": 3.0, "editor": [], "seed": 2, **how}
    out = edit(model(), torch.stack([picture(0), picture(1)]), ["a", "a red circle"], ["b", "a blue circle"], **run)
    alone = edit(model(), picture(1), "a red circle", "a blue circle", samples=[1], **run)
    other = edit(model(), picture(1), "a red circle", "a blue circle", **run)
    assert torch.allclose(alone.decoded.target, out.decoded.target[1:], atol=1e-3)
    assert not torch.allclose(other.decoded.target, out.decoded.target[1:], atol=1e-1)
    again = suffuse.replay(out.save(tmp_path)[1], model=model(), image=picture(1))
    assert torch.allclose(again.decoded.target, out.decoded.target[1:], atol=1e-3)


def test_an_edit_of_a_picture_of_an_odd_size_is_made_again(tmp_path):
    photograph = to_pil(picture(3, 40)[None])[0].resize((37, 50))
    out = edit(model(), photograph, "a", "b", steps=2)
    assert out.images[0].size == (36, 48)
    again = suffuse.replay(out.save(tmp_path / "a.png")[0], model=model(), image=photograph)
    assert torch.equal(again.decoded.target, out.decoded.target)


def test_an_edit_direction_is_a_difference_of_prompts():
    direction = edit_direction(model(), ["a red circle", "a red square"], ["a blue circle", "a blue square"])
    a, b = model().condition(["a red circle", "a red square"]), model().condition(["a blue circle", "a blue square"])
    assert torch.allclose(direction, (b["text"] - a["text"]).mean(0), atol=1e-6)


def test_arguments_that_do_not_match():
    with pytest.raises(BadInput, match="1 and 2 prompts for 1 pictures"):
        edit(model(), picture(), "a red circle", ["a", "b"])
    with pytest.raises(BadInput, match="give pictures with an inverter, or None with a code"):
        edit(model(), None, "a red circle", "a blue circle")
    with pytest.raises(BadInput, match="give pictures with an inverter, or None with a code"):
        changed(inversion=changed(steps=1).code)
    for more in ({"inversion": CFG(3.0)}, {"editor": [DDIM()]}, {"sampler": DirectInversion()}):
        with pytest.raises(BadInput, match="is no"):
            changed(**more)
    for name, value in (("guidance", float("nan")), ("guidance", "5"), ("seed", "x")):
        with pytest.raises(BadInput, match=f"{name}="):
            changed(**{name: value})
    with pytest.raises(Refused, match="fitted for times"):
        edit(model(), None, "a red circle", "a blue circle", inversion=changed(steps=2).code, steps=3)
    with pytest.raises(Refused, match="no cross-attention"):
        edit(model("stable_diffusion_3"), picture(), "a circle", "a square", editor=PromptToPrompt(), steps=2)


def test_the_usual_editors_are_those_for_the_network_and_for_what_is_pointed_at():
    def editors(kind="stable_diffusion", **pointed):
        out = edit(model(kind), picture(), "a red circle", "a blue circle", steps=2, **pointed)
        return [said.split("(")[0] for said in out.recipes[0]["editor"]]

    mask, points = torch.ones(1, 1, 64, 64), [(20, 20, 30, 30)]
    assert editors() == ["PromptToPrompt"] and editors("stable_diffusion_3") == ["MasaCtrl"]
    assert editors(mask=mask) == ["PromptToPrompt", "KeepOutside"]
    with pytest.raises(Refused, match="FeatureProbe"):  # of RegionEnergy, which this network is too small for
        editors(mask=mask, points=points)
