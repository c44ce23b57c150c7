"""RAU-Net and windows: the strided convolution, identities, odd sizes, shifts, adapters, caches."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel

from suffuse import Cond, sample
from suffuse.adapters import LoRA
from suffuse.backbones import family_of
from suffuse.caching import DeepCache
from suffuse.core.denoiser import Network
from suffuse.core.errors import BadInput, Refused
from suffuse.core.patch import Patch
from suffuse.core.prediction import EPS
from suffuse.guidance import CFG
from suffuse.processes import Table
from suffuse.resolution import MSWMSA, RAUNet, VariableSize
from suffuse.resolution.window_attention import windows
from suffuse.samplers import DDIM
from suffuse.testing.fixtures import conditions, fixture, states

STRIDED, POOLED = RAUNet(strided=(0.0, 1.0), pooled=(0.0, 0.0)), RAUNet(strided=(0.0, 0.0), pooled=(0.0, 1.0))
BOTH = RAUNet(strided=(0.0, 1.0), pooled=(0.0, 1.0))


def run(name, size, *patches, n=2, steps=5, denoiser=None, **more):
    x = states(name, n, size=size)
    settings = {"sampler": DDIM(), "steps": steps, "noise": 3, "cond": conditions(name, n), **more}
    return sample(denoiser or fixture(name), x, patches=patches, **settings).x


class Sides(Patch):
    """Keeps the sides of what enters units and self-attention."""

    def __init__(self):
        self.seen = {}

    def sites(self, net):
        return [*(s for s in net.units if s.role in ("resnet", "transformer", "down", "up")), *net.attention("self")]

    def around(self, call):
        self.seen.setdefault(call.site.name, []).append(tuple(call["image"].shape))
        return call()


def test_every_second_place_is_the_strided_dilated_convolution():
    down = fixture("unet").net.down_blocks[0].downsamplers[0]
    for size in (7, 8, 9, 10):
        h = torch.randn(1, 8, size, 2 * size)
        strided = F.conv2d(h, down.conv.weight, down.conv.bias, stride=4, padding=2, dilation=2)
        torch.testing.assert_close(down(h[..., ::2, ::2]), strided)


@pytest.mark.parametrize("name", ["unet", "unet-sdxl", "unet-class"])
def test_the_native_size_is_bit_identical(name):
    assert torch.equal(run(name, 8, RAUNet(), MSWMSA()), run(name, 8))


def test_each_part_alone_and_neither():
    plain = run("unet", 16)
    made = [run("unet", 16, *p) for p in ((RAUNet(),), (MSWMSA(),), (RAUNet(), MSWMSA()))]
    assert all(not torch.equal(plain, m) for m in made)
    assert not torch.equal(made[0], made[2]) and not torch.equal(made[1], made[2])
    assert torch.equal(run("unet", 16, RAUNet().neutral(), MSWMSA().neutral()), plain)


def test_stages_follow_the_step_and_the_size():
    for size, steps in ((16, [4, 4, 8, 8, 8]), (12, [3, 3, 6, 6, 6]), (32, [4, 4, 8, 8, 16])):
        sides = Sides()
        run("unet", size, RAUNet(), sides, n=1)
        middle = [shape[-1] for shape in sides.seen["mid_block.resnets.0"]]
        assert middle == steps, size
    sides = Sides()
    run("unet", 16, RAUNet(level=0).during(0.2, 0.4), sides, n=1)
    assert [s[-1] for s in sides.seen["mid_block.resnets.0"]] == [8, 4, 8, 8, 8]


def test_the_first_stage_is_at_the_outermost_level_that_attends():
    """SDXL's outermost level has no attention; its network strides one level further in, with the stages exchanged."""
    types = {
        "SD1": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "SDXL": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "none": ("DownBlock2D",) * 3,
    }
    found = {}
    for name, down in types.items():
        up = tuple(kind.replace("Down", "Up") for kind in down[::-1])
        net = UNet2DConditionModel(
            sample_size=8, block_out_channels=(8, 8, 8), layers_per_block=1, cross_attention_dim=8, norm_num_groups=4,
            attention_head_dim=4, down_block_types=down, up_block_types=up,
        )  # fmt: skip
        denoiser = Network(net, family_of(net), Table(), EPS)
        sites = RAUNet().sites(denoiser.sites)
        found[name] = next(s.name for s in sites if s.note.startswith("stride")), sites[0].note
        told = Cond({"text": torch.zeros(1, 2, 8)})
        steps = {}
        for level in (None, 0, 1):
            sides = Sides()
            x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
            sample(denoiser, x, sampler=DDIM(), steps=5, cond=told, patches=[RAUNet(level=level), sides])
            steps[level] = [v[-1] for v in sides.seen["mid_block.resnets.0"]]
        assert steps[None] == steps[1 if name == "SDXL" else 0]
        assert steps[0] == [2, 2, 4, 4, 4] and steps[1] == [2, 2, 4, 4, 4]
    assert found == {
        "SD1": ("down_blocks.0.downsamplers.0", ""),
        "SDXL": ("down_blocks.1.downsamplers.0", "inner"),
        "none": ("down_blocks.0.downsamplers.0", ""),
    }


@pytest.mark.parametrize("patch", [STRIDED, POOLED, BOTH])
@pytest.mark.parametrize("name", ["unet", "unet-sdxl", "unet-class"])
def test_sides_that_do_not_divide(name, patch):
    for size in (9, 10, 12, 14):
        assert run(name, size, patch, steps=1, n=1).isfinite().all()


def test_the_pooled_stage_by_hand():
    sides = Sides()
    run("unet", 16, POOLED, sides, n=1, steps=1)
    found = {name: shapes[0][-1] for name, shapes in sides.seen.items() if "attn" not in name}
    assert found["down_blocks.1.resnets.0"] == 8 and found["mid_block.resnets.0"] == 4
    assert found["up_blocks.0.resnets.0"] == 4 and found["up_blocks.0.resnets.1"] == 8
    assert found["up_blocks.0.upsamplers.0"] == 8 and found["up_blocks.1.resnets.0"] == 16


def test_windows_cover_every_token_once():
    for height, width in ((4, 4), (5, 6), (7, 7), (1, 4)):
        table = windows(height, width)
        count = torch.stack([row.bincount(minlength=height * width + 1)[: height * width] for row in table])
        assert (count == 1).all()
    first, second = windows(4, 4).view(4, 4, 4)[:2]
    assert first[0].tolist() == [0, 1, 4, 5] and first[3].tolist() == [10, 11, 14, 15]
    assert torch.equal(second, first)  # a quarter of a window of two is less than a token
    assert windows(4, 4).view(4, 4, 4)[2][0].tolist() == [5, 6, 9, 10]


@pytest.mark.parametrize("size", [12, 9])
def test_attention_inside_of_windows(size):
    """The queries of one window see the keys of that window alone, and padding changes nothing."""
    net, n, above = fixture("unet"), 1, 0.5
    net_site = net.sites.attention("self")[0]
    attention, h = net_site.module, torch.randn(n, size * size, 8)
    seen = {}

    class Feed(Patch):
        def sites(self, net):
            return [net_site]

        def around(self, call):
            seen["out"] = call(image=h)
            return seen["out"]

    run("unet", size, Feed(), MSWMSA(above), n=n, steps=1, denoiser=net)
    possible = []
    for row in windows(size, size):
        expected = torch.empty_like(h)
        for window in row.view(4, -1):
            real = window[window < size * size]
            expected[:, real] = attention(h[:, real])
        possible.append((expected - seen["out"]).abs().max().item())
    assert min(possible) < 1e-5


def test_shifts_belong_to_the_picture_and_the_step():
    whole = run("unet", 16, MSWMSA(), n=4)
    for k in (0, 3):
        cond = conditions("unet", 4)[k : k + 1]
        alone = sample(fixture("unet"), states("unet", 4, size=16)[k : k + 1], cond=cond, samples=[k],
                       patches=[MSWMSA()], sampler=DDIM(), steps=5, noise=3).x  # fmt: skip
        torch.testing.assert_close(alone[0], whole[k], atol=1e-4, rtol=1e-4)
    assert not torch.equal(run("unet", 16, MSWMSA(), n=4, noise=4), whole)
    # no guidance: both branches of a picture are shifted alike, so equal branches stay equal
    cond = conditions("unet", 2)
    same = cond.with_alt(null=cond.branch("cond") if "cond" in cond.alt else type(cond)(cond.entries))
    guided = run("unet", 16, MSWMSA(), cond=same, guidance=CFG(3.0))
    torch.testing.assert_close(guided, run("unet", 16, MSWMSA(), cond=same), atol=1e-4, rtol=1e-4)


def test_adapters_go_through_both():
    net = fixture("unet")
    torch.manual_seed(0)
    adapter = LoRA(2, where=("downsamplers", "attn1")).on(net)
    for p in adapter.parameters():
        torch.nn.init.normal_(p, 0.0, 0.2)
    merged = copy.deepcopy(net)
    for name, part in zip(adapter.names, adapter.parts, strict=True):
        module = merged.net.get_submodule(name)
        module.weight.data += adapter.patch.weight(part, module.weight).detach()
    for patches in ((BOTH, MSWMSA(), adapter), (adapter, BOTH, MSWMSA())):
        found = run("unet", 10, *patches, denoiser=net)
        torch.testing.assert_close(found, run("unet", 10, BOTH, MSWMSA(), denoiser=merged), atol=1e-3, rtol=1e-3)


def test_under_caches():
    both = (RAUNet(), MSWMSA())
    assert torch.equal(run("unet", 16, *both, DeepCache(every=1)), run("unet", 16, *both))
    for patches in ((*both, DeepCache(every=2)), (DeepCache(every=2), *both)):
        assert run("unet", 16, *patches).isfinite().all()


def test_variable_size_counts_the_keys_of_a_window():
    """At twice the side, windows hold the native number of tokens, so that only other layers are scaled."""
    seen = {}

    class Queries(Patch):
        def __init__(self, name):
            self.name = name

        def sites(self, net):
            return net.attention("self")[:1]

        def qkv(self, call, q, k, v):
            seen[self.name] = q
            return q, k, v

    run("unet", 16, MSWMSA(), VariableSize(), Queries("scaled"), steps=1)
    run("unet", 16, MSWMSA(), Queries("plain"), steps=1)
    assert torch.equal(seen["scaled"], seen["plain"]) and seen["plain"].shape[2] == 64


def test_refusals():
    with pytest.raises(Refused, match="use a UNet"):
        run("dit", 8, RAUNet())
    with pytest.raises(Refused, match="images alone"):
        run("sd3", 8, MSWMSA())
    with pytest.raises(BadInput, match="levels 0 to 0"):
        run("unet", 8, RAUNet(level=1))
    with pytest.raises(BadInput, match="two shares"):
        RAUNet(strided=(0.5, 0.2))
    with pytest.raises(BadInput, match="above 0"):
        MSWMSA(0.0)
