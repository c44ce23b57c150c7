"""Networks of released sizes with random weights, for pure compute: diffusers, and ours plain, tuned, cached, shorter.

    python benchmarks/full_size.py sd15|dit|sdxl|sd3|flux [--device cuda] [--dtype bfloat16] [--steps 25] [--compiled]

All arms run the same network on the same noise under the same condition, without text encoder and (but for DiT, whose
pipeline has a tiny one) decoder, in turns; ratios are to diffusers' own pipeline with as many steps. "drift" is the
root mean square of the final states' difference from our plain run over their own, which with random weights tells
whether an arm computes the same, and nothing of pictures. Made to end in nine minutes on one H200; nothing is fetched.
`--tiny` runs the test fixtures of the same architectures, to try the script. With `--output docs/full-size.json`,
`suffuse docs build` writes docs/full-size.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

from suffuse import Cond, sample
from suffuse.backbones import family_of
from suffuse.caching import DeepCache, FirstBlockCache, TaylorSeer
from suffuse.core.denoiser import Denoiser, Network
from suffuse.core.files import read_json, write_json
from suffuse.core.prediction import EPS, FLOW
from suffuse.core.tuned import Mode, Tuned
from suffuse.evaluation import statistics
from suffuse.evaluation.memory import peak_memory
from suffuse.evaluation.operations import operations
from suffuse.evaluation.timing import seconds_of
from suffuse.guidance import CFG
from suffuse.processes import Flow, Table
from suffuse.samplers import DDIM, Euler, UniPC
from suffuse.testing.fixtures import conditions, fixture, states

W = 4.0


def sd15() -> Any:
    return diffusers.UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)


def sdxl() -> Any:
    return diffusers.UNet2DConditionModel(
        sample_size=128, cross_attention_dim=2048, block_out_channels=(320, 640, 1280), attention_head_dim=(5, 10, 20),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
    )  # fmt: skip


def sd3() -> Any:
    return diffusers.SD3Transformer2DModel(
        sample_size=128, num_layers=24, num_attention_heads=24, pos_embed_max_size=192
    )


def flux() -> Any:
    return diffusers.FluxTransformer2DModel(guidance_embeds=True)


def dit() -> Any:
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=16, attention_head_dim=72, in_channels=4, out_channels=8, num_layers=28, sample_size=32,
        num_embeds_ada_norm=1000,
    )  # fmt: skip


@dataclass(frozen=True)
class Size:
    """A released network: its shapes, the fixture of its architecture, and diffusers' pipeline of it where it takes
    embeddings and latents as they are."""

    build: Callable[[], Any]
    shape: tuple[int, int, int]
    tokens: int
    width: int
    fixture: str
    pooled: int = 0
    stock: Callable[[Any, Any], Any] | None = None

    @property
    def flow(self) -> bool:
        return self.fixture in ("sd3", "flux")


def _text_to_image(pipeline: Any, **none: None) -> Callable[[Any, Any], Any]:
    def stock(net: Any, scheduler: Any) -> Any:
        part = "transformer" if hasattr(net, "transformer_blocks") else "unet"
        return pipeline(vae=None, text_encoder=None, tokenizer=None, scheduler=scheduler, **{part: net}, **none)

    return stock


def _class_to_image(net: Any, scheduler: Any) -> Any:
    return diffusers.DiTPipeline(net, diffusers.AutoencoderKL(norm_num_groups=1, block_out_channels=(8,)), scheduler)


SIZES: Mapping[str, Size] = {
    "sd15": Size(sd15, (4, 64, 64), 77, 768, "unet", stock=_text_to_image(
        diffusers.StableDiffusionPipeline, safety_checker=None, feature_extractor=None)),
    "sdxl": Size(sdxl, (4, 128, 128), 77, 2048, "unet-sdxl", 1280, stock=_text_to_image(
        diffusers.StableDiffusionXLPipeline, text_encoder_2=None, tokenizer_2=None)),
    "sd3": Size(sd3, (16, 128, 128), 333, 4096, "sd3", 2048, stock=_text_to_image(
        diffusers.StableDiffusion3Pipeline, text_encoder_2=None, tokenizer_2=None, text_encoder_3=None,
        tokenizer_3=None)),
    "flux": Size(flux, (16, 128, 128), 512, 4096, "flux", 768),
    "dit": Size(dit, (4, 32, 32), 0, 0, "dit", stock=_class_to_image),
}  # fmt: skip


def loaded(name: str, device: str, dtype: torch.dtype, tiny: bool) -> tuple[Network, Tensor, Cond]:
    """Network, start states and condition of one picture."""
    size = SIZES[name]
    if tiny:
        return fixture(size.fixture), states(size.fixture, 1), conditions(size.fixture, 1)
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with torch.device(device):
        net = size.build().eval().requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    denoiser = Network(net, family_of(net), Flow() if size.flow else Table(), FLOW if size.flow else EPS)
    x = torch.randn(1, *size.shape, generator=torch.Generator().manual_seed(0)).to(device)
    if not size.tokens:
        null = Cond({"label": torch.tensor([1000], device=device)})
        return denoiser, x, Cond({"label": torch.tensor([7], device=device)}, {"null": null})

    def entries(seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        found = {"text": torch.randn(1, size.tokens, size.width, generator=generator)}
        if size.pooled:
            found["pooled"] = torch.randn(1, size.pooled, generator=generator)
        return {k: v.to(device, dtype) for k, v in found.items()}

    own = entries(1)
    if name == "sdxl":
        own["time_ids"] = torch.tensor([[1024.0, 1024, 0, 0, 1024, 1024]], device=device)
    if name == "flux":
        own["guidance_scale"] = torch.tensor([3.5], device=device)
    return denoiser, x, Cond(own, {"null": Cond(entries(2))})


def stock(size: Size, net: Any, x: Tensor, cond: Cond, scheduler: Any, steps: int) -> Callable[[], Any]:
    """A run of diffusers' pipeline; of DiT, whose pipeline draws its own noise, only the time compares."""
    assert size.stock is not None
    pipe = size.stock(net, scheduler)
    pipe.set_progress_bar_config(disable=True)
    common: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": W}
    if "label" in cond:
        return lambda: pipe(class_labels=cond["label"].tolist(), **common)
    if size.flow:  # as ours are placed
        common["sigmas"] = [1.0 - k / steps for k in range(steps)]
    null = cond.alt["null"]
    common |= {"prompt_embeds": cond["text"], "negative_prompt_embeds": null["text"]}
    if "pooled" in cond:
        common |= {"pooled_prompt_embeds": cond["pooled"], "negative_pooled_prompt_embeds": null["pooled"]}
    side = {} if size.flow else {"height": 8 * x.shape[-2], "width": 8 * x.shape[-1]}
    return lambda: pipe(latents=x.to(net.dtype), output_type="latent", **side, **common).images


def schedulers(size: Size) -> tuple[Any, Any]:
    """diffusers' for many steps and for few."""
    if size.flow:
        return diffusers.FlowMatchEulerDiscreteScheduler(), diffusers.FlowMatchEulerDiscreteScheduler()
    table = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="trailing", set_alpha_to_one=True, **table), (
        diffusers.DPMSolverMultistepScheduler(**table)
    )


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=sorted(SIZES))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--steps", type=int, default=25, help="a divisor of 1000, or diffusers' DDIM goes elsewhere")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compiled", action="store_true", help="also by torch.compile, which takes minutes")
    parser.add_argument("--tiny", action="store_true", help="the test fixture of the same architecture")
    parser.add_argument("--output", type=Path, help="JSON file that keeps the figures")
    given = parser.parse_args()

    size = SIZES[given.network]
    plain, x, cond = loaded(given.network, given.device, getattr(torch, given.dtype), given.tiny)
    guidance = None if given.network == "flux" else CFG(W)  # Flux is distilled from guidance
    few = max(2, given.steps // 3)
    caches: dict[str, Any] = {"FirstBlockCache(0.1)": FirstBlockCache(0.1), "TaylorSeer(3)": TaylorSeer(every=3)}
    if size.fixture.startswith("unet"):
        caches = {"DeepCache(3)": DeepCache(every=3)}

    def run(net: Denoiser, sampler: Any, steps: int, *patches: Any, guidance: Any = guidance) -> Callable[[], Tensor]:
        return lambda: sample(net, x, sampler=sampler, steps=steps, cond=cond, guidance=guidance, patches=patches).x

    solver = Euler() if size.flow else DDIM()
    arms: dict[str, Callable[[], Any]] = {}
    if size.stock is not None and not (given.tiny and not size.tokens):  # DiT's pipeline knows one number of classes
        for scheduler, steps in zip(schedulers(size), (given.steps, few), strict=True):
            name = f"diffusers, {type(scheduler).__name__}, {steps} steps"
            arms[name] = stock(size, plain.net, x, cond, scheduler, steps)
    own = f"{type(solver).__name__}, {given.steps} steps"
    arms[own] = run(plain, solver, given.steps)
    if given.dtype == "float32":
        arms[f"{own}, matmul medium"] = run(Tuned(plain, Mode("medium")), solver, given.steps)
    if given.compiled:
        arms[f"{own}, compiled"] = run(Tuned(plain, Mode(compiled=True)), solver, given.steps)
    arms |= {f"{own}, {name}": run(plain, solver, given.steps, cache) for name, cache in caches.items()}
    arms[f"UniPC, {few} steps"] = run(plain, UniPC(), few)
    if guidance is not None:
        arms[f"UniPC, {few} steps, CFG in the first half"] = run(
            plain, UniPC(), few, guidance=guidance.during(0.0, 0.5)
        )

    weights = sum(p.numel() for p in plain.parameters())
    where = torch.cuda.get_device_name() if given.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{given.network}: {weights / 1e9:.2f} billion weights, {given.dtype} on {where}, one picture")
    ends: dict[str, Any] = {}
    work, peak = {}, {}
    for name, arm in arms.items():  # one pass for all that is not time; it also warms up

        def kept(name: str = name, arm: Callable[[], Any] = arm) -> None:
            ends[name] = arm()

        peak[name] = peak_memory(lambda kept=kept, name=name: work.__setitem__(name, operations(kept)))  # type: ignore[misc]
    seconds = {name: [] for name in arms}
    for k in range(given.rounds):
        for name in list(arms) if k % 2 == 0 else reversed(arms):
            seconds[name].append(seconds_of(arms[name]))
    base, rows = next(iter(arms)), []
    for name in arms:
        end, to = ends[name], ends[own]
        same = isinstance(end, Tensor)
        drift = float((end - to).square().mean().sqrt() / to.square().mean().sqrt()) if same else None
        time = statistics.median_ratio(seconds[name], seconds[base])
        rows.append({
            "arm": name, "seconds": sorted(seconds[name])[given.rounds // 2], "ratio": time.mean,
            "interval": list(time.interval), "operations": work[name] / work[base], "memory": peak[name] / 2**30,
            "drift": drift,
        })  # fmt: skip
        print(f"{name}: {rows[-1]['seconds']:.3g} s, {time} of the first's time, {work[name] / work[base]:.2f} of its "
              f"operations, {peak[name] / 2**30:.2f} GiB beside the weights"
              + ("" if drift is None else f", drift {drift:.1e}"), flush=True)  # fmt: skip
    if given.output:
        known = read_json(given.output)["runs"] if given.output.exists() else {}
        key = f"{given.network}, {given.dtype}, {where}"
        run_of = {"weights": weights, "steps": given.steps, "rounds": given.rounds, "rows": rows}
        write_json(given.output, {"runs": {**known, key: run_of}})


if __name__ == "__main__":
    main()
