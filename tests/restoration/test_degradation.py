from __future__ import annotations

import torch

from suffuse.core.cond import Cond
from suffuse.core.noise import Keyed
from suffuse.core.training import Roles
from suffuse.restoration import Bicubic, Holes, Pairs
from suffuse.training import Shuffled


def pictures(n: int = 4, size: int = 16) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_reduction_keeps_what_is_smooth_and_loses_what_is_fine():
    flat = torch.full((1, 3, 16, 16), 0.3)
    torch.testing.assert_close(Bicubic(4).draw(flat, Keyed(0), [0]).y, flat)
    ramp = torch.linspace(-0.8, 0.8, 32).expand(1, 3, 32, 32)
    kept = Bicubic(4).draw(ramp, Keyed(0), [0]).y
    assert (kept - ramp)[..., 8:-8].abs().max() < 0.01
    checks = (torch.arange(16)[:, None] + torch.arange(16)).remainder(2).float().expand(1, 3, 16, 16) * 2 - 1
    assert Bicubic(4).draw(checks, Keyed(0), [0]).y.abs().max() < 0.05


def test_a_draw_belongs_to_its_sample_and_is_recorded():
    x, degradation = pictures(), Bicubic(4, noise=(0.1, 0.3))
    whole = degradation.draw(x, Keyed(1), [3, 1, 4, 5])
    alone = degradation.draw(x[1:2], Keyed(1), [1])
    torch.testing.assert_close(whole.y[1:2], alone.y)
    assert whole.drawn["noise"][1] == alone.drawn["noise"][0]
    assert ((whole.drawn["noise"] >= 0.1) & (whole.drawn["noise"] <= 0.3)).all()
    assert len(set(whole.drawn["noise"].tolist())) == 4
    noisy = Bicubic(2, noise=(0.25, 0.25)).draw(torch.zeros(1, 3, 256, 256), Keyed(0), [0])
    plain = noisy.y[..., ::1, ::1].std().item()
    assert 0.15 < plain < 0.25  # enlarging averages neighbours


def test_holes_are_where_their_mask_says():
    x = pictures(8, 20) + 2.0
    made = Holes(0.4).draw(x, Keyed(2), range(8))
    mask = made.drawn["mask"]
    assert mask.shape == (8, 1, 20, 20) and set(mask.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(made.y, x * mask)
    assert ((mask == 0).sum((1, 2, 3)) == 64).all()
    assert len({tuple(m.flatten().tolist()) for m in mask}) > 4


def test_pairs_are_training_batches_with_the_source_and_the_mask():
    source = Pairs(Shuffled(pictures(12), Cond({"label": torch.arange(12)}), batch=4), Holes())
    roles = Roles({})
    batch = source(roles, Keyed(0), 0)
    rows = batch.ids
    assert torch.equal(batch.data, pictures(12)[rows]) and torch.equal(batch.cond["label"], rows)
    assert torch.equal(batch.cond["source"], batch.data * batch.cond["mask"])
    again, other = source(roles, Keyed(0), 0), source(roles, Keyed(0).fold(1), 0)
    assert torch.equal(batch.cond["mask"], again.cond["mask"])
    assert not torch.equal(batch.cond["mask"], other.cond["mask"])


def test_pairs_of_a_latent_model_are_states(codec):
    batch = Pairs(Shuffled(pictures(), Cond(), batch=2), Bicubic(4), codec)(Roles({}), Keyed(0), 0)
    clean = pictures()[batch.ids]
    torch.testing.assert_close(batch.data, codec.encode(clean)[0])
    degraded = Bicubic(4).draw(clean, Keyed(0), batch.ids.tolist()).y
    torch.testing.assert_close(batch.cond["source"], codec.encode(degraded)[0])
    assert not batch.data.requires_grad and not batch.cond["source"].requires_grad
