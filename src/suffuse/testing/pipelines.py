"""Stock pipelines of diffusers with tiny random weights, one for each architecture: what loading is tested on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from .tokenizers import clip_tokenizer, t5_tokenizer

TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def seeded(build: Callable[[], Any]) -> Any:
    """A module of fixed weights, large enough that a mistake anywhere shows in the picture."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(7)
        module = build().eval()
        with torch.no_grad():
            for p in module.parameters():
                if p.ndim > 1:
                    p.copy_(torch.randn(p.shape) * p[0].numel() ** -0.5)
                else:
                    p.add_(torch.randn(p.shape) * 0.03)
    return module


def clip_encoder(tokenizer: Any, width: int = 16, projected: bool = False, activation: str = "quick_gelu") -> Any:
    """CLIPTextModel, or CLIPTextModelWithProjection."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        hidden_act=activation,
        projection_dim=width,
        num_hidden_layers=3,
        num_attention_heads=max(width // 64, 1),
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return seeded(lambda: (CLIPTextModelWithProjection if projected else CLIPTextModel)(config))


def t5_encoder(tokenizer: Any, width: int = 32) -> Any:
    """T5EncoderModel."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    return seeded(lambda: T5EncoderModel(config))


def autoencoder(channels: int = 4, shift: float | None = None, levels: int = 3, width: int = 4) -> Any:
    """AutoencoderKL that halves the sides `levels - 1` times."""
    from diffusers import AutoencoderKL

    return seeded(
        lambda: AutoencoderKL(
            block_out_channels=(width, *[2 * width] * (levels - 1)),
            in_channels=3,
            out_channels=3,
            layers_per_block=1,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            latent_channels=channels,
            norm_num_groups=32 if width % 32 == 0 else 2,
            sample_size=32,
            scaling_factor=0.5 if shift else 0.18215,
            shift_factor=shift,
            use_quant_conv=shift is None,
            use_post_quant_conv=shift is None,
        )
    )


def text_unet(width: int = 16, **changes: Any) -> Any:
    """UNet2DConditionModel with two levels."""
    from diffusers import UNet2DConditionModel

    settings: dict[str, Any] = dict(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    return seeded(lambda: UNet2DConditionModel(**{**settings, **changes}))


def stable_diffusion() -> Any:
    """SD1.5 in miniature, with the scheduler it was released with."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    tokenizer = clip_tokenizer()
    return StableDiffusionPipeline(
        vae=autoencoder(),
        unet=text_unet(),
        tokenizer=tokenizer,
        text_encoder=clip_encoder(tokenizer),
        scheduler=PNDMScheduler(**TABLE, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_2() -> Any:
    """SD2's 768-v in miniature: v-prediction, linear projections in its transformers, heads by level."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    tokenizer = clip_tokenizer()
    return StableDiffusionPipeline(
        vae=autoencoder(),
        tokenizer=tokenizer,
        text_encoder=clip_encoder(tokenizer),
        unet=text_unet(use_linear_projection=True, attention_head_dim=(2, 4), upcast_attention=True),
        scheduler=DDIMScheduler(
            **TABLE, prediction_type="v_prediction", clip_sample=False, steps_offset=1, set_alpha_to_one=False
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def latent_consistency() -> Any:
    """LCM Dreamshaper in miniature: the guidance scale is an input of the network."""
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler

    tokenizer = clip_tokenizer()
    return LatentConsistencyModelPipeline(
        vae=autoencoder(),
        unet=text_unet(time_cond_proj_dim=8),
        tokenizer=tokenizer,
        text_encoder=clip_encoder(tokenizer),
        scheduler=LCMScheduler(**TABLE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def inpainting() -> Any:
    """SD1.5's inpainting model in miniature: a UNet of nine channels."""
    from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline

    tokenizer = clip_tokenizer()
    return StableDiffusionInpaintPipeline(
        vae=autoencoder(),
        unet=text_unet(in_channels=9),
        tokenizer=tokenizer,
        text_encoder=clip_encoder(tokenizer),
        scheduler=DDIMScheduler(**TABLE, clip_sample=False, steps_offset=1, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl() -> Any:
    """SDXL in miniature: two text encoders, pooled text and sizes as conditions."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    one, two = clip_tokenizer(), clip_tokenizer()
    unet = text_unet(
        width=16 + 24,
        use_linear_projection=True,
        transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 6 * 8,
    )
    return StableDiffusionXLPipeline(
        vae=autoencoder(),
        unet=unet,
        tokenizer=one,
        text_encoder=clip_encoder(one),
        tokenizer_2=two,
        text_encoder_2=clip_encoder(two, 24, projected=True),
        scheduler=EulerDiscreteScheduler(**TABLE, steps_offset=1, timestep_spacing="leading"),
    )


def stable_diffusion_3() -> Any:
    """SD3 in miniature, with all three text encoders."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    one, two, three = clip_tokenizer(), clip_tokenizer(), t5_tokenizer()
    transformer = seeded(
        lambda: SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_projection_dim=16,
            joint_attention_dim=48,
            pooled_projection_dim=16 + 24,
            out_channels=4,
            pos_embed_max_size=16,
        )
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        vae=autoencoder(shift=0.0609),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=clip_encoder(one, 16, True),
        tokenizer=one,
        text_encoder_2=clip_encoder(two, 24, True),
        tokenizer_2=two,
        text_encoder_3=t5_encoder(three, 48),
        tokenizer_3=three,
    )


def flux(guidance: bool = True) -> Any:
    """Flux in miniature; with guidance as an input (dev) or without (schnell)."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    one, two = clip_tokenizer(), t5_tokenizer()
    transformer = seeded(
        lambda: FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=16,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=guidance,
        )
    )
    scheduler = (
        FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
        if guidance
        else FlowMatchEulerDiscreteScheduler(shift=1.0)
    )
    return FluxPipeline(
        transformer=transformer,
        vae=autoencoder(shift=0.1159),
        scheduler=scheduler,
        text_encoder=clip_encoder(one),
        tokenizer=one,
        text_encoder_2=t5_encoder(two),
        tokenizer_2=two,
    )


def _pixart_transformer(side: int) -> Any:
    from diffusers import PixArtTransformer2DModel

    return seeded(
        lambda: PixArtTransformer2DModel(
            sample_size=side,
            patch_size=2,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            attention_head_dim=12,
            num_attention_heads=2,
            cross_attention_dim=24,
            caption_channels=32,
            norm_type="ada_norm_single",
            use_additional_conditions=side == 128,
        )
    )


def pixart_alpha(side: int = 8) -> Any:
    """PixArt-alpha in miniature: T5 with a mask, learned variance; with `side` 128 it is told the picture's size."""
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline

    tokenizer = t5_tokenizer()
    return PixArtAlphaPipeline(
        tokenizer=tokenizer,
        text_encoder=t5_encoder(tokenizer),
        vae=autoencoder(),
        transformer=_pixart_transformer(side),
        scheduler=DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear"),
    )


def pixart_sigma() -> Any:
    """PixArt-sigma in miniature."""
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline

    tokenizer = t5_tokenizer()
    return PixArtSigmaPipeline(
        tokenizer=tokenizer,
        text_encoder=t5_encoder(tokenizer),
        vae=autoencoder(),
        transformer=_pixart_transformer(8),
        scheduler=DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear"),
    )


def dit() -> Any:
    """DiT in miniature: classes with a null class, learned variance."""
    from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    transformer = seeded(
        lambda: DiTTransformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            num_embeds_ada_norm=1000,
        )
    )
    scheduler = DDIMScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear", clip_sample=False)
    return DiTPipeline(
        transformer=transformer, vae=autoencoder(), scheduler=scheduler, id2label={0: "tench, Tinca tinca", 7: "cock"}
    )


def pixels() -> Any:
    """A model of grey pictures without a condition."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = seeded(
        lambda: UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            attention_head_dim=4,
        )
    )
    return DDPMPipeline(unet=unet, scheduler=DDPMScheduler(clip_sample=False))


PIPELINES: Mapping[str, Callable[[], Any]] = {
    "sd1": stable_diffusion,
    "sd2": stable_diffusion_2,
    "lcm": latent_consistency,
    "sdxl": stable_diffusion_xl,
    "sd3": stable_diffusion_3,
    "flux": flux,
    "pixart-alpha": pixart_alpha,
    "pixart-sigma": pixart_sigma,
    "dit": dit,
    "pixels": pixels,
}
