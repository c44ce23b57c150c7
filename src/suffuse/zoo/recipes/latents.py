"""Training data of the text-to-image models: latents and encoded captions of the world, in files built when needed.

Shard k holds the same scenes for ever, whoever builds it and when; so a run may be resumed, and a second process may
build shards ahead of the one that trains.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from ...core.cond import Cond
from ...training import Batch
from ...world import WorldConfig, batch
from ...world.scene import generator
from . import text, vae
from .building import Report

EASY = WorldConfig(objects=(0.55, 0.45, 0.0), graded=0.1)
FULL = WorldConfig(objects=(0.25, 0.62, 0.13))


@dataclass(frozen=True, eq=False)
class Encoders:
    """The frozen parts that turn pictures and prompts into what a denoiser sees.

    "text" is the last state of the text encoder, "hidden" the one before it and "pooled" the projected end token.
    """

    vae: AutoencoderKL
    tokenizer: CLIPTokenizer
    text: CLIPTextModelWithProjection

    @classmethod
    def ready(
        cls,
        folder: str | Path,
        *,
        device: str = "cpu",
        seed: int = 0,
        shard: tuple[int, int] = (0, 1),
        report: Report = print,
    ) -> Encoders:
        """From `folder`/vae and `folder`/text, where the recipes of both write them; what is missing is trained now."""
        of_pictures, of_text = Path(folder) / "vae", Path(folder) / "text"
        if not (of_pictures / "vae").exists():
            vae.build(folder, device=device, seed=seed, shard=shard, report=report)
        if not (of_text / "text_encoder").exists():
            text.build(folder, device=device, seed=seed, shard=shard, report=report)
        return cls(
            AutoencoderKL.from_pretrained(of_pictures / "vae").eval().to(device),
            CLIPTokenizer.from_pretrained(of_text / "tokenizer"),
            CLIPTextModelWithProjection.from_pretrained(of_text / "text_encoder").eval().to(device),
        )

    @torch.no_grad()
    def prompts(self, texts: list[str]) -> dict[str, Tensor]:
        """Encoded prompts by name, on the CPU."""
        ids = text.tokens(self.tokenizer, texts).to(self.text.device)
        out = self.text(ids, output_hidden_states=True)
        found = {"text": out.last_hidden_state, "hidden": out.hidden_states[-2], "pooled": out.text_embeds}
        return {name: states.cpu() for name, states in found.items()}

    @torch.no_grad()
    def pictures(self, rgb: Tensor) -> Tensor:
        """Latents of pictures (B, 3, H, W), on the CPU."""
        # twice as fast as float32, and off by 0.006 of the latents' deviation
        with torch.autocast(self.vae.device.type, torch.bfloat16):
            return self.vae.encode(rgb.to(self.vae.device)).latent_dist.mean.float().cpu()


@dataclass(frozen=True, eq=False)
class Latents:
    """Batches of latents with conditions; the world opens up as training goes on.

    One more shard is open every `pace` steps, and a batch is drawn from the open ones, half of it from the newest four.
    The first `easy` shards show one or two objects on mostly plain backgrounds.

    Args:
        encoders: frozen parts.
        folder: of the shards; an empty one fills up.
        reads: entries of the condition ("text", "hidden", "pooled").
        batch: rows of a batch.
        seed: of scenes and order.
        pace, easy: see above.
        most: shards in all.
        size: scenes of a shard.
        emphasis: weight of the loss on objects, 1 elsewhere.
    """

    encoders: Encoders
    folder: Path
    reads: tuple[str, ...] = ("text",)
    batch: int = 16
    seed: int = 0
    pace: int = 250
    easy: int = 8
    most: int = 32
    size: int = 4096
    emphasis: float = 4.0
    null: Mapping[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "null", self.encoders.prompts([""]))

    def __call__(self, step: int) -> Batch:
        random = generator(13, self.seed, step)
        opened = min(self.most, 1 + step // self.pace)
        anywhere = random.integers(opened, size=self.batch).tolist()
        newest = random.integers(max(0, opened - 4), opened, size=self.batch).tolist()
        shards = [n if i % 2 else a for i, (a, n) in enumerate(zip(anywhere, newest, strict=True))]
        rows = random.integers(self.size, size=self.batch).tolist()
        names = ("x0", "weight", *self.reads)
        picked = [[self.shard(k)[name][row] for name in names] for k, row in zip(shards, rows, strict=True)]
        columns = zip(*picked, strict=True)
        joined = {name: torch.stack(column).float() for name, column in zip(names, columns, strict=True)}
        null = {name: self.null[name].expand_as(joined[name]) for name in self.reads}
        cond = Cond({name: joined[name] for name in self.reads}, {"null": Cond(null)})
        data = {"x0": joined["x0"], "weight": 1 + (self.emphasis - 1) * joined["weight"]}
        ids = torch.tensor(shards) * self.size + torch.tensor(rows)
        return Batch(data, cond, ids)

    def shard(self, k: int) -> dict[str, Tensor]:
        """Shard k in float16: "x0" (n, 4, 16, 16), "weight" (n, 1, 16, 16) objects' share, encoded captions."""
        return _mapped(self.build(k))

    def build(self, k: int) -> Path:
        """The file of shard k, encoded now if it is not there yet."""
        path = Path(self.folder) / f"shard-{k:03d}.safetensors"
        if not path.exists():
            config = EASY if k < self.easy else FULL
            parts = [self._encode(k * (self.size // 64) + i, config) for i in range(self.size // 64)]
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(f".{os.getpid()}")
            save_file({name: torch.cat([part[name] for part in parts]) for name in parts[0]}, draft)
            draft.replace(path)
        return path

    def _encode(self, index: int, config: WorldConfig) -> dict[str, Tensor]:
        views, captions = batch("train", index, 64, maps=("masks",), seed=self.seed + 2, config=config)
        assert views.masks is not None
        found = {"x0": self.encoders.pictures(views.rgb), **self.encoders.prompts([str(c) for c in captions])}
        found["weight"] = covered(views.masks, found["x0"])
        return {name: tensor.half().contiguous() for name, tensor in found.items()}


def covered(masks: Tensor, latents: Tensor) -> Tensor:
    """(B, 1, h, w) share of each entry of latents that objects cover, whose masks are (B, K, H, W)."""
    union = masks.sum(1, keepdim=True).clamp(max=1)
    return torch.nn.functional.avg_pool2d(union, union.shape[-1] // latents.shape[-1])


@lru_cache(maxsize=128)
def _mapped(path: Path) -> dict[str, Tensor]:
    return load_file(path)
