"""ME-CondConv: experts of a convolution, mixed for each sample before one convolution is made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.call import Call
from ..core.errors import BadInput, Refused
from ..core.patch import Patch
from ..core.registry import method
from ..core.site import Site, Sites


@method(paper="a-sdm-inheritance", tags=("condconv",))
@dataclass(frozen=True)
class MECondConv(Patch):
    """y = (sum_j r_j(x) W_j) * x + b with r = sigmoid(FC(mean of x over pixels)): one convolution for each sample,
    whatever the number of experts. All experts begin as the trained kernel, and routes that sum to 1.

    Args:
        experts: how many kernels, at least 1.
        where: fragments of the names of convolutions; () is all with a kernel above 1 x 1.

    Raises:
        BadInput: no experts. Refused: a network without such convolutions.

    Example:
        >>> adapter = MECondConv(experts=4).on(light)
        >>> trainer = Trainer({"student": light.with_(adapter), "adapter": adapter, "teacher": teacher}, phase)

    Reference: Zhang et al., A-SDM: Accelerating Stable Diffusion through Model Assembly and Feature Inheritance
    Strategies, 2406.00210; Yang et al., CondConv, 1904.04971.

    Differs from the paper: an adapter holds what the experts differ by from the kernel, so that the network stays; at
    scale s the kernel is W + s (sum_j r_j W_j - W).
    """

    experts: int = 4
    where: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.experts < 1:
            raise BadInput(f"MECondConv(experts={self.experts}): give at least 1")

    def sites(self, net: Sites) -> Sequence[Site]:
        wide = [s for s in net.of("conv") if _fits(s.module)]
        found = [s for s in wide if not self.where or any(w in s.name for w in self.where)]
        if not found:
            raise Refused(f"{self}: this network has no such convolutions; use it on a UNet")
        return found

    def make(self, site: Site) -> nn.Module:
        assert isinstance(site.module, nn.Conv2d)
        return Experts(site.module, self.experts)

    def around(self, call: Call) -> Any:
        if call.scale == 0.0:
            return call()
        conv: Any = call.site.module
        x: Tensor = call["image"]
        own = conv.weight.float()
        kernel = own + call.scale * (call.part(x.float(), own) - own)
        return _each(conv, x, kernel.to(x.dtype))


class Experts(nn.Module):
    """Routes of a sample, and what each expert differs by from the trained kernel.

    Args:
        conv: the convolution.
        count: how many experts.
    """

    def __init__(self, conv: nn.Conv2d, count: int):
        super().__init__()
        self.route = nn.Linear(conv.in_channels, count)
        nn.init.zeros_(self.route.weight)
        nn.init.constant_(self.route.bias, -math.log(count - 1) if count > 1 else 20.0)  # sigmoid of it is 1 / count
        self.change = nn.Parameter(torch.zeros(count, *conv.weight.shape))

    def forward(self, x: Tensor, own: Tensor) -> Tensor:
        """(B, out, in, h, w): the experts mixed for each sample x (B, C, H, W), around the trained kernel."""
        r = torch.sigmoid(self.route(x.mean((2, 3))))
        return r.sum(1)[:, None, None, None, None] * own + torch.einsum("be,eoihw->boihw", r, self.change)


def _each(conv: nn.Conv2d, x: Tensor, kernel: Tensor) -> Tensor:
    """The convolution of each sample (B, C, H, W) with its own kernel (B, out, in, h, w), as one of B groups."""
    n = len(x)
    padding: Any = conv.padding
    out = F.conv2d(
        x.reshape(1, -1, *x.shape[2:]), kernel.flatten(0, 1), None, conv.stride, padding, conv.dilation, n * conv.groups
    )
    out = out.view(n, -1, *out.shape[2:])
    return out if conv.bias is None else out + conv.bias.to(x.dtype)[:, None, None]


def _fits(module: nn.Module | None) -> bool:
    return isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1 and module.padding_mode == "zeros"
