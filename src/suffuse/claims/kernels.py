"""Claim of kernels that replace single operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from suffuse.caching.kernels import KERNELS, FastKernels
from suffuse.caching.tiled_attention import partially_fused, tiled
from suffuse.caching.winograd import transformed, winograd
from suffuse.core.denoiser import Denoiser
from suffuse.core.metric import Estimate
from suffuse.core.value import Coef
from suffuse.evaluation.memory import peak_memory
from suffuse.evaluation.operations import operations
from suffuse.evaluation.timing import paired

from . import microworld as mw
from .claim import Cell, Table, at_most, claim

CHANNELS, SIDE, TOKENS, HEADS, HEAD = 320, 32, 4096, 8, 40
"""Of the outer level of Stable Diffusion 1 (the convolution at half its side)."""


@claim(
    paper="speed-is-all",
    expect={
        "largest error": at_most(1e-4),
        "multiplications, Winograd / direct": at_most(0.3),
        "memory, tiled / plain softmax": at_most(0.25),
        "memory, partly fused / plain softmax": at_most(0.6),
        "time of the chosen plan / plain": at_most(1.02),
    },
    budget=300,
)
def speed_is_all(seed: int) -> Table:
    """Kernels at the shapes of Stable Diffusion 1: a 3x3 convolution of 320 channels on 32x32, attention of 4096 tokens
    with 8 heads of 40; float32 on this machine's CPU, one thread. Errors are relative to the largest entry. Memory is
    of the tensors that are alive at once, against scores and softmax written out. The plan is chosen layer by layer for
    `shapes` with two rows, and its time is that of whole evaluations in turns with the plain network; kernels that are
    compiled are left to `suffuse.tuned`.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x, weight = draw(1, CHANNELS, SIDE, SIDE), draw(CHANNELS, CHANNELS, 3, 3) / (9 * CHANNELS) ** 0.5
    u = transformed(weight)
    q, k, v = (draw(1, HEADS, TOKENS, HEAD) for _ in range(3))
    scale = HEAD**-0.5
    direct: Callable[[], Tensor] = lambda: F.conv2d(x, weight, padding=1)  # noqa: E731
    plain: Callable[[], Tensor] = lambda: ((q @ k.mT) * scale).softmax(-1) @ v  # noqa: E731
    works: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
        "Winograd F(4x4, 3x3)": (lambda: winograd(x, u), direct),
        "attention, partly fused": (lambda: partially_fused(q, k, v, scale), plain),
        "attention, tiled": (lambda: tiled(q, k, v, scale), plain),
        "attention of torch": (lambda: F.scaled_dot_product_attention(q, k, v), plain),
    }
    errors, memory, rows = {}, {}, list[Mapping[str, Cell]]()
    for name, (ours, theirs) in works.items():
        a, b = ours(), theirs()
        errors[name] = float((a - b).abs().max() / b.abs().max())
        memory[name] = peak_memory(ours) / peak_memory(theirs)
        ratio = paired(ours, theirs, rounds=5).ratio
        rows.append({"kernel": name, "error": errors[name], "memory": memory[name], "time": ratio})
    whole, share, time = _plan()
    rows.append({"kernel": f"plan for `shapes`: {share}", "error": whole, "time": time})
    return Table(
        rows,
        {
            "largest error": max(whole, *errors.values()),
            "multiplications, Winograd / direct": operations(lambda: winograd(x, u)) / operations(direct),
            "memory, tiled / plain softmax": memory["attention, tiled"],
            "memory, partly fused / plain softmax": memory["attention, partly fused"],
            "time of the chosen plan / plain": time,
        },
    )


def _plan() -> tuple[float, str, Estimate]:
    """Error, what was chosen, and time over the plain network's."""
    loaded = mw.model()
    cond, space = loaded.condition(["a red circle", "a blue square"]), loaded.codec.space
    x = torch.randn(2, *space.shape(loaded.defaults.size), generator=torch.Generator().manual_seed(0))
    still = [k for k in KERNELS if type(k).__name__ != "FusedResnet"]
    found = FastKernels.chosen(loaded.denoiser, x, cond=cond, kernels=still)
    fast = loaded.denoiser.with_(found.plan)

    def value(net: Denoiser) -> Tensor:
        with torch.no_grad():
            return net(x, Coef(0.5), cond).value

    a, b = value(fast), value(loaded.denoiser)
    layers = len({name for name, _, _ in found.report})
    time = paired(lambda: value(fast), lambda: value(loaded.denoiser), rounds=60).ratio
    return float((a - b).abs().max() / b.abs().max()), f"{len(found.plan.kernels)} of {layers} layers", time
