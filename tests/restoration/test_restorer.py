"""One class for super-resolution, inpainting and restoration of the same size, whole or tile by tile."""

from __future__ import annotations

import pytest
import torch

from suffuse.core.cond import Cond
from suffuse.core.denoiser import EMPTY, Denoiser
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput
from suffuse.core.prediction import EPS, X0
from suffuse.core.value import Coef
from suffuse.processes.tables import Table
from suffuse.resolution.tiles import Box, by_tiles
from suffuse.restoration import ResShift, Restorer
from suffuse.restoration.degradation import enlarge
from suffuse.samplers.ancestral import DDIM, DDPM


class Pointwise(Denoiser):
    """Each pixel of its prediction depends on that pixel of the state, the source and the mask alone."""

    def __init__(self, process=ResShift()):
        super().__init__()
        self.process, self.asked = process, []

    def forward(self, x, t, cond=EMPTY):
        self.asked.append(dict(cond))
        clean = 0.7 * cond["source"] + 0.3 * torch.sin(x)
        if "mask" in cond:
            clean = clean * (0.5 + cond["mask"])
        return self.process.given(cond).predict(x, Coef(t), clean, X0)


def pictures(n: int = 2, size: int = 16, seed: int = 0, width: int | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, size, width or size, generator=generator) * 2 - 1


def test_super_resolution_and_restoration_of_the_same_size_are_one_class(restoring):
    denoiser = restoring(6)
    low = pictures(2, 4)
    large = Restorer(denoiser, scale=4)(low, noise=3)
    assert large.shape == (2, 3, 16, 16) and large.abs().max() <= 1
    assert torch.equal(large, Restorer(denoiser)(enlarge(low, 4), noise=3))
    by_hand = sample(denoiser, (2, 3, 16, 16), sampler=DDPM(), cond=Cond({"source": enlarge(low, 4)}), noise=3)
    assert torch.equal(large, by_hand.x.clamp(-1, 1)) and by_hand.nfe.tolist() == [4, 4]


def test_a_picture_is_restored_alike_in_any_batch():
    restorer, low = Restorer(Pointwise(), scale=4), pictures(3, 4)
    together = restorer(low, noise=1)
    alone = torch.cat([restorer(low[i : i + 1], noise=1, samples=[i]) for i in range(3)])
    torch.testing.assert_close(alone, together)
    assert not torch.allclose(restorer(low, noise=2), together)


def test_inpainting_tells_the_network_the_mask_and_leaves_the_known_part_alone(restoring):
    whole = pictures(2)
    mask = torch.ones(2, 1, 16, 16)
    mask[:, :, 4:12, 2:9] = 0
    seen = Pointwise()
    filled = Restorer(seen)(whole * mask, mask=mask)
    assert torch.equal(filled * mask, whole * mask) and not torch.equal(filled, whole * mask)
    assert all(torch.equal(entries["mask"], mask) for entries in seen.asked) and len(seen.asked) == 4
    network = restoring(7)
    found = Restorer(network)(whole * mask, mask=mask)
    elsewhere = Restorer(network)(whole * mask, mask=mask.flip(3))
    assert torch.equal(found * mask, whole * mask)
    both = (1 - mask) * (1 - mask.flip(3))
    assert not torch.allclose(found * both, elsewhere * both)  # the network reads it


@pytest.mark.parametrize(("tile", "overlap"), [(16, 8), (24, 4), (64, 0), (8, 0)])
def test_tiles_of_a_pointwise_network_make_the_whole_picture(tile, overlap):
    low = pictures(2, 10, width=13)
    mask = (pictures(2, 40, seed=1, width=52)[:, :1] > 0).float()
    whole = Restorer(Pointwise(), scale=4)(low, mask=mask, noise=7)
    tiled = Restorer(Pointwise(), scale=4, tile=tile, overlap=overlap)(low, mask=mask, noise=7)
    torch.testing.assert_close(tiled, whole, rtol=1e-5, atol=1e-5)


def test_tiles_cover_the_picture_and_no_more():
    boxes: list[Box] = []

    def run(box):
        boxes.append(box)
        return torch.full((1, 3, box.height, box.width), 2.0)

    out = by_tiles(run, torch.zeros(1, 3, 37, 20), 16, 4)
    torch.testing.assert_close(out, torch.full((1, 3, 37, 20), 2.0))
    assert {(b.top, b.left) for b in boxes} == {(t, left) for t in (0, 12, 21) for left in (0, 4)}
    assert {(b.height, b.width) for b in boxes} == {(16, 16)}


def test_latents_go_through_the_codec_also_by_tiles(codec):
    low = pictures(2, 8)
    denoiser = Pointwise()
    restored = Restorer(denoiser, codec, scale=4)(low, noise=2)
    z, _ = codec.encode(enlarge(low, 4))
    assert z.shape == (2, 3, 16, 16) and codec.space.factor == 2
    by_hand = sample(denoiser, tuple(z.shape), sampler=DDPM(), cond=Cond({"source": z}), noise=2).x
    torch.testing.assert_close(restored, codec.decode(by_hand).clamp(-1, 1))
    mask = torch.ones(2, 1, 32, 32)
    mask[..., 10:15] = 0
    inpainted = Restorer(denoiser, codec, tile=16, overlap=4)(enlarge(low, 4), mask=mask)
    assert inpainted.shape == (2, 3, 32, 32) and denoiser.asked[-1]["mask"].shape == (2, 1, 8, 8)
    assert torch.equal(inpainted * mask, enlarge(low, 4) * mask)
    with pytest.raises(BadInput, match="shrinks by 2"):
        Restorer(denoiser, codec, tile=15)


def test_a_conditional_ddpm_restores_too(restoring):
    denoiser = restoring(6, Table(), EPS)
    out = Restorer(denoiser, scale=4, sampler=DDIM(), steps=3)(pictures(1, 4))
    assert out.shape == (1, 3, 16, 16)


def test_wrong_shapes_are_refused():
    restorer = Restorer(Pointwise())
    with pytest.raises(BadInput, match="batch"):
        restorer(pictures()[0])
    with pytest.raises(BadInput, match=r"\(2, 1, 16, 16\)"):
        restorer(pictures(), mask=torch.ones(2, 1, 8, 8))
    with pytest.raises(BadInput, match="larger than the overlap"):
        Restorer(Pointwise(), tile=8, overlap=8)(pictures())
    with pytest.raises(BadInput, match="scale=0"):
        Restorer(Pointwise(), scale=0)
