from __future__ import annotations

import pytest
import torch
from evaluation_toys import Projected, noise
from safetensors.torch import load_file, save_file

from suffuse.core.errors import BadInput, Damaged
from suffuse.evaluation import Reference


@pytest.mark.parametrize("keep", [True, False])
def test_a_saved_reference_comes_back(tmp_path, keep):
    images = torch.tanh(noise(20, 3, 4, 4))
    reference = Reference.of(Projected(), images, keep=keep, batch=7)
    path = reference.save(tmp_path / "reference.safetensors")
    again = Reference.load(path)
    assert again.features == "projection 5 0" and again.moments.n == 20 and again.digest == reference.digest
    assert torch.equal(again.moments.mean, reference.moments.mean)
    assert torch.equal(again.moments.scatter, reference.moments.scatter)
    assert (again.rows is None) == (not keep) and (not keep or torch.equal(again.rows, reference.rows))


def test_batches_give_the_statistics_of_the_whole():
    images = torch.tanh(noise(20, 3, 4, 4))
    whole, parts = Reference.of(Projected(), images), Reference.of(Projected(), iter(images.split(6)))
    torch.testing.assert_close(whole.moments.covariance, parts.moments.covariance, rtol=1e-6, atol=1e-7)


def test_an_altered_or_missing_file_is_damaged_by_name(tmp_path):
    path = Reference.of(Projected(), torch.tanh(noise(8, 3, 4, 4))).save(tmp_path / "r.safetensors")
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    (tmp_path / "altered.safetensors").write_bytes(data)
    (tmp_path / "cut.safetensors").write_bytes(data[:-40])
    save_file(load_file(path), tmp_path / "bare.safetensors")
    for name in ("altered", "cut", "bare", "missing"):
        with pytest.raises(Damaged, match=f"{name}.safetensors"):
            Reference.load(tmp_path / f"{name}.safetensors")


def test_one_picture_is_no_reference():
    with pytest.raises(BadInput, match="1 reference pictures"):
        Reference.of(Projected(), torch.zeros(1, 3, 4, 4))
