"""The reader: a small convolutional network that reads objects, attributes and positions back from a picture.

Objects are found as peaks of a centre heatmap, with attributes and offsets read at the peaks (X. Zhou et al.,
"Objects as Points", 2019, https://arxiv.org/abs/1904.07850).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from suffuse.core.errors import BadInput, Damaged
from suffuse.world.scene import BACKGROUNDS, COLOURS, SHAPES, SIZES, TEXTURES

BUNDLED = Path(__file__).parent / "models" / "reader"
PARTS = {
    "heat": 1,
    "place": 3,
    "shape": len(SHAPES),
    "colour": len(COLOURS),
    "texture": len(TEXTURES),
    "size": len(SIZES),
}
"""Channels of the map that the network returns; `place` is x and y from the cell's centre, and the radius, in cells."""


@dataclass(frozen=True)
class ReaderConfig:
    """Widths of the network; pictures of another size than `resolution` are resized to it."""

    resolution: int = 64
    stem: int = 32
    width: int = 64
    dilations: tuple[int, ...] = (1, 2, 1, 2, 1)
    most: int = 6
    threshold: float = 0.4


@dataclass(frozen=True)
class Seen:
    """One object read from a picture, by its most probable attributes; lengths are fractions of the picture's side."""

    shape: str
    colour: str
    texture: str
    size: str
    x: float
    y: float
    radius: float
    score: float


@dataclass(frozen=True)
class Reading:
    """What the reader sees in B pictures, in M slots each, by falling `score` (B, M).

    `present` (B, M) marks scores above the threshold; `shape`, `colour`, `texture`, `size` (B, M, classes) and
    `background` (B, classes) are probabilities; `x`, `y`, `radius` (B, M) are fractions of the side; `features`
    (B, 2 width) is the pooled trunk, in which pictures are compared.
    """

    score: Tensor
    present: Tensor
    shape: Tensor
    colour: Tensor
    texture: Tensor
    size: Tensor
    x: Tensor
    y: Tensor
    radius: Tensor
    background: Tensor
    features: Tensor

    def __len__(self) -> int:
        return self.score.shape[0]

    @property
    def count(self) -> Tensor:
        """Number of objects seen (B,)."""
        return self.present.sum(1)

    def objects(self, row: int) -> list[Seen]:
        """The objects seen in picture number `row`."""
        return [
            Seen(
                SHAPES[int(self.shape[row, slot].argmax())],
                COLOURS[int(self.colour[row, slot].argmax())],
                TEXTURES[int(self.texture[row, slot].argmax())],
                SIZES[int(self.size[row, slot].argmax())],
                *(part[row, slot].item() for part in (self.x, self.y, self.radius, self.score)),
            )
            for slot in range(int(self.count[row]))
        ]


class _Residual(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.relu(self.norm(self.conv(x)))


def _down(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Reader(nn.Module):
    """A trunk down to a quarter of the resolution, a head of `PARTS` at each cell, and one for the background."""

    def __init__(self, config: ReaderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ReaderConfig()
        self.trunk = nn.Sequential(
            _down(3, config.stem, 5),
            _Residual(config.stem, 1),
            _down(config.stem, config.width, 3),
            *(_Residual(config.width, dilation) for dilation in config.dilations),
        )
        self.cells = nn.Sequential(nn.Conv2d(config.width, 96, 1), nn.ReLU(), nn.Conv2d(96, sum(PARTS.values()), 1))
        self.ground = nn.Linear(2 * config.width, len(BACKGROUNDS))

    def forward(self, rgb: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Maps by part (B, channels, H / 4, W / 4), background logits (B, classes) and features (B, 2 width)."""
        trunk = self.trunk(rgb)
        features = torch.cat([trunk.mean((2, 3)), trunk.amax((2, 3))], 1)
        maps = dict(zip(PARTS, self.cells(trunk).split(list(PARTS.values()), 1), strict=True))
        return maps, self.ground(features), features

    def read(self, rgb: Tensor, batch: int = 64) -> Reading:
        """Read pictures (B, 3, H, W) in [-1, 1]; the network is put into evaluation mode, and gradients are kept."""
        if rgb.ndim != 4 or rgb.shape[1] != 3:
            raise BadInput(f"rgb has shape {tuple(rgb.shape)}: give (B, 3, H, W) in [-1, 1]")
        self.eval()
        side = self.config.resolution
        if rgb.shape[2:] != (side, side):
            rgb = F.interpolate(rgb, (side, side), mode="bilinear", antialias=True, align_corners=False)
        parts = [self._read(part) for part in rgb.float().split(batch)]
        return Reading(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _read(self, rgb: Tensor) -> tuple[Tensor, ...]:
        maps, ground, features = self(rgb)
        heat = maps["heat"][:, 0].sigmoid()
        peaks = heat * (heat == F.max_pool2d(heat[:, None], 3, 1, 1)[:, 0])
        score, cell = peaks.flatten(1).topk(self.config.most)
        at = {name: part.flatten(2).transpose(1, 2) for name, part in maps.items()}
        at = {name: part.gather(1, cell[..., None].expand(-1, -1, part.shape[2])) for name, part in at.items()}
        side = heat.shape[2]
        x = (cell % side + 0.5 + at["place"][..., 0]) / side
        y = (cell // side + 0.5 + at["place"][..., 1]) / side
        chances = [at[name].softmax(-1) for name in ("shape", "colour", "texture", "size")]
        present = score > self.config.threshold
        return score, present, *chances, x, y, at["place"][..., 2] / side, ground.softmax(-1), features

    def save(self, folder: Path | str) -> None:
        """Write config.json and model.safetensors into `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(asdict(self.config), indent=2) + "\n")
        save_file(
            {name: tensor.contiguous() for name, tensor in self.state_dict().items()}, folder / "model.safetensors"
        )

    @classmethod
    def load(cls, folder: Path | str = BUNDLED) -> Reader:
        """Read a saved reader, the bundled one unless told otherwise. Raises `Damaged` where its files do not fit."""
        folder = Path(folder)
        try:
            entries = json.loads((folder / "config.json").read_text())
            reader = cls(ReaderConfig(**{**entries, "dilations": tuple(entries["dilations"])}))
            reader.load_state_dict(load_file(folder / "model.safetensors"))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise Damaged(f"reader in {folder}: {reason}; restore its files or train it anew") from error
        return reader.eval()
