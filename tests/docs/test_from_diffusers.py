"""docs/from-diffusers.md: its blocks run, and what they say is alike is."""

from __future__ import annotations

import torch


def test_blocks_run(ran, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = ran("from-diffusers.md")
    assert len(page.out.images) == 2 and (tmp_path / "first.png").is_file()
    assert type(page.pipe).__name__ == "StableDiffusionPipeline" and type(page.like.sampler).__name__ == "UniPC"
    plain = page.model.generate(page.prompt, negative_prompt="a green star", steps=2).latents
    encoded = page.model.generate(page.said, negative_prompt=page.against, steps=2).latents
    assert torch.allclose(plain, encoded, atol=1e-4)
    assert page.picture.shape == (1, 3, 64, 64)
