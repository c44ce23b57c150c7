"""Attention editors: what they carry from source to target, where, when, and with every inverter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from suffuse.core.errors import BadInput, Refused
from suffuse.core.hook import Hook
from suffuse.core.patch import Patch
from suffuse.editing import (
    DDIMInversion,
    DirectInversion,
    LocalBlend,
    MasaCtrl,
    Pix2PixZero,
    PlugAndPlay,
    PromptToPrompt,
    Reweight,
    SDEdit,
    decode,
)
from suffuse.editing.words import alignment, labels
from suffuse.guidance.cfg import CFG

from .editing_toys import Seen, close, net, pictures, plan, prompts

BLEND = LocalBlend(threshold=0.98)
"""The maps of a network with random weights are nearly even."""

EDITORS = [PromptToPrompt(), PromptToPrompt(swap=True), MasaCtrl(0.2, 0.3), PlugAndPlay(), BLEND, Pix2PixZero()]
HOMES = {  # on which fixtures each kind of editor runs
    PromptToPrompt: ("unet", "unet-sdxl", "pixart"),
    LocalBlend: ("unet", "pixart"),
    Pix2PixZero: ("unet",),
    MasaCtrl: ("unet", "pixart", "sd3", "flux"),
    PlugAndPlay: ("unet", "unet-sdxl", "pixart", "sd3"),
}
WHERE = [(name, editor) for editor in EDITORS for name in HOMES[type(editor)]]


def run(name, *editors, inversion=DirectInversion(), guidance=CFG(3.0), same=False):
    a, b = prompts(name, same=same)
    p = plan(name, guidance)
    return decode(p, inversion.encode(p, pictures(name), a), a, b, editors)


def observed(name, *editors):
    """What attention used in a run: (step, site, what) -> rows, site, tensors."""
    seen = Seen({})
    run(name, *editors, seen)
    return seen.found


@pytest.mark.parametrize("name, editor", WHERE)
def test_equal_prompts_give_the_source_back(name, editor):
    a, _ = prompts(name)
    p = plan(name)
    out = decode(p, DDIMInversion().encode(p, pictures(name), a), a, a, [editor])
    assert close(out.target, out.source)


@pytest.mark.parametrize("name, editor", WHERE)
def test_an_edit_changes_the_target_and_leaves_the_source(name, editor):
    plain, edited = run(name), run(name, editor)
    assert close(edited.source, plain.source)
    assert not close(edited.target, plain.target, 1e-4)


@pytest.mark.parametrize("inverter", [DDIMInversion(), SDEdit(0.6)])
@pytest.mark.parametrize("editor", EDITORS)
def test_every_editor_runs_with_every_inverter(inverter, editor):
    out = run("unet", editor, inversion=inverter)
    assert torch.isfinite(out.target).all() and not close(out.target, out.source, 1e-3)


@pytest.mark.parametrize("editor", EDITORS)
def test_pairs_do_not_touch_each_other(editor):
    a, b = prompts("unet")
    p = plan("unet")
    code = DirectInversion().encode(p, pictures("unet"), a)
    both, alone = decode(p, code, a, b, [editor]), decode(p, code[1:], a[1:], b[1:], [editor])
    assert close(both.target[1:], alone.target, 1e-4)


def test_cross_attention_of_shared_words_is_the_sources_in_the_first_steps():
    found = observed("unet", PromptToPrompt(0.4, 0.0))
    plain = observed("unet")
    names = [labels(c, 0, 5, "test") for c in prompts("unet")]
    _, taken = alignment(*names)
    for (i, name, what), entry in found.items():
        if what != "probs" or entry[1].role != "cross":
            continue
        rows, _, p = entry
        source, target, null = (p[rows.index(row)] for row in (("cond", 0), ("cond", 2), ("null", 2)))
        if i < 2:
            assert torch.equal(target[..., taken], source[..., taken])
            assert not torch.equal(target[..., ~taken], source[..., ~taken])
        else:
            assert not torch.equal(target[..., taken], source[..., taken])
        if i == 0:
            assert torch.equal(null, plain[i, name, what][2][rows.index(("null", 2))])


def test_self_attention_is_the_sources_in_the_first_steps():
    found = observed("unet", PromptToPrompt(0.0, 0.6))
    for (i, _, what), entry in found.items():
        if what == "probs" and entry[1].role == "self":
            rows, _, p = entry
            assert torch.equal(p[rows.index(("cond", 2))], p[rows.index(("cond", 0))]) == (i < 3)
            assert not torch.equal(p[rows.index(("null", 2))], p[rows.index(("null", 0))]) or i == 0


def test_a_word_is_reweighted_in_the_target_alone():
    plain, found = observed("unet"), observed("unet", Reweight("blue", 3.0))
    for key, entry in found.items():
        if key[0] == 0 and key[2] == "probs" and entry[1].role == "cross":
            (rows, _, p), before = entry, plain[key][2]
            factor = torch.ones_like(p)
            factor[rows.index(("cond", 2)), :, :, 2] = 3.0
            factor[rows.index(("cond", 3)), :, :, 2] = 3.0
            assert torch.allclose(p, before * factor)
            break
    else:
        pytest.fail("no cross-attention was seen")


def test_a_word_that_no_target_has_is_bad_input():
    with pytest.raises(BadInput, match=r"Reweight\(word='red'\): no target prompt has this word"):
        run("unet", Reweight("red", 2.0))


@pytest.mark.parametrize("name", ["unet", "pixart", "sd3", "flux"])
def test_masactrl_gives_the_target_keys_and_values_of_the_sources_image(name):
    editor = MasaCtrl(0.4, 0.5)
    sites = {s.name for s in editor.sites(net(name).sites)}
    everywhere = [s.name for s in net(name).sites.attention() if s.role != "cross"]
    assert 0 < len(sites) < len(everywhere) and everywhere[-1] in sites and everywhere[0] not in sites
    for (i, site_name, what), entry in observed(name, editor).items():
        if what != "qkv" or entry[1].role == "cross":
            continue
        rows, site, q, k, v, image = entry
        source, target = rows.index(("null", 1)), rows.index(("null", 3))
        acts = site_name in sites and i >= 2
        assert torch.equal(k[source][:, image], k[target][:, image]) == acts or i == 0
        assert torch.equal(v[source][:, image], v[target][:, image]) == acts or i == 0
        if acts:
            assert not torch.equal(q[source], q[target])
            if site.role == "joint":  # text stays the target's own, once prompts tell the rows apart
                text = k[rows.index(("cond", 1))], k[rows.index(("cond", 3))]
                own = torch.ones(k.shape[2], dtype=torch.bool)
                own[image] = False
                assert not torch.equal(text[0][:, own], text[1][:, own])


@pytest.mark.parametrize("name", ["unet", "sd3"])
def test_plug_and_play_takes_features_and_maps_from_its_layer_on(name):
    editor = PlugAndPlay(features=0.8, attention=0.4, layer=0.34)
    feature, *attention = editor.sites(net(name).sites)
    assert feature.note == "feature" and attention and all(s.depth >= feature.depth for s in attention)
    taken = {s.name for s in attention}
    for (i, site_name, what), entry in observed(name, editor).items():
        if what == "qkv" and site_name in taken and i > 0:
            rows, _, q, k, v, image = entry
            source, target = rows.index(("cond", 0)), rows.index(("cond", 2))
            for x in (q, k):
                assert torch.equal(x[source][:, image], x[target][:, image]) == (i < 2)


def test_plug_and_play_on_stable_diffusion_is_at_the_papers_layers():
    """12 decoder resnets: layer 4 is up_blocks.1.resnets.1, and attention from up_blocks.1.attentions.1 on."""
    from diffusers import UNet2DConditionModel

    from suffuse.backbones import family_of

    unet = UNet2DConditionModel(
        block_out_channels=(8, 8, 8, 8), norm_num_groups=4, cross_attention_dim=8, attention_head_dim=2
    )
    sites = family_of(unet).sites(unet)
    feature, *attention = PlugAndPlay().sites(sites)
    assert feature.name == "up_blocks.1.resnets.1.conv2"
    assert [s.name.split(".transformer")[0] for s in attention] == [
        "up_blocks.1.attentions.1", "up_blocks.1.attentions.2",
        *(f"up_blocks.{k}.attentions.{j}" for k in (2, 3) for j in range(3)),
    ]  # fmt: skip
    masa = MasaCtrl().sites(sites)
    assert len(masa) == 6 and masa[0].name.startswith("up_blocks.2.attentions.0")


def test_local_blend_keeps_the_source_where_the_words_are_not():
    a, b = prompts("unet")
    p = plan("unet")
    code = DirectInversion().encode(p, pictures("unet"), a)
    half, all_, none = (decode(p, code, a, b, [LocalBlend(threshold=t)]) for t in (0.98, -1.0, 1.0))
    kept = (half.target == half.source).all(1)
    assert 0.0 < kept.float().mean() < 1.0
    assert close(none.target, none.source) and close(all_.target, decode(p, code, a, b).target)


def test_local_blend_of_named_words():
    named, other = (run("unet", replace(BLEND, words=words)) for words in (("red", "blue"), ("circle",)))
    assert torch.equal(named.target, run("unet", BLEND).target)
    assert not torch.equal(named.target, other.target)


def test_local_blend_starts_late():
    assert close(run("unet", replace(BLEND, start=1.0)).target, run("unet").target)


def test_pix2pix_zero_brings_the_maps_of_the_target_nearer():
    def gap(rate: float) -> float:
        total = 0.0
        for (i, _, what), entry in observed("unet", Pix2PixZero(rate)).items():
            if what == "probs" and i == 0 and entry[1].role == "cross":
                rows, _, p = entry
                for k in (0, 1):
                    total += float((p[rows.index(("cond", 2 + k))] - p[rows.index(("cond", k))]).square().sum())
        return total

    assert gap(0.02) < gap(0.01) < gap(0.0)


def test_pix2pix_zero_leaves_no_gradients_behind():
    run("unet", Pix2PixZero())
    assert all(p.grad is None for p in net("unet").parameters())


@pytest.mark.parametrize("editor", [PromptToPrompt(), Reweight("blue"), LocalBlend(), Pix2PixZero()])
def test_word_editors_are_refused_where_words_have_no_attention_of_their_own(editor):
    with pytest.raises(Refused, match="no cross-attention"):
        run("sd3", editor)


def test_masactrl_and_plug_and_play_need_self_attention():
    from suffuse.core.site import Site, Sites

    for editor in (MasaCtrl(), PlugAndPlay()):
        with pytest.raises(Refused, match="no self-attention"):
            editor.sites(Sites([Site("", None, "root")]))


@pytest.mark.parametrize("make", [lambda: MasaCtrl(layer=1.0), lambda: PlugAndPlay(features=2.0)])
def test_numbers_out_of_range(make):
    with pytest.raises(BadInput):
        make()


def test_editors_are_patches_or_hooks_that_couple_the_batch():
    from suffuse.core.plugin import Needs

    for editor in (*EDITORS, Reweight("blue")):
        assert isinstance(editor, Patch | Hook) and Needs.COUPLES in editor.needs
