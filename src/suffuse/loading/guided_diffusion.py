"""Checkpoints of guided-diffusion: ADM's networks and their noisy classifiers, in their original key layout.

Sizes are read off the shapes of the weights. What is nowhere in them (heads, how heads and q, k, v are interleaved, the
noise table) is that of the release, which the name of the file tells. The released files are pickled: read them where
you trust them with torch.load(path, weights_only=True), and give the weights, or save them as safetensors.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..backbones.adm import ADM
from ..core.denoiser import Network
from ..core.errors import BadInput, Damaged, nearest
from ..core.prediction import EPS
from ..networks.adm import ADMClassifier, ADMUNet
from ..processes.learned_variance import LearnedVariance
from ..processes.tables import Table
from .guided_diffusion_names import Weights, converted
from .parts import CONVERT, check_weights


@dataclass(frozen=True)
class Release:
    """What the weights of a checkpoint do not say.

    Args:
        image_size: side of a picture.
        blocks: residual blocks in a level.
        heads: heads in every attention; None where each has `head_width` channels.
        head_width: channels a head.
        split_first: q, k and v are split before heads ("new attention order"); else heads before q, k and v.
        schedule: of betas, as in `Table`.
        channels: of a state; networks of upsamplers read twice as many.
        groups: of the norms.
    """

    image_size: int
    blocks: int = 2
    heads: int | None = None
    head_width: int = 64
    split_first: bool = False
    schedule: str = "linear"
    channels: int = 3
    groups: int = 32


RELEASES: Mapping[str, Release] = {
    "64x64_diffusion": Release(64, blocks=3, split_first=True, schedule="squaredcos_cap_v2"),
    "128x128_diffusion": Release(128, heads=4),
    "256x256_diffusion": Release(256),
    "256x256_diffusion_uncond": Release(256),
    "512x512_diffusion": Release(512),
    "64_256_upsampler": Release(256, heads=4),
    "128_512_upsampler": Release(512),
    "lsun_bedroom": Release(256),
    "lsun_cat": Release(256),
    "lsun_horse": Release(256),
    "lsun_horse_nodropout": Release(256),
    "64x64_classifier": Release(64, blocks=4),
    "128x128_classifier": Release(128),
    "256x256_classifier": Release(256),
    "512x512_classifier": Release(512),
}
"""The released checkpoints by the names of their files."""


def read_denoiser(source: str | os.PathLike[str] | Weights, release: str | Release | None = None) -> Network:
    """A diffusion model or an upsampler of guided-diffusion.

    Args:
        source: a safetensors file, or its weights by their original names.
        release: its name, one of `RELEASES`, or what it is; default what the file's name says.

    Raises:
        BadInput: an unknown release, pickled weights, or weights of something else.
        Damaged: weights are missing or misshapen.

    Example:
        >>> denoiser = read_denoiser("256x256_diffusion_uncond.safetensors")
        >>> guidance = ClassifierGuidance(read_classifier("256x256_classifier.safetensors"), s=10.0, target=207)
        >>> sample(denoiser, (4, 3, 256, 256), sampler=DDIM(), steps=25, guidance=guidance)
    """
    weights, facts = _weights(source), _facts(source, release)
    config = _config(weights, facts)
    learned = _rows(weights, "out.2.weight") == 2 * facts.channels
    net = _filled(
        lambda: ADMUNet(
            **config,
            source_channels=_get(weights, "input_blocks.0.0.weight").shape[1] - facts.channels,
            heads=facts.heads,
            classes=_rows(weights, "label_emb.weight") if "label_emb.weight" in weights else None,
            learned_variance=learned,
        ),
        weights,
        facts,
    )
    table = (LearnedVariance if learned else Table)(facts.schedule, 0.0001, 0.02)
    return Network(net, ADM(), table, EPS).eval()


def read_classifier(source: str | os.PathLike[str] | Weights, release: str | Release | None = None) -> ADMClassifier:
    """A classifier of noisy pictures of guided-diffusion, for `ClassifierGuidance`; as `read_denoiser`."""
    weights, facts = _weights(source), _facts(source, release)
    config = _config(weights, facts)
    if "out.2.positional_embedding" not in weights:
        raise BadInput("source: a classifier of guided-diffusion with attention pooling is wanted; use read_denoiser")
    classes = _rows(weights, "out.2.c_proj.weight")
    net = _filled(lambda: ADMClassifier(**config, classes=classes), weights, facts)
    assert isinstance(net, ADMClassifier)
    return net.eval().requires_grad_(False)


def _facts(source: str | os.PathLike[str] | Weights, release: str | Release | None) -> Release:
    if isinstance(release, Release):
        return release
    if release is None and isinstance(source, Mapping):
        raise BadInput(f"release: give its name, one of {', '.join(RELEASES)}, or a Release(image_size=...)")
    name = Path(os.fspath(source)).stem if release is None else release  # type: ignore[arg-type]
    if name not in RELEASES:
        raise BadInput(f"release={name!r} is unknown; {nearest(name, RELEASES)}; or give a Release(image_size=...)")
    return RELEASES[name]


def _weights(source: str | os.PathLike[str] | Weights) -> Weights:
    weights = source if isinstance(source, Mapping) else _file(Path(source))
    if "input_blocks.0.0.weight" not in weights or "time_embed.0.weight" not in weights:
        raise BadInput(f"source: weights such as {min(weights, default='none')!r} are not of guided-diffusion")
    return weights


def _file(path: Path) -> Weights:
    from safetensors.torch import load_file

    if not path.is_file():
        raise BadInput(f"source: there is no file {path}; give a safetensors file of guided-diffusion")
    with open(path, "rb") as file:
        if file.read(2) in (b"PK", b"\x80\x02", b"\x80\x04"):
            raise BadInput(f"{path}: pickled weights can run code and are not read; {CONVERT}")
    check_weights(path)
    return load_file(path)


def _get(weights: Weights, name: str) -> torch.Tensor:
    if name not in weights:
        raise Damaged(f"source: the weight {name!r} is missing; copy the file again")
    return weights[name]


def _rows(weights: Weights, name: str) -> int:
    return _get(weights, name).shape[0]


def _config(weights: Weights, facts: Release) -> dict[str, Any]:
    """What the shapes say: a level is `blocks` residual blocks and, but for the last, one block that resamples."""
    width, period = _get(weights, "time_embed.0.weight").shape[1], facts.blocks + 1
    last = max(int(m[1]) for name in weights if (m := re.match(r"input_blocks\.(\d+)\.", name)))
    if last % period != facts.blocks:
        raise BadInput(f"release: {last} input blocks do not make levels of {facts.blocks}; give the right Release")
    firsts = range(1, last + 1, period)
    outs = [_rows(weights, f"input_blocks.{i}.0.out_layers.3.weight") for i in firsts]
    attend = [f"input_blocks.{i}.1.qkv.weight" in weights for i in firsts]
    return {
        "image_size": facts.image_size,
        "channels": facts.channels,
        "width": width,
        "multipliers": tuple(out // width for out in outs),
        "blocks": facts.blocks,
        "attention": tuple(facts.image_size // 2**k for k, attends in enumerate(attend) if attends),
        "head_width": facts.head_width,
        "adaptive": _rows(weights, "input_blocks.1.0.emb_layers.1.weight") == 2 * outs[0],
        "resample": f"input_blocks.{period}.0.op.weight" not in weights,
        "groups": facts.groups,
    }


def _filled(build: Any, weights: Weights, facts: Release) -> nn.Module:
    """The network with its weights in float32; released ones are partly in half precision."""
    net: nn.Module = build()
    try:
        net.load_state_dict({k: v.float() for k, v in converted(weights, net, facts.split_first).items()})
    except KeyError as error:
        raise Damaged(f"source: the weight {error} is missing; copy the file again") from error
    except RuntimeError as error:
        raise Damaged(f"source: a weight has another shape than this release ({str(error).split(': ')[-1]})") from error
    return net
