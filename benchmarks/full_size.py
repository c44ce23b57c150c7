"""Networks of released sizes with random weights, for pure compute: plain, tuned, cached, with fewer evaluations.

    python benchmarks/full_size.py sdxl|sd3|flux|sd15|dit [--device cuda] [--dtype bfloat16] [--steps 28] [--compiled]

Every arm runs the same noise under the same condition; a pair of arms is timed in turns with the plain run. "drift" is
the root mean square of the final states' difference from the plain run over their own, which with random weights tells
whether an arm computes the same, and nothing of pictures. Made to end in nine minutes on one H200; nothing is fetched.
`--tiny` runs the test fixtures of the same architectures, to try the script.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import DiTTransformer2DModel, FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from torch import Tensor

from suffuse import Cond, sample
from suffuse.backbones import family_of
from suffuse.caching import DeepCache, FirstBlockCache, TaylorSeer
from suffuse.core.denoiser import Denoiser, Network
from suffuse.core.prediction import EPS, FLOW
from suffuse.core.tuned import Mode, Tuned
from suffuse.evaluation.memory import peak_memory
from suffuse.evaluation.timing import operations, paired
from suffuse.guidance import CFG
from suffuse.processes import Flow, Table
from suffuse.samplers import DDIM, Euler, UniPC
from suffuse.testing.fixtures import conditions, fixture, states


def sd15() -> UNet2DConditionModel:
    return UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)


def sdxl() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=128, cross_attention_dim=2048, block_out_channels=(320, 640, 1280), attention_head_dim=(5, 10, 20),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
    )  # fmt: skip


def sd3() -> SD3Transformer2DModel:
    return SD3Transformer2DModel(sample_size=128, num_layers=24, num_attention_heads=24, pos_embed_max_size=192)


def flux() -> FluxTransformer2DModel:
    return FluxTransformer2DModel(guidance_embeds=True)


def dit() -> DiTTransformer2DModel:
    return DiTTransformer2DModel(
        num_attention_heads=16, attention_head_dim=72, in_channels=4, out_channels=8, num_layers=28, sample_size=32,
        num_embeds_ada_norm=1000,
    )  # fmt: skip


SIZES: Mapping[str, tuple[Callable[[], Any], tuple[int, int, int], int, int, str]] = {
    "sd15": (sd15, (4, 64, 64), 77, 768, "unet"),
    "sdxl": (sdxl, (4, 128, 128), 77, 2048, "unet-sdxl"),
    "sd3": (sd3, (16, 128, 128), 333, 4096, "sd3"),
    "flux": (flux, (16, 128, 128), 512, 4096, "flux"),
    "dit": (dit, (4, 32, 32), 0, 0, "dit"),
}
"""Name -> (network, shape of a state, text tokens, their width, its fixture)."""


def loaded(name: str, device: str, dtype: torch.dtype, tiny: bool) -> tuple[Network, Tensor, Cond]:
    """Network, start states and condition of one picture."""
    build, shape, tokens, width, small = SIZES[name]
    if tiny:
        return fixture(small), states(small, 1), conditions(small, 1)
    torch.set_default_dtype(dtype)
    with torch.device(device):
        net = build().eval().requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    flows = name in ("sd3", "flux")
    denoiser = Network(net, family_of(net), Flow() if flows else Table(), FLOW if flows else EPS)
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    if not tokens:
        null = Cond({"label": torch.tensor([1000], device=device)})
        return denoiser, x, Cond({"label": torch.tensor([7], device=device)}, {"null": null})

    def entries(seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        found = {"text": torch.randn(1, tokens, width, generator=generator)}
        if name != "sd15":
            found["pooled"] = torch.randn(1, {"sdxl": 1280, "sd3": 2048, "flux": 768}[name], generator=generator)
        return {k: v.to(device, dtype) for k, v in found.items()}

    own = entries(1)
    if name == "sdxl":
        own["time_ids"] = torch.tensor([[1024.0, 1024, 0, 0, 1024, 1024]], device=device)
    if name == "flux":
        own["guidance_scale"] = torch.tensor([3.5], device=device)
    return denoiser, x, Cond(own, {"null": Cond(entries(2))})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=sorted(SIZES))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compiled", action="store_true", help="also by torch.compile, which takes minutes")
    parser.add_argument("--tiny", action="store_true", help="the test fixture of the same architecture")
    given = parser.parse_args()

    plain, x, cond = loaded(given.network, given.device, getattr(torch, given.dtype), given.tiny)
    flows = isinstance(plain.process, Flow)
    guidance = None if given.network == "flux" else CFG(4.0)  # Flux is distilled from guidance
    caches = [FirstBlockCache(0.1), TaylorSeer(every=3)] if "transformer" in type(plain.net).__name__.lower() else [
        DeepCache(every=3)
    ]  # fmt: skip

    def run(net: Denoiser, sampler: Any, steps: int, patches: list[Any]) -> Callable[[], Tensor]:
        return lambda: sample(net, x, sampler=sampler, steps=steps, cond=cond, guidance=guidance, patches=patches).x

    solver = Euler() if flows else DDIM()
    few = max(2, given.steps // 3)
    arms = {f"{solver}, {given.steps} steps": run(plain, solver, given.steps, [])}
    modes = {"matmul medium": Mode("medium"), **({"compiled": Mode(compiled=True)} if given.compiled else {})}
    if given.dtype == "bfloat16" and not given.compiled:
        modes = {}  # the precision of float32 products does not matter there
    arms |= {name: run(Tuned(plain, mode), solver, given.steps, []) for name, mode in modes.items()}
    arms |= {str(cache): run(plain, solver, given.steps, [cache]) for cache in caches}
    arms |= {f"UniPC(), {few} steps": run(plain, UniPC(), few, [])}
    if guidance is not None:
        half = guidance.during(0.0, 0.5)
        arms[f"UniPC(), {few} steps, CFG in the first half"] = lambda: (
            sample(plain, x, sampler=UniPC(), steps=few, cond=cond, guidance=half).x
        )
    base = next(iter(arms.values()))
    end, work = base(), operations(base)
    weights = sum(p.numel() for p in plain.parameters())
    print(f"{given.network}: {weights / 1e9:.2f} billion weights, {given.dtype} on {given.device}, one picture")
    for name, arm in arms.items():
        drift = float((arm() - end).square().mean().sqrt() / end.square().mean().sqrt())
        time = paired(arm, base, rounds=given.rounds)
        print(
            f"{name}: {time.medians[0]:.3g} s, {time.ratio} of the plain run's time, "
            f"{operations(arm) / work:.2f} of its operations, {peak_memory(arm) / 2**30:.2f} GiB beside the weights, "
            f"drift {drift:.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
