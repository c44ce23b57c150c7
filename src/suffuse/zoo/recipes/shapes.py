"""`shapes`: Stable Diffusion 1 in miniature. A cross-attention UNet on latents, with SD's noise table, predicting v."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from transformers import CLIPTextModel

from ...backbones.unet import ConditionalUNet
from ...core.denoiser import Network
from ...core.prediction import V
from ...core.value import Coef
from ...processes.tables import Table
from ...training import EMA, Phase, Trainer, WarmupDecay
from ...training.denoising import Denoising, Times
from ...training.muon import Muon
from . import card, vae
from .building import Built, Figure, Recipe, Report, train
from .folder import half, write
from .latents import Encoders, Latents


def network() -> UNet2DConditionModel:
    """The untrained network: 3.8 M parameters, cross-attention on the 8x8 and the 4x4 grid."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(48, 96, 96),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=8,
    )


@dataclass(frozen=True)
class NormalLogNoise(Times):
    """log(sigma / alpha) ~ N(mean, std^2) within a table, at its timesteps: what logit-normal times are for a flow.

    Args:
        mean: above 0 favours noise, where the layout is decided.
        std: spread.
    """

    table: Table = Table()
    mean: float = 0.7
    std: float = 1.1

    def __call__(self, u: Tensor) -> Tensor:
        ends = [self.table.log_rho(Coef(t)).item() for t in (1 / self.table.N, 1.0)]
        low, high = torch.special.ndtr((torch.tensor(ends, dtype=torch.float64) - self.mean) / self.std)
        z = self.mean + self.std * torch.special.ndtri(low + (high - low) * u)
        t = self.table.time(Coef(z.exp())).tensor(len(u))
        return ((t * self.table.N).round() / self.table.N).clamp(1 / self.table.N, 1.0)


OBJECTIVE = Denoising(times=NormalLogNoise(), dropout=0.1)
"""What `shapes` is trained by, with the weight that `Latents` puts on objects."""


def trainer(seed: int = 0, device: str = "cpu") -> Trainer:
    """Everything about the run but its data and its length."""
    torch.manual_seed(seed)
    unet = network().to(device)
    unet.set_attn_processor(AttnProcessor())  # on few tokens faster to train than torch's fused attention on CPU
    model = Network(unet, ConditionalUNet(), Table(), V)
    phase = Phase(
        OBJECTIVE,
        optim=Muon(lr=2e-3, schedule=WarmupDecay(warmup=100, decay=0.35)),
    )
    return Trainer({"model": model}, phase, {"ema": EMA(decay=0.998)}, seed=seed, precision="bf16")


def build(
    folder: str | Path,
    steps: int = 15000,
    *,
    device: str = "cpu",
    seed: int = 0,
    shard: tuple[int, int] = (0, 1),
    report: Report = print,
) -> Built:
    """Train what is missing in `folder`, the denoiser last, and write the pipeline to `folder`/shapes/model.

    Checkpoints are resumed; a longer run may continue one that has not begun its decay.
    """
    folder = Path(folder)
    encoders = Encoders.ready(folder, device=device, seed=seed, shard=shard, report=report)
    run = trainer(seed, device)
    source = Latents(encoders, folder / "latents", seed=seed)
    train(run, source, steps, "shapes", folder / "shapes" / "run", shard=shard, report=report)
    export(run, encoders, folder / "shapes" / "model")
    return Built(folder / "shapes" / "model", run.step, run.seconds)


def export(run: Trainer, encoders: Encoders, folder: str | Path) -> None:
    """Write the averaged weights as a Stable Diffusion pipeline in diffusers' layout, in float16."""
    ema = run.roles.ema
    assert isinstance(ema, Network)
    unet = network()
    unet.load_state_dict(ema.net.state_dict())
    text = CLIPTextModel(encoders.text.config)
    text.load_state_dict(encoders.text.text_model.state_dict())
    table = Table()
    scheduler = DDIMScheduler(
        num_train_timesteps=table.N,
        beta_schedule=table.schedule,
        beta_start=table.beta_start,
        beta_end=table.beta_end,
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
        timestep_spacing="trailing",
    )
    pipeline = StableDiffusionPipeline(
        vae=half(encoders.vae),
        text_encoder=half(text),
        tokenizer=encoders.tokenizer,
        unet=half(unet),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    write(pipeline, folder)


def measure(folder: Path, most: int | None = None) -> dict[str, Figure]:
    """What it draws right, and how well its autoencoder reconstructs."""
    return {**card.measure(folder, most), **vae.measure(folder / "vae", most)}


RECIPE = Recipe(
    summary="Stable Diffusion 1 in miniature: captions of the world to 64x64 pictures",
    build=build,
    steps=15000,
    defaults={"steps": 25, "guidance": "CFG(3)"},
    measure=measure,
    protocol="frozen splits of the world, 25 steps, guidance 3, seed 0, default sampler, read by the bundled reader; "
    "95 % Wilson intervals; PSNR over the 512 validation pictures, peak 2",
)
