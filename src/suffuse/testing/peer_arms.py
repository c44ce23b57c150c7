"""The arms of the comparison with peers: diffusers as it comes and at its best, other caches, quantised weights, and
ours."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from suffuse.caching import DeepCache, FirstBlockCache, TaylorSeer
from suffuse.core.errors import Refused
from suffuse.core.model import Model
from suffuse.guidance import CFG
from suffuse.loading.sources import load
from suffuse.samplers import DDIM, Euler, FlowShift, UniPC
from suffuse.tuning import tuned

from .peers import Arm, own, stock

STEPS = 50
"""Steps of the baseline: DDIM or Euler, float32, CFG in one batch."""

SHIFTED = FlowShift(3.0, skip_first=True)

ROWS = 8
"""Evaluations in one network call of a timed picture set: 4 pictures under CFG."""


def arms(name: str, compiled: bool) -> tuple[Arm, list[Arm]]:
    """Baseline and arms for a bundled model or another of its kind.

    Args:
        name: as `suffuse.load` takes it.
        compiled: let ours try torch.compile.
    """
    net = type(load(name).net).__name__
    if net not in KINDS:
        raise Refused(f"model {name!r}: {net} has no peers here; compare on {', '.join(KINDS)}")
    return KINDS[net](name, compiled)


def unet(name: str, compiled: bool) -> tuple[Arm, list[Arm]]:
    """Baseline and arms for a UNet with cross-attention, such as `shapes`."""
    import diffusers

    model = load(name)
    w = _scale(model)
    best: Any = diffusers.DPMSolverMultistepScheduler
    exact, quick = (tuned(model, speed, rows=ROWS, compiled=compiled) for speed in ("exact", "near"))
    near = tuned(model, "near", rows=ROWS)  # under a cache nothing is compiled

    def pipe(change: Callable[[Any], object] = lambda pipe: None) -> Any:
        made = load(name).to_diffusers()  # of its own, because foreign caches change modules
        change(made)
        return made

    def solver(made: Any) -> Any:
        return best.from_config(made.scheduler.config)

    plain = pipe()
    baseline = stock(plain, f"DDIM, {STEPS} steps", steps=STEPS, guidance=w)
    few = [(pipe(), "", n) for n in (20, 10, 6)] + [(pipe(_bfloat16), ", bfloat16", n) for n in (10, 6)]
    arms = [stock(p, f"DPM-Solver++ 2M, {n} steps{how}", steps=n, guidance=w, scheduler=solver(p)) for p, how, n in few]
    if find_spec("DeepCache"):
        first, second = pipe(_deepcache_package(3)), pipe(_deepcache_package(2))
        arms += [
            stock(first, f"DDIM, {STEPS} steps, interval 3", steps=STEPS, guidance=w, by="DeepCache"),
            stock(second, "DPM-Solver++ 2M, 20 steps, interval 2", steps=20, guidance=w, scheduler=solver(second),
                  by="DeepCache"),
        ]  # fmt: skip
    if find_spec("torchao"):
        arms.append(stock(pipe(_torchao), f"DDIM, {STEPS} steps, int8 weights", steps=STEPS, guidance=w, by="torchao"))
    cache, half = DeepCache(every=3), CFG(w).during(0.0, 0.5)
    arms += [
        own(model, f"DDIM, {STEPS} steps", sampler=DDIM(), steps=STEPS, guidance=w),
        own(exact, f"DDIM, {STEPS} steps, tuned exact", sampler=DDIM(), steps=STEPS, guidance=w),
        own(model, f"DDIM, {STEPS} steps, DeepCache(3)", sampler=DDIM(), steps=STEPS, guidance=w, patches=[cache]),
        own(near, f"DDIM, {STEPS} steps, DeepCache(3), tuned near", sampler=DDIM(), steps=STEPS, guidance=w,
            patches=[cache]),
        own(quick, "UniPC, 10 steps, tuned near", sampler=UniPC(), steps=10, guidance=w),
        own(quick, "UniPC, 5 steps, CFG in the first half, tuned near", sampler=UniPC(), steps=5, guidance=half),
        own(near, "UniPC, 8 steps, CFG in the first half, DeepCache(2), tuned near", sampler=UniPC(), steps=8,
            guidance=half, patches=[DeepCache(every=2)]),
    ]  # fmt: skip
    return baseline, arms


def flow(name: str, compiled: bool) -> tuple[Arm, list[Arm]]:
    """Baseline and arms for a flow transformer of Stable Diffusion 3's kind, such as `shapes-flow`.

    diffusers' own caches are not among them: its pipeline of Stable Diffusion 3 does not set the context they ask for.
    """
    model = load(name)
    w = _scale(model)
    exact, near = (tuned(model, speed, rows=ROWS, compiled=compiled) for speed in ("exact", "near"))

    def pipe(change: Callable[[Any], object] = lambda pipe: None) -> Any:
        made = load(name).to_diffusers()
        change(made)
        return made

    baseline = stock(pipe(), f"Euler, {STEPS} steps", steps=STEPS, guidance=w)
    arms = [
        stock(pipe(), "Euler, 25 steps", steps=25, guidance=w),
        *(
            stock(pipe(change), f"UniPC, shift 3, {n} steps{how}", steps=n, guidance=w, scheduler=_unipc())
            for change, how in ((lambda pipe: None, ""), (_bfloat16, ", bfloat16"))
            for n in (10, 6)
        ),
    ]
    if find_spec("cache_dit"):
        arms.append(stock(pipe(_cache_dit), f"Euler, {STEPS} steps", steps=STEPS, guidance=w, by="cache-dit"))
    if find_spec("torchao"):
        arms.append(stock(pipe(_torchao), f"Euler, {STEPS} steps, int8 weights", steps=STEPS, guidance=w, by="torchao"))
    half = CFG(w).during(0.0, 0.5)
    first, seer, further = FirstBlockCache(0.1), TaylorSeer(every=4), TaylorSeer(every=5, order=2)
    arms += [
        own(model, f"Euler, {STEPS} steps", sampler=Euler(), steps=STEPS, guidance=w),
        own(exact, f"Euler, {STEPS} steps, tuned exact", sampler=Euler(), steps=STEPS, guidance=w),
        own(near, f"Euler, {STEPS} steps, tuned near", sampler=Euler(), steps=STEPS, guidance=w),
        own(model, f"Euler, {STEPS} steps, {first}", sampler=Euler(), steps=STEPS, guidance=w, patches=[first]),
        own(model, f"Euler, {STEPS} steps, {seer}", sampler=Euler(), steps=STEPS, guidance=w, patches=[seer]),
        own(near, f"Euler, {STEPS} steps, {further}, tuned near", sampler=Euler(), steps=STEPS, guidance=w,
            patches=[further]),
        own(near, "UniPC, 10 steps, tuned near", sampler=UniPC(), spacing=SHIFTED, steps=10, guidance=w),
        own(near, "UniPC, 6 steps, CFG in the first half, tuned near", sampler=UniPC(), spacing=SHIFTED, steps=6,
            guidance=half),
    ]  # fmt: skip
    return baseline, arms


KINDS = {"UNet2DConditionModel": unet, "SD3Transformer2DModel": flow}


def _scale(model: Model) -> float:
    guidance: Any = model.defaults.guidance
    return float(guidance.w)


def _deepcache_package(interval: int) -> Callable[[Any], None]:
    def enable(pipe: Any) -> None:
        from DeepCache import DeepCacheSDHelper

        helper = DeepCacheSDHelper(pipe=pipe)
        helper.set_params(cache_interval=interval, cache_branch_id=0)
        helper.enable()

    return enable


def _unipc() -> Any:
    import diffusers

    return diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction")


def _cache_dit(pipe: Any) -> None:
    from cache_dit import DBCacheConfig, enable_cache

    # by default it computes the first 8 blocks, and small models have no more
    enable_cache(
        pipe, cache_config=DBCacheConfig(Fn_compute_blocks=1, Bn_compute_blocks=0, residual_diff_threshold=0.1)
    )


def _bfloat16(pipe: Any) -> None:
    import torch

    pipe.to(torch.bfloat16)


def _torchao(pipe: Any) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    # of its ways to int8, the fastest on a processor without compilation
    quantize_(pipe.unet if hasattr(pipe, "unet") else pipe.transformer, Int8WeightOnlyConfig())
