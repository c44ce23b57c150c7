"""Banks of seeds: the noise of each seed, whatever batch it is drawn in; files; refusals."""

from __future__ import annotations

import pytest
import torch

from suffuse.core.errors import BadInput, Damaged, Refused
from suffuse.core.noise import Keyed
from suffuse.core.plugin import Setting
from suffuse.noise import SeedBank


def test_picture_k_has_the_noise_of_its_seed_alone():
    bank, like = SeedBank((7, 3)), torch.zeros(4, 2, 3)
    drawn = bank.normal(like, [0, 1, 2, 5], "start")
    for row, seed in enumerate((7, 3, 7, 3)):
        assert torch.equal(drawn[[row]], Keyed(seed).normal(like[:1], [0], "start"))


def test_files_and_refusals(tmp_path):
    bank = SeedBank((7, 3), Setting("abc", sampler="DDIM()", shape=(4, 8, 8)))
    assert SeedBank.load(bank.save(tmp_path / "seeds.json")) == bank
    assert bank.check(bank.made_for) is bank
    with pytest.raises(Refused, match="fitted for sampler DDIM"):
        bank.check(Setting("abc", sampler="DDPM()", shape=(4, 8, 8)))
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(Damaged, match="not a bank"):
        SeedBank.load(tmp_path / "other.json")
    with pytest.raises(BadInput, match="without seeds"):
        SeedBank(())
