"""Inception-v3 as FID and KID use it: the 2048 features of the last pooling, with weights that the user brings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .features import Features
from .weights import load_into, read_weights

SIDE = 299

REMEDY = (
    "get pt_inception-2015-12-05-6726825d.pth (the released FID weights), check that its SHA-256 begins with 6726825d, "
    "and save its tensors as safetensors: save_file(torch.load(FILE, weights_only=True), 'inception.safetensors')"
)


class Conv(nn.Module):
    """Convolution without bias, batch norm, ReLU; padded to keep the size unless it strides or is told not to."""

    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, pad: bool = True):
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (height // 2, width // 2) if pad and stride == 1 else 0
        self.conv = nn.Conv2d(inputs, outputs, (height, width), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


Layer = tuple  # (name, outputs, kernel) or (name, outputs, kernel, stride)


@dataclass(frozen=True)
class Branch:
    """Convolutions in a row; `ends` run side by side on the last one's output and are concatenated."""

    layers: Sequence[Layer]
    ends: Sequence[Layer] = ()


class Mixed(nn.Module):
    """Branches and a pooling side by side, concatenated. A pooling that keeps the size has a 1x1 convolution."""

    def __init__(self, inputs: int, branches: Sequence[Branch], pool: str, pooled: int = 0):
        super().__init__()
        self.plan, self.pool = branches, pool
        for branch in branches:
            width = inputs
            for name, outputs, *how in branch.layers:
                self.add_module(name, Conv(width, outputs, *how))
                width = outputs
            for name, outputs, *how in branch.ends:
                self.add_module(name, Conv(width, outputs, *how))
        if pooled:
            self.branch_pool = Conv(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for branch in self.plan:
            h = x
            for name, *_ in branch.layers:
                h = self.get_submodule(name)(h)
            outputs += [self.get_submodule(name)(h) for name, *_ in branch.ends] or [h]
        return torch.cat([*outputs, self._pooled(x)], 1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.pool == "stride":
            return F.max_pool2d(x, 3, 2)
        if self.pool == "maximum":
            return self.branch_pool(F.max_pool2d(x, 3, 1, 1))
        return self.branch_pool(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False))


def _a(inputs: int, pooled: int) -> Mixed:
    return Mixed(inputs, [
        Branch([("branch1x1", 64, 1)]),
        Branch([("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)]),
        Branch([("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)]),
    ], "average", pooled)  # fmt: skip


def _b(inputs: int) -> Mixed:
    return Mixed(inputs, [
        Branch([("branch3x3", 384, 3, 2)]),
        Branch([("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3, 2)]),
    ], "stride")  # fmt: skip


def _c(inputs: int, width: int) -> Mixed:
    row, column = (1, 7), (7, 1)
    return Mixed(inputs, [
        Branch([("branch1x1", 192, 1)]),
        Branch([("branch7x7_1", width, 1), ("branch7x7_2", width, row), ("branch7x7_3", 192, column)]),
        Branch([("branch7x7dbl_1", width, 1), ("branch7x7dbl_2", width, column), ("branch7x7dbl_3", width, row),
                ("branch7x7dbl_4", width, column), ("branch7x7dbl_5", 192, row)]),
    ], "average", 192)  # fmt: skip


def _d(inputs: int) -> Mixed:
    return Mixed(inputs, [
        Branch([("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3, 2)]),
        Branch([("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, (1, 7)), ("branch7x7x3_3", 192, (7, 1)),
                ("branch7x7x3_4", 192, 3, 2)]),
    ], "stride")  # fmt: skip


def _e(inputs: int, pool: str) -> Mixed:
    row, column = (1, 3), (3, 1)
    return Mixed(inputs, [
        Branch([("branch1x1", 320, 1)]),
        Branch([("branch3x3_1", 384, 1)], [("branch3x3_2a", 384, row), ("branch3x3_2b", 384, column)]),
        Branch([("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3)],
               [("branch3x3dbl_3a", 384, row), ("branch3x3dbl_3b", 384, column)]),
    ], pool, 192)  # fmt: skip


class Inception(nn.Module):
    """The FID variant of Inception-v3: averages leave out the padding, and the last block pools by maximum.

    Reference: Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 1512.00567.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3, pad=False)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, pad=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _a(192, 32), _a(256, 64), _a(288, 64)
        self.Mixed_6a, self.Mixed_6b, self.Mixed_6c = _b(288), _c(768, 128), _c(768, 160)
        self.Mixed_6d, self.Mixed_6e = _c(768, 160), _c(768, 192)
        self.Mixed_7a, self.Mixed_7b, self.Mixed_7c = _d(768), _e(1280, "average"), _e(2048, "maximum")

    def forward(self, images: Tensor) -> Tensor:
        """(B, 2048) from images (B, 3, 299, 299) in [-1, 1]."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(images)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        return x.mean((2, 3))


@lru_cache(maxsize=1)
def _load(path: str) -> tuple[Inception, str]:
    tensors, digest = read_weights(path, "InceptionFeatures", REMEDY)
    net = Inception()
    # the classifier is part of the released file and of no use here
    load_into(net, {k: v for k, v in tensors.items() if not k.startswith("fc.")}, path, "InceptionFeatures")
    return net.eval().requires_grad_(False), digest


@dataclass(frozen=True)
class InceptionFeatures(Features):
    """The 2048 features that FID and KID are defined on, of pictures resized to 299 x 299 (bilinear, not antialiased).

    Tensor names are those of the released pt_inception-2015-12-05-6726825d.pth. They are written from knowledge of that
    file and have not been loaded from it in this project's tests, which compare the network with its published size
    alone; a file that differs is refused by the name of the tensor.

    Args:
        weights: safetensors file of those tensors; names and shapes are checked, and its hash enters every protocol.

    Reference: Heusel et al., 1706.08500; on why the resize is part of the protocol: Parmar et al., On Aliased Resizing
    and Surprising Subtleties in GAN Evaluation, 2104.11222.
    """

    weights: str

    @property
    def name(self) -> str:
        return f"inception {_load(self.weights)[1]} pool3 at {SIDE}x{SIDE} (bilinear, not antialiased)"

    def __call__(self, images: Tensor) -> Tensor:
        net, _ = _load(self.weights)
        with torch.no_grad():
            return net(F.interpolate(images.float(), (SIDE, SIDE), mode="bilinear", align_corners=False))
