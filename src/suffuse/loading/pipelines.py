"""The pipelines of diffusers that are known: how their parts make a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..backbones import family_of
from ..codecs.autoencoder import VAE
from ..codecs.pixel import Pixels
from ..conditioning.classes import Classes
from ..conditioning.clip import CLIPPair, CLIPText, PooledCLIP
from ..conditioning.sizes import Resolution, TimeIds
from ..conditioning.t5 import AppendedT5, T5Text
from ..core.conditioner import Conditioner, Piece
from ..core.denoiser import Network
from ..core.errors import BadInput, Damaged, nearest
from ..core.guidance import Guidance
from ..core.model import Defaults, Layout, Model
from ..editing.masked_blend import MaskedBlend
from ..guidance.cfg import CFG
from ..guidance.embedded import Embedded
from .schedules import read_schedule

Parts = Mapping[str, Any]


def cfg(scale: float) -> Guidance:
    """CFG; a scale of 1 or less is none, as in diffusers' pipelines."""
    return CFG(max(scale, 1.0))


def _clip(parts: Parts, others: Parts) -> list[Piece]:
    return [CLIPText(parts["tokenizer"], parts["text_encoder"])]


def _clip_pair(parts: Parts, others: Parts) -> list[Piece]:
    if others.get("requires_aesthetics_score"):
        raise BadInput("StableDiffusionXLImg2ImgPipeline: SDXL's refiner is not supported; give the base model")
    zero = bool(others.get("force_zeros_for_empty_prompt", True))
    return [CLIPPair([_pair(parts, ""), _pair(parts, "_2")], (1,), zero), TimeIds()]


def _three(parts: Parts, others: Parts) -> list[Piece]:
    pair = CLIPPair([_pair(parts, ""), _pair(parts, "_2")], (0, 1))
    width = parts["transformer"].config.joint_attention_dim
    return [pair, AppendedT5(parts.get("tokenizer_3"), parts.get("text_encoder_3"), 256, width)]


def _flux(parts: Parts, others: Parts) -> list[Piece]:
    names = ("text_encoder_2", "tokenizer_2")
    t5 = T5Text(parts["tokenizer_2"], parts["text_encoder_2"], 512, False, names)
    return [PooledCLIP(parts["tokenizer"], parts["text_encoder"]), t5]


def _pixart(length: int) -> Callable[[Parts, Parts], list[Piece]]:
    def pieces(parts: Parts, others: Parts) -> list[Piece]:
        text = T5Text(parts["tokenizer"], parts["text_encoder"], length, True, ("text_encoder", "tokenizer"))
        sized = getattr(parts["transformer"], "use_additional_conditions", False)
        return [text, Resolution()] if sized else [text]

    return pieces


def _classes(parts: Parts, others: Parts) -> list[Piece]:
    net = parts.get("transformer") or parts.get("unet")
    assert net is not None
    names = {label.strip(): int(k) for k, v in (others.get("id2label") or {}).items() for label in str(v).split(",")}
    if "transformer" in parts:  # DiT: one more row in the table of classes than num_embeds_ada_norm stands for none
        count = net.config.num_embeds_ada_norm
        return [Classes(count, names, count)]
    count = net.config.num_class_embeds
    # By convention the last class of a pixel UNet is the null class.
    return [Classes(count - 1, names, count - 1)] if count else []


@dataclass(frozen=True)
class Kind:
    """What is known of a pipeline class.

    Args:
        net: name of its denoising network.
        pieces: from its parts to the chain of its conditioner.
        steps, guidance: defaults.
        guide: the guidance that a scale means.
        patch: entries of a state, along each side, that the network takes as one token; None where its
            configuration says it.
        even: it places the steps of a flow evenly before they are shifted.
    """

    net: str
    pieces: Callable[[Parts, Parts], list[Piece]]
    steps: int
    guidance: float
    guide: Callable[[float], Guidance] = cfg
    patch: int | None = None
    even: bool = False


SD = Kind("unet", _clip, 30, 7.5)
SDXL = Kind("unet", _clip_pair, 30, 5.0)
SD3 = Kind("transformer", _three, 28, 7.0)
FLUX = Kind("transformer", _flux, 28, 3.5, Embedded, patch=2, even=True)
PIXEL = Kind("unet", _classes, 50, 1.0)

PIPELINES: Mapping[str, Kind] = {
    "StableDiffusionPipeline": SD,
    "StableDiffusionImg2ImgPipeline": SD,
    "StableDiffusionInpaintPipeline": SD,
    "LatentConsistencyModelPipeline": Kind("unet", _clip, 4, 8.5),
    "StableDiffusionXLPipeline": SDXL,
    "StableDiffusionXLImg2ImgPipeline": SDXL,
    "StableDiffusionXLInpaintPipeline": SDXL,
    "StableDiffusion3Pipeline": SD3,
    "StableDiffusion3Img2ImgPipeline": SD3,
    "StableDiffusion3InpaintPipeline": SD3,
    "FluxPipeline": FLUX,
    "FluxImg2ImgPipeline": FLUX,
    "FluxInpaintPipeline": FLUX,
    "PixArtAlphaPipeline": Kind("transformer", _pixart(120), 20, 4.5),
    "PixArtSigmaPipeline": Kind("transformer", _pixart(300), 20, 4.5),
    "DiTPipeline": Kind("transformer", _classes, 50, 4.0),
    "DDPMPipeline": PIXEL,
    "DDIMPipeline": PIXEL,
}


def assemble(
    pipeline: str, parts: Parts, scheduler: Mapping[str, Any], *, others: Parts | None = None, name: str = ""
) -> Model:
    """A model of these parts.

    Args:
        pipeline: diffusers' name of the pipeline class.
        parts: modules and tokenizers by diffusers' names.
        scheduler: configuration with its "_class_name".
        others: further entries of model_index.json, such as "id2label".
        name: what it was loaded as.

    Raises:
        BadInput: a pipeline that is not known. Damaged: a part is missing.
    """
    others = dict(others or {})
    if pipeline not in PIPELINES:
        raise BadInput(f"pipeline {pipeline!r} is unknown; {nearest(pipeline, PIPELINES)}")
    kind = PIPELINES[pipeline]
    if parts.get(kind.net) is None:
        raise Damaged(f"{name or pipeline}: has no {kind.net!r}; copy the whole model again")
    net: nn.Module = parts[kind.net]
    schedule = read_schedule(scheduler, even=kind.even)
    try:
        pieces = kind.pieces(parts, others)
        codec = VAE(parts["vae"]) if kind is not PIXEL else Pixels(_config(net).in_channels)
    except KeyError as error:
        raise Damaged(f"{name or pipeline}: has no {error.args[0]!r}; copy the whole model again") from error
    family = family_of(net)
    guide, scale = _guide(kind, net)
    factor = 1 if kind is PIXEL else 2 ** (len(parts["vae"].config.block_out_channels) - 1)
    beside = kind is not PIXEL and _channels(kind, net) > parts["vae"].config.latent_channels
    defaults = Defaults(
        sampler=schedule.sampler, spacing=schedule.spacing, steps=kind.steps, guidance=guide(scale), guide=guide,
        size=_size(net, factor), multiple=_multiple(kind, net, factor),
        inpainting=None if beside else MaskedBlend(),
    )  # fmt: skip
    layout = Layout(pipeline, kind.net, scheduler, others)
    return Model(
        Conditioner(pieces), codec, Network(net, family, schedule.process, schedule.kind).eval(), defaults, layout, name
    )


def _pair(parts: Parts, end: str) -> tuple[Any, Any] | None:
    encoder = parts.get(f"text_encoder{end}")
    return None if encoder is None else (parts[f"tokenizer{end}"], encoder)


def _config(net: Any) -> Any:
    return net.config


def _channels(kind: Kind, net: Any) -> int:
    """Channels that the network reads, of a state and whatever lies beside it."""
    return _config(net).in_channels // (kind.patch or 1) ** 2


def _guide(kind: Kind, net: Any) -> tuple[Callable[[float], Guidance], float]:
    """How a number guides this network: by its input where it has one for it (Flux-dev, LCM), else by CFG."""
    if getattr(net.config, "time_cond_proj_dim", None):
        return Embedded, 8.5
    if kind is FLUX and not net.config.guidance_embeds:
        return cfg, 1.0
    if kind is PIXEL and net.config.num_class_embeds:
        return cfg, 3.0
    return kind.guide, kind.guidance


def _size(net: Any, factor: int) -> tuple[int, int]:
    side = getattr(net.config, "sample_size", None) or 128  # Flux has no size of its own; its pipeline takes 128
    height, width = (side, side) if isinstance(side, int) else side
    return height * factor, width * factor


def _multiple(kind: Kind, net: Any, factor: int) -> int:
    patch = kind.patch or getattr(net.config, "patch_size", None)
    if patch:
        return patch * factor
    # UNets of diffusers pad odd sizes where they have text, plain ones do not.
    return factor if factor > 1 else 2 ** (len(net.config.block_out_channels) - 1)
