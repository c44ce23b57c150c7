"""LPIPS: distance of two pictures in the features of a classifier, in plain torch, with weights of the user's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from suffuse.core.registry import method

from .scores import PairDistance
from .weights import load_into, read_weights

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Normalisation of pictures in [-1, 1]: ImageNet's mean and deviation on that scale."""

POOL = "pool"
VGG16 = (64, 64, POOL, 128, 128, POOL, 256, 256, 256, POOL, 512, 512, 512, POOL, 512, 512, 512)

REMEDY = (
    "save the released weights as safetensors: backbone is torchvision's vgg16-397923af.pth or "
    "alexnet-owt-7be5be79.pth (SHA-256 begins as the name ends), linear is lpips' v0.1/vgg.pth or v0.1/alex.pth"
)


def _vgg() -> tuple[nn.Sequential, tuple[int, ...]]:
    layers: list[nn.Module] = []
    width = 3
    for size in VGG16:
        if isinstance(size, str):
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(width, size, 3, padding=1), nn.ReLU()]
            width = size
    return nn.Sequential(*layers), (3, 8, 15, 22, 29)


def _alex() -> tuple[nn.Sequential, tuple[int, ...]]:
    layers = nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
    )  # fmt: skip
    return layers, (1, 4, 7, 9, 11)


class Perceptual(nn.Module):
    """sum_l mean_hw w_l . (y_l - y0_l)^2 over five layers of a classifier; y are features of unit length over channels.

    Args:
        vgg: VGG-16 (relu1_2 ... relu5_3) instead of AlexNet (relu1 ... relu5).
    """

    def __init__(self, vgg: bool) -> None:
        super().__init__()
        self.features, self.taps = _vgg() if vgg else _alex()
        widths = [64, 128, 256, 512, 512] if vgg else [64, 192, 384, 256, 256]
        self.weights = nn.ParameterList([nn.Parameter(torch.ones(1, w, 1, 1)) for w in widths])

    def _taps(self, images: Tensor) -> list[Tensor]:
        shift, scale = (images.new_tensor(v)[:, None, None] for v in (SHIFT, SCALE))
        x, found = (images - shift) / scale, []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.taps:
                found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """(B,) distance of images (B, 3, H, W) in [-1, 1]."""
        pairs = zip(self._taps(first), self._taps(second), self.weights, strict=True)
        return torch.stack([(w * (a - b).square()).sum(1).mean((1, 2)) for a, b, w in pairs]).sum(0)


@lru_cache(maxsize=2)
def _load(backbone: str, linear: str) -> tuple[Perceptual, str]:
    tensors, digest = read_weights(backbone, "LPIPS backbone", REMEDY)
    heads, head_digest = read_weights(linear, "LPIPS linear", REMEDY)
    # told apart by content: VGG's convolutions are 3 x 3
    vgg = "features.0.weight" in tensors and tensors["features.0.weight"].shape[-1] == 3
    net = Perceptual(vgg)
    kept = {k.removeprefix("features."): v for k, v in tensors.items() if not k.startswith("classifier.")}
    load_into(net.features, kept, backbone, "LPIPS backbone")
    names = {f"lin{i}.model.1.weight": str(i) for i in range(5)}
    load_into(net.weights, {names.get(k, k): v for k, v in heads.items()}, linear, "LPIPS linear")
    return net.eval().requires_grad_(False), f"{'VGG-16' if vgg else 'AlexNet'} {digest}, linear {head_digest}"


@method(tags=("metric",))
@dataclass(frozen=True)
class LPIPS(PairDistance):
    """Learned perceptual distance of each picture to its reference, version 0.1, at the pictures' own size.

    Tensor names are those of the released files. They are written from knowledge of those files, which this project's
    tests do not have; a file that differs is refused by the name of the tensor.

    Args:
        backbone: safetensors file of torchvision's VGG-16 or AlexNet; which of them is seen from its content.
        linear: safetensors file of LPIPS' own weights for that network.

    Reference: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, 1801.03924.
    """

    backbone: str
    linear: str

    @property
    def name(self) -> str:
        return "LPIPS"

    @property
    def protocol(self) -> str:
        return f"version 0.1, {_load(self.backbone, self.linear)[1]}, at the pictures' own size"

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        return _load(self.backbone, self.linear)[0](first, second)
