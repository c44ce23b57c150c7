"""Memory of a picture against its size, of an SD1.5-sized network: whole, and by windows and tiles.

    python benchmarks/peak_memory.py [--sides 512 1024 2048] [--steps 2] [--check] [--output docs/memory.json]

The run is the library's own, in float32 with CFG, from noise to decoded pixels. Only what fills tensors is left out,
weights included: an operation that makes a new large tensor makes one of zeros in its shape, so that 2048 pixels take a
minute on one core. `--check` runs 64 pixels both ways and compares. Needs Linux and 4 GB; nothing is fetched.
"""

from __future__ import annotations

import argparse
import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import AutoencoderKL
from full_size import sd15
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from suffuse import Cond, sample
from suffuse.backbones import family_of
from suffuse.codecs.autoencoder import VAE
from suffuse.codecs.tiled import TiledVAE
from suffuse.core.denoiser import Network
from suffuse.core.files import write_json
from suffuse.core.prediction import EPS
from suffuse.evaluation.memory import peak_memory
from suffuse.guidance import CFG
from suffuse.processes import Table
from suffuse.resolution import MultiDiffusion
from suffuse.samplers import DDIM

LARGE = 1 << 16
"""Entries from which a tensor is not filled."""

MAPPED = 1 << 18
"""Bytes above which the allocator is told to ask the system."""


class Unfilled(TorchDispatchMode):
    """New large tensors are zeros in their shape; views, and what is written in place, are as ever."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [v for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
        writes = func._schema.is_mutable or any(r.alias_info is not None for r in func._schema.returns)
        if writes or not given or max(v.numel() for v in given) < LARGE:
            return func(*args, **kwargs)
        shapes = pytree.tree_map(_shape, (args, kwargs))
        return pytree.tree_map(lambda v: _zeros(v) if isinstance(v, Tensor) else v, func(*shapes[0], **shapes[1]))


def _shape(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return torch.device("meta") if isinstance(value, torch.device) else value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def _zeros(like: Tensor) -> Tensor:
    made = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype)
    # more than this comes from the system, zero and without a page in use
    return made if made.untyped_storage().nbytes() > MAPPED else made.zero_()


def _unfilled(build: Callable[[], Any]) -> Any:
    """A network with weights that nobody has filled; the small ones are zeros."""
    with torch.device("meta"):
        net = build()
    net.to_empty(device="cpu").eval().requires_grad_(False)
    for p in net.parameters():
        if p.numel() * p.element_size() <= MAPPED:
            p.zero_()
    return net


@contextmanager
def as_it_is() -> Iterator[None]:
    """Everything is computed."""
    yield


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--check", action="store_true", help="64 pixels, computed and not")
    parser.add_argument("--output", help="JSON file")
    given = parser.parse_args()

    ctypes.CDLL(None).mallopt(-3, MAPPED // 2)  # M_MMAP_THRESHOLD of glibc
    net = _unfilled(sd15)
    denoiser = Network(net, family_of(net), Table(), EPS)
    random = torch.Generator().manual_seed(1)
    text, null = (Cond({"text": torch.randn(1, 77, 768, generator=random)}) for _ in range(2))
    cond = text.with_alt(null=null)
    vae = _unfilled(
        lambda: AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )
    )  # fmt: skip
    weights = sum(p.numel() * p.element_size() for net in (denoiser, vae) for p in net.parameters())
    whole, parts = VAE(vae), TiledVAE(vae)
    ways: dict[str, tuple[Any, VAE]] = {
        "whole": (CFG(7.5), whole),
        "MultiDiffusion(batch=1), TiledVAE(tile=64)": (MultiDiffusion(batch=1) | CFG(7.5), parts),
    }

    def peaks(guidance: Any, codec: VAE, side: int) -> tuple[int, int]:
        x = torch.randn(1, 4, side // 8, side // 8, generator=torch.Generator().manual_seed(0))

        def run() -> None:
            sample(denoiser, x, sampler=DDIM(), steps=given.steps, cond=cond, guidance=guidance)

        return peak_memory(run), peak_memory(lambda: codec.decode(x))

    if given.check:
        for mode in (as_it_is, Unfilled):
            with torch.no_grad(), mode():
                print(mode.__name__, peaks(CFG(7.5), whole, 64))
        return
    rows = []
    for side in given.sides:
        for name, (guidance, codec) in ways.items():
            with torch.no_grad(), Unfilled():
                sampling, decoding = peaks(guidance, codec, side)
            rows.append({"side": side, "way": name, "sampling": sampling, "decoding": decoding})
            print(
                f"{side}: {name}: sampling {sampling / 2**30:.2f} GiB, decoding {decoding / 2**30:.2f} GiB", flush=True
            )
            if given.output:
                write_json(given.output, {"weights": weights, "steps": given.steps, "rows": rows})


if __name__ == "__main__":
    main()
