"""DragBench: pictures with points to drag and regions that may change, and how well a drag came out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import Damaged
from ..core.files import read_json
from ..core.model import Model
from ..core.noise import Keyed
from ..core.predict import Predict
from ..core.step import outside
from ..core.value import Coef
from ..images import mask_tensor, to_tensor
from .cases import Cases
from .feature_probe import FeatureProbe, bilinear, centres


@dataclass(frozen=True, eq=False)
class DragCase:
    """One case of a benchmark of drags.

    Args:
        name: of the case, with its category.
        image: (3, H, W) in [-1, 1].
        prompt: what it shows.
        points: (P, 4) x0, y0, x1, y1 in pixels.
        mask: (1, H, W) 1 where the picture may change.
    """

    name: str
    image: Tensor
    prompt: str
    points: Tensor
    mask: Tensor


@dataclass(frozen=True)
class DragBench(Cases[DragCase]):
    """The cases of a DragBench folder, category/sample/..., read one by one as they are asked for.

    Each sample has `original_image.png`, `mask.png` and `meta_data.json` with "prompt" and "points", a list of x, y of
    handle and target in turns.

    Args:
        folder: with a folder for each category.

    Raises:
        Damaged: a file is missing or is not as it should be.

    Reference: Shi et al., DragDiffusion: Harnessing Diffusion Models for Interactive Point-based Image Editing,
    2306.14435.

    Differs from the paper: its `meta_data.pkl`, which can run code as it is read, is not read; write its "prompt" and
    "points" as JSON and its "mask" as PNG.
    """

    folder: str

    def __len__(self) -> int:
        return len(self._samples)

    def case(self, k: int) -> DragCase:
        sample = self._samples[k]
        about = read_json(sample / "meta_data.json")
        try:
            points = torch.tensor(about["points"], dtype=torch.float32).view(-1, 4)
            prompt = str(about["prompt"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise Damaged(f"{sample / 'meta_data.json'}: {error!r}; write prompt, and points in pairs") from error
        image, mask = to_tensor(sample / "original_image.png")[0], mask_tensor(sample / "mask.png")[0]
        return DragCase(f"{sample.parent.name}/{sample.name}", image, prompt, points, (mask > 0.0).float())

    @cached_property
    def _samples(self) -> list[Path]:
        found = sorted(Path(self.folder).glob("*/*/original_image.png"))
        if not found:
            raise Damaged(f"{self.folder}: has no category/sample/original_image.png; give the folder of DragBench")
        return [image.parent for image in found]


@torch.no_grad()
def mean_distance(
    model: Model, before: Tensor, after: Tensor, prompt: str, points: Tensor, *, t: float = 0.261, noises: int = 8,
    block: int = 1, seed: int = 42,
) -> Tensor:  # fmt: skip
    """(P,): pixels between each target and where the content of its handle is found in the dragged picture.

    It is found at the pixel whose decoder features, averaged over draws of noise, are nearest in cosine to those of the
    handle in the picture before.

    Args:
        model: whose features are compared.
        before, after: (3, H, W) in [-1, 1].
        prompt: of both.
        points: (P, 4) x0, y0, x1, y1 in pixels.
        t: noise level; the paper's time step 261 of 1000.
        noises: draws.
        block: of the decoder, 0 next to the middle.
        seed: of the noise.
    """
    height, width = before.shape[-2:]
    cond, process = model.condition([prompt] * noises), model.denoiser.process
    maps = []
    for picture in (before, after):
        x0 = model.encode(picture).expand(noises, -1, -1, -1)
        x = process.marginal(x0, Coef(t)).at(Keyed(seed).normal(x0, range(noises), "distance"))
        probe, at = FeatureProbe((block,)), outside(process, t, noises)
        probe.look(Predict(model.denoiser, at, (), cond), x, Coef(t), cond)
        maps.append(probe.maps[0].mean(0, keepdim=True))
    handles, targets = points[:, :2].to(before), points[:, 2:].to(before)
    looks = bilinear(maps[0], handles[None], (height, width))[0]
    pixels = centres(height, width, (height, width)).to(before)
    everywhere = bilinear(maps[1], pixels[None], (height, width))[0]
    best = (F.normalize(looks, dim=1) @ F.normalize(everywhere, dim=1).T).argmax(1)
    return (pixels[best] - targets).norm(dim=1)
