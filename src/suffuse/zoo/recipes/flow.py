"""`shapes-flow`: Stable Diffusion 3 in miniature. A joint-attention transformer with flow matching on latents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor, nn

from ...backbones.sd3 import SD3
from ...core.cond import Cond
from ...core.denoiser import Network
from ...core.prediction import FLOW
from ...processes.continuous import Flow
from ...training import EMA, Batch, Phase, Trainer, WarmupDecay
from ...training.denoising import Denoising, LogitNormal
from ...training.muon import Muon
from . import card
from .building import Built, Figure, Recipe, Report, train
from .folder import half, write
from .latents import Encoders, Latents

LONGEST = 256
"""Tokens that the stock pipeline reserves for a T5 encoder; they are zero where there is none."""


def network() -> SD3Transformer2DModel:
    """The untrained network: 6 layers, 128 wide, 64 image tokens, 3.6 M parameters."""
    return SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=6,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=256,
        caption_projection_dim=128,
        pooled_projection_dim=256,
        pos_embed_max_size=32,
        qk_norm="rms_norm",
    )


class WithEmptyTokens(SD3):
    """SD3 in training: behind the text stand n zero tokens, as in the stock pipeline, n drawn anew for each row.

    Equal tokens without positions stay equal in every layer, so one of them stands for n, with log n added to its
    attention logits. The network learns to work with any number, 1 to 256.
    """

    def call(self, net: Any, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        text = nn.functional.pad(cond["text"], (0, 0, 0, 1))
        logits = math.log(LONGEST) * torch.rand(len(x), 1, 1, 1, device=x.device)
        attention = {"last_key": logits}
        out = net(x, text, cond["pooled"], timestep.float(), joint_attention_kwargs=attention, return_dict=False)
        return out[0].to(x.dtype)


class JointSoftmax:
    """Joint attention of SD3 in plain operations, on few tokens faster to train than torch's fused attention on CPU."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, last_key: Tensor, **_: Any
    ) -> tuple[Tensor, Tensor]:
        image = hidden_states.shape[1]

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(2, (attn.heads, -1)).transpose(1, 2)

        x, c = hidden_states, encoder_hidden_states
        q = torch.cat([attn.norm_q(heads(attn.to_q(x))), attn.norm_added_q(heads(attn.add_q_proj(c)))], 2)
        k = torch.cat([attn.norm_k(heads(attn.to_k(x))), attn.norm_added_k(heads(attn.add_k_proj(c)))], 2)
        v = torch.cat([heads(attn.to_v(x)), heads(attn.add_v_proj(c))], 2)
        scores = (q * attn.scale) @ k.mT
        bias = nn.functional.pad(last_key, (scores.shape[-1] - 1, 0)).to(scores.dtype)
        out = ((scores + bias).softmax(-1).to(v.dtype) @ v).transpose(1, 2).flatten(2)
        text = out[:, image:] if attn.context_pre_only else attn.to_add_out(out[:, image:])
        return attn.to_out[0](out[:, :image]), text


@dataclass(frozen=True, eq=False)
class TwoEncoders:
    """Batches of `latents` with the condition of a pipeline whose two text encoders are one and the same."""

    latents: Latents

    def __call__(self, step: int) -> Batch:
        batch = self.latents(step)
        return Batch(batch.data, _twice(batch.cond).with_alt(null=_twice(batch.cond.alt["null"])), batch.ids)


def _twice(cond: Cond) -> Cond:
    return Cond({"text": torch.cat([cond["hidden"]] * 2, -1), "pooled": torch.cat([cond["pooled"]] * 2, -1)})


def trainer(seed: int = 0, device: str = "cpu") -> Trainer:
    """Everything about the run but its data and its length."""
    torch.manual_seed(seed)
    transformer = network().to(device)
    transformer.set_attn_processor(JointSoftmax())
    model = Network(transformer, WithEmptyTokens(), Flow(), FLOW)
    phase = Phase(
        Denoising(times=LogitNormal(mean=0.6, std=1.0), dropout=0.1),
        optim=Muon(lr=2e-3, schedule=WarmupDecay(warmup=100, decay=0.35)),
    )
    return Trainer({"model": model}, phase, {"ema": EMA(decay=0.998)}, seed=seed, precision="bf16")


def build(
    folder: str | Path,
    steps: int = 22000,
    *,
    device: str = "cpu",
    seed: int = 0,
    shard: tuple[int, int] = (0, 1),
    report: Report = print,
) -> Built:
    """Train what is missing in `folder`, the transformer last, and write the pipeline to `folder`/flow/model.

    Encoders and latents are those of `shapes` where they are there. Checkpoints are resumed.
    """
    folder = Path(folder)
    encoders = Encoders.ready(folder, device=device, seed=seed, shard=shard, report=report)
    source = TwoEncoders(Latents(encoders, folder / "latents", ("hidden", "pooled"), seed=seed))
    run = trainer(seed, device)
    train(run, source, steps, "shapes-flow", folder / "flow" / "run", shard=shard, report=report)
    export(run, encoders, folder / "flow" / "model")
    return Built(folder / "flow" / "model", run.step, run.seconds)


def export(run: Trainer, encoders: Encoders, folder: str | Path) -> None:
    """Write the averaged weights as a Stable Diffusion 3 pipeline without T5 in diffusers' layout."""
    ema = run.roles.ema
    assert isinstance(ema, Network)
    transformer = network()
    transformer.load_state_dict(ema.net.state_dict())
    text = half(encoders.text)
    pipeline = StableDiffusion3Pipeline(
        transformer=half(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=half(encoders.vae),
        text_encoder=text,
        tokenizer=encoders.tokenizer,
        text_encoder_2=text,
        tokenizer_2=encoders.tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    write(pipeline, folder)


def measure(folder: Path, most: int | None = None) -> dict[str, Figure]:
    """What it draws right."""
    return card.measure(folder, most, guidance=2.0)


RECIPE = Recipe(
    summary="Stable Diffusion 3 in miniature: captions of the world to 64x64 pictures by flow matching",
    build=build,
    steps=22000,
    defaults={"steps": 25, "guidance": "CFG(2)"},
    measure=measure,
    protocol="frozen splits of the world, 25 steps, guidance 2, seed 0, default sampler, read by the bundled reader; "
    "95 % Wilson intervals",
)
