"""Checkpoints of guided-diffusion: tiny ones, written in the original layout and computed here by their equations."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from suffuse.core.cond import Cond
from suffuse.core.errors import BadInput, Damaged
from suffuse.loading.guided_diffusion import RELEASES, Release, read_classifier, read_denoiser
from suffuse.processes.learned_variance import LearnedVariance
from suffuse.processes.tables import Table

WIDTH, MULTIPLIERS, CLASSES, SIZE = 8, (1, 2, 3), 5, 16
TINY = {"groups": 4, "image_size": SIZE}
ATTENDS = (False, True, True)


class Original:
    """A network of guided-diffusion as names and weights, and what it computes.

    Weights are made on first use, so that running it once writes the whole checkpoint.
    """

    def __init__(self, blocks=1, heads=None, width=4, split_first=False, adaptive=True, resample=True, inputs=3, out=6,
                 classes=CLASSES):  # fmt: skip
        self.w, self.generator = {}, torch.Generator().manual_seed(0)
        self.blocks, self.heads, self.width, self.split_first = blocks, heads, width, split_first
        self.adaptive, self.resample, self.inputs, self.out, self.classes = adaptive, resample, inputs, out, classes

    def get(self, name, *shape):
        if name not in self.w:
            self.w[name] = 0.3 * torch.randn(shape, generator=self.generator)
        return self.w[name]

    def linear(self, name, x, out):
        return F.linear(x, self.get(f"{name}.weight", out, x.shape[1]), self.get(f"{name}.bias", out))

    def conv(self, name, x, out, k=3, stride=1):
        weight = self.get(f"{name}.weight", out, x.shape[1], k, k)
        return F.conv2d(x, weight, self.get(f"{name}.bias", out), stride, k // 2)

    def norm(self, name, x):
        return F.group_norm(x, 4, self.get(f"{name}.weight", x.shape[1]), self.get(f"{name}.bias", x.shape[1]), 1e-5)

    def residual(self, name, x, out, change=lambda h: h):
        h = self.conv(f"{name}.in_layers.2", change(F.silu(self.norm(f"{name}.in_layers.0", x))), out)
        x = change(x)
        e = self.linear(f"{name}.emb_layers.1", F.silu(self.temb), 2 * out if self.adaptive else out)[:, :, None, None]
        if self.adaptive:
            scale, shift = e.chunk(2, 1)
            h = self.norm(f"{name}.out_layers.0", h) * (1 + scale) + shift
        else:
            h = self.norm(f"{name}.out_layers.0", h + e)
        h = self.conv(f"{name}.out_layers.3", F.silu(h), out)
        return h + (x if x.shape[1] == out else self.conv(f"{name}.skip_connection", x, out, 1))

    def attention(self, name, x):
        b, c, *side = x.shape
        heads = self.heads or c // self.width
        qkv = F.conv1d(self.norm(f"{name}.norm", x.flatten(2)), self.get(f"{name}.qkv.weight", 3 * c, c, 1),
                       self.get(f"{name}.qkv.bias", 3 * c))  # fmt: skip
        parts = qkv.chunk(3, 1) if self.split_first else qkv.reshape(b * heads, 3, c // heads, -1).unbind(1)
        h = attend(*(p.reshape(b, heads, c // heads, -1) for p in parts)).reshape(b, c, -1)
        h = F.conv1d(h, self.get(f"{name}.proj_out.weight", c, c, 1), self.get(f"{name}.proj_out.bias", c))
        return x + h.reshape(b, c, *side)

    def encode(self, x, timestep, y=None):
        half = WIDTH // 2
        angles = timestep[:, None] * torch.exp(-math.log(10000) * torch.arange(half) / half)
        e = self.linear("time_embed.0", torch.cat([angles.cos(), angles.sin()], 1), 4 * WIDTH)
        self.temb = self.linear("time_embed.2", F.silu(e), 4 * WIDTH)
        if y is not None:
            self.temb = self.temb + self.get("label_emb.weight", self.classes, 4 * WIDTH)[y]
        h = self.conv("input_blocks.0.0", x, WIDTH)
        skips, i = [h], 1
        for level, multiplier in enumerate(MULTIPLIERS):
            for _ in range(self.blocks):
                h = self.residual(f"input_blocks.{i}.0", h, multiplier * WIDTH)
                h = self.attention(f"input_blocks.{i}.1", h) if ATTENDS[level] else h
                skips.append(h)
                i += 1
            if level < len(MULTIPLIERS) - 1:
                if self.resample:
                    h = self.residual(f"input_blocks.{i}.0", h, h.shape[1], lambda v: F.avg_pool2d(v, 2))
                else:
                    h = self.conv(f"input_blocks.{i}.0.op", h, h.shape[1], stride=2)
                skips.append(h)
                i += 1
        h = self.residual("middle_block.0", h, h.shape[1])
        return self.residual("middle_block.2", self.attention("middle_block.1", h), h.shape[1]), skips

    def unet(self, x, timestep, y=None):
        h, skips = self.encode(x, timestep, y)
        i = 0
        for level in reversed(range(len(MULTIPLIERS))):
            for j in range(self.blocks + 1):
                h = self.residual(f"output_blocks.{i}.0", torch.cat([h, skips.pop()], 1), MULTIPLIERS[level] * WIDTH)
                h = self.attention(f"output_blocks.{i}.1", h) if ATTENDS[level] else h
                if level and j == self.blocks:
                    name = f"output_blocks.{i}.{2 if ATTENDS[level] else 1}"
                    twice = lambda v: F.interpolate(v, scale_factor=2)  # noqa: E731
                    if self.resample:
                        h = self.residual(name, h, h.shape[1], twice)
                    else:
                        h = self.conv(f"{name}.conv", twice(h), h.shape[1])
                i += 1
        return self.conv("out.2", F.silu(self.norm("out.0", h)), self.out)

    def classify(self, x, timestep):
        h, _ = self.encode(x, timestep)
        h = F.silu(self.norm("out.0", h)).flatten(2)
        c = h.shape[1]
        h = torch.cat([h.mean(2, keepdim=True), h], 2)
        h = h + self.get("out.2.positional_embedding", c, h.shape[2])
        qkv = F.conv1d(h, self.get("out.2.qkv_proj.weight", 3 * c, c, 1), self.get("out.2.qkv_proj.bias", 3 * c))
        parts = (p.reshape(len(x), c // self.width, self.width, -1) for p in qkv.chunk(3, 1))
        h = attend(*parts).reshape(len(x), c, -1)
        weight = self.get("out.2.c_proj.weight", self.classes, c, 1)
        return F.conv1d(h, weight, self.get("out.2.c_proj.bias", self.classes))[:, :, 0]


def attend(q, k, v):
    """Of (B, heads, width, places)."""
    weight = torch.einsum("bhct,bhcs->bhts", q, k) / math.sqrt(q.shape[2])
    return torch.einsum("bhts,bhcs->bhct", weight.softmax(-1), v)


def states(n=2, channels=3):
    return torch.randn(n, channels, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


LAYOUTS = {
    "heads of a width": ({}, {"head_width": 4}),
    "new order": ({"split_first": True}, {"head_width": 4, "split_first": True}),
    "number of heads": ({"heads": 2}, {"heads": 2}),
    "deep": ({"blocks": 2}, {"blocks": 2, "head_width": 4}),
    "plain norms": ({"adaptive": False}, {"head_width": 4}),
    "convolutions": ({"resample": False}, {"head_width": 4}),
    "no variance": ({"out": 3}, {"head_width": 4}),
}


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_denoiser_computes_what_the_original_does(layout):
    made, said = LAYOUTS[layout]
    original, y = Original(**made), torch.tensor([1, 4])
    x, timestep = states(), torch.tensor([99.0, 700.0])
    expected = original.unet(x, timestep, y)
    denoiser = read_denoiser(original.w, Release(**{"blocks": 1, **TINY, **said}))
    p = denoiser(x, (timestep.double() + 1) / 1000, Cond({"label": y}))
    torch.testing.assert_close(p.eps, expected[:, :3], rtol=1e-4, atol=1e-4)
    assert type(denoiser.process) is (Table if layout == "no variance" else LearnedVariance)
    if layout != "no variance":
        torch.testing.assert_close(p.v, (expected[:, 3:] + 1) / 2, rtol=1e-4, atol=1e-4)
    assert denoiser.family.shape(denoiser.net) == (3, SIZE, SIZE)


@torch.no_grad()
def test_an_upsampler_is_told_the_low_resolution():
    original = Original(inputs=6, classes=None, heads=2)
    x, low, timestep = states(), torch.randn(2, 3, 4, 4), torch.tensor([99.0, 700.0])
    beside = F.interpolate(low, (SIZE, SIZE), mode="bilinear")
    expected = original.unet(torch.cat([x, beside], 1), timestep)
    denoiser = read_denoiser(original.w, Release(blocks=1, heads=2, **TINY))
    p = denoiser(x, (timestep.double() + 1) / 1000, Cond({"source": low}))
    torch.testing.assert_close(p.eps, expected[:, :3], rtol=1e-4, atol=1e-4)
    with pytest.raises(BadInput, match="3 channels together, this UNet takes 6"):
        denoiser(x, 0.5)


@torch.no_grad()
@pytest.mark.parametrize("blocks", [1, 2])
def test_a_classifier_computes_what_the_original_does(blocks):
    original, x, timestep = Original(blocks=blocks), states(), torch.tensor([0.0, 700.0])
    expected = original.classify(x, timestep)
    classifier = read_classifier(original.w, Release(blocks=blocks, head_width=4, **TINY))
    found = classifier(x, (timestep.double() + 1) / 1000)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(BadInput, match="reads 16x16"):
        classifier(x[..., :8], 0.5)


def test_files_are_told_by_name_and_bad_ones_named(tmp_path, monkeypatch):
    original = Original()
    original.unet(states(), torch.tensor([1.0, 2.0]), torch.tensor([0, 1]))
    release = Release(blocks=1, head_width=4, **TINY)
    monkeypatch.setitem(RELEASES, "tiny_diffusion", release)  # type: ignore[arg-type]
    save_file(original.w, tmp_path / "tiny_diffusion.safetensors")
    assert read_denoiser(tmp_path / "tiny_diffusion.safetensors").net.config.classes == CLASSES
    torch.save(original.w, tmp_path / "64x64_diffusion.pt")
    for source, how, message in [
        (tmp_path / "64x64_diffusion.pt", None, "pickled"),
        (tmp_path / "none.safetensors", None, "no file"),
        (original.w, None, "release"),
        (original.w, "64x64_difusion", "64x64_diffusion"),
        ({"x": torch.zeros(1)}, release, "not of guided-diffusion"),
        (original.w, Release(blocks=3, **TINY), "do not make levels of 3"),
    ]:
        with pytest.raises(BadInput, match=message):
            read_denoiser(source, how)
    with pytest.raises(BadInput, match="attention pooling"):
        read_classifier(original.w, release)
    lacking = {k: v for k, v in original.w.items() if k != "middle_block.1.qkv.bias"}
    with pytest.raises(Damaged, match="middle_block.1.qkv.bias"):
        read_denoiser(lacking, release)
    with pytest.raises(Damaged, match="no place"):
        read_denoiser({**original.w, "more.weight": torch.zeros(1)}, release)
    with pytest.raises(Damaged, match="another shape"):
        read_denoiser({**original.w, "middle_block.1.qkv.bias": torch.zeros(3)}, release)
