"""SD1.5 at its full size, 1.07 billion random weights: written by diffusers, loaded by suffuse, the same picture?

    python benchmarks/sd15_full_size.py [--steps 2] [--size 256]

Prints the largest difference of the final latents relative to their largest value, the seconds that each side took and
the peak memory. Needs about 12 GB of memory and 5 GB of disk, and fetches nothing.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

import suffuse
from suffuse.samplers import DDIM
from suffuse.testing.tokenizers import clip_tokenizer


def pipeline() -> StableDiffusionPipeline:
    """The stock pipeline with the configuration of SD1.5."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=tokenizer.model_max_length,
        eos_token_id=tokenizer.eos_token_id,
    )
    return StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
        ),
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def main() -> None:
    """Write, load, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--size", type=int, default=256)
    given = parser.parse_args()

    stock = pipeline()
    stock.set_progress_bar_config(disable=True)
    weights = sum(p.numel() for m in (stock.unet, stock.vae, stock.text_encoder) for p in m.parameters())
    start = torch.randn(1, 4, given.size // 8, given.size // 8, generator=torch.Generator().manual_seed(1))
    began = time.perf_counter()
    theirs = stock(
        "a red circle", latents=start, num_inference_steps=given.steps, guidance_scale=7.5, height=given.size,
        width=given.size, output_type="latent",
    ).images  # fmt: skip
    their_seconds = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        stock.save_pretrained(folder)
        del stock
        model = suffuse.load(folder)
        began = time.perf_counter()
        ours = model.generate(
            "a red circle",
            latents=start,
            steps=given.steps,
            guidance=7.5,
            height=given.size,
            width=given.size,
            sampler=DDIM(),
        ).latents
        our_seconds = time.perf_counter() - began
    difference = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{weights / 1e9:.2f} billion weights, {given.steps} steps at {given.size}x{given.size}, CFG 7.5, float32")
    print(f"largest relative difference of the latents {difference:.2e}; limit 1e-4")
    print(f"diffusers {their_seconds:.1f} s, suffuse {our_seconds:.1f} s with decoding; peak memory {peak:.1f} GB")
    raise SystemExit(difference > 1e-4)


if __name__ == "__main__":
    main()
