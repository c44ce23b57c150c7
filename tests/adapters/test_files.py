"""Adapter files: ours come back to the bit, those of other programs mean what they mean there."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import suffuse
from suffuse.adapters import (
    BOFT,
    IA3,
    DiagOFT,
    DyLoRA,
    EncodedInput,
    FullWeight,
    GLoRA,
    LoHa,
    LoKr,
    LoRA,
    Norms,
    load_adapters,
    save_adapters,
    save_as_diffusers,
    save_as_kohya,
    with_adapters,
)  # fmt: skip
from suffuse.adapters.delta import Delta
from suffuse.adapters.names import parsed
from suffuse.adapters.original import originals
from suffuse.backbones.encoder import Encoder
from suffuse.core.errors import BadInput, Damaged, Refused
from suffuse.core.expression import unparse
from suffuse.core.patch import Adapter, Patch
from suffuse.layout import ControlNet
from suffuse.loading.pipelines import assemble
from suffuse.personalization import ImagePrompt
from suffuse.testing import pipelines
from suffuse.testing.fixtures import conditions, fixture, states

net = cache(fixture)

EVERY: list[Delta] = [
    LoRA(4, alpha=2.0),
    LoRA(4, tucker=True, decompose=True, where="full"),
    DyLoRA(4),
    GLoRA(4, where="full"),
    LoHa(4, where="full"),
    LoHa(4, tucker=True, where="full"),
    LoKr(4, where="full"),
    LoKr(2, factor=4, decompose_both=True, tucker=True, where="full"),
    LoKr(100000),
    FullWeight(where="full"),
    Norms(),
    IA3(),
    DiagOFT(constraint=1e-3),
    BOFT(),
]


def made(delta: Patch, target: nn.Module, spread: float = 0.05) -> Adapter:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        adapter = delta.on(target)
        with torch.no_grad():
            for p in adapter.parameters():
                p.add_(spread * torch.randn_like(p))
    return adapter.eval()


@torch.no_grad()
def value(denoiser: nn.Module, name: str) -> Tensor:
    return denoiser(states(name, 2), 0.5, conditions(name, 2)).value


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((a - b).abs().max() <= tolerance * b.abs().max())


def loaded(path: Path, target: nn.Module) -> Adapter:
    (adapter,) = load_adapters(path, target)["denoiser"]
    return adapter.eval()


# our own, and kohya's and LyCORIS' ------------------------------------------------------------------------------------
@pytest.mark.parametrize("delta", EVERY, ids=unparse)
def test_ours_comes_back_to_the_bit(delta: Delta, tmp_path: Path) -> None:
    adapter = made(delta, net("unet")).scaled(0.7)
    again = loaded(save_adapters(tmp_path / "a.safetensors", adapter), net("unet"))
    assert again.patch == delta and again.scale == 0.7 and again.names == adapter.names
    assert torch.equal(value(net("unet").with_(again), "unet"), value(net("unet").with_(adapter), "unet"))
    assert load_adapters(tmp_path / "a.safetensors", net("unet"), 0.2)["denoiser"][0].scale == 0.2


@pytest.mark.parametrize("patch", [EncodedInput(), ImagePrompt("soft"), ControlNet()], ids=unparse)
def test_adapters_that_change_no_weights_come_back_too(patch: Patch, tmp_path: Path) -> None:
    adapter = made(patch, net("unet")).scaled(0.7)
    again = loaded(save_adapters(tmp_path / "a.safetensors", adapter), net("unet"))
    assert again.patch == patch and again.scale == 0.7 and again.names == adapter.names
    values = zip(again.state_dict().values(), adapter.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in values)
    with pytest.raises(Refused):
        load_adapters(tmp_path / "a.safetensors", net("dit"))
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        metadata = file.metadata()
    more = load_file(tmp_path / "a.safetensors") | {"denoiser.deeper.weight": torch.ones(1)}
    save_file(more, tmp_path / "more.safetensors", metadata)
    with pytest.raises(Refused, match="no place for 'denoiser.deeper.weight'"):
        load_adapters(tmp_path / "more.safetensors", net("unet"))
    with pytest.raises(Refused, match="use save_adapters"):
        save_as_kohya(tmp_path / "b.safetensors", adapter)


@pytest.mark.parametrize("delta", EVERY, ids=unparse)
def test_names_of_kohya_and_lycoris(delta: Delta, tmp_path: Path) -> None:
    adapter = made(delta, net("unet"))
    path = save_as_kohya(tmp_path / "a.safetensors", adapter)
    assert all(key.startswith("lora_unet_") for key in load_file(path))
    again = loaded(path, net("unet"))
    kind = LoRA if isinstance(delta, DyLoRA) else type(delta)
    assert isinstance(again.patch, kind)
    assert close(value(net("unet").with_(again), "unet"), value(net("unet").with_(adapter), "unet"))


def test_names_of_tensors_are_those_of_lycoris(tmp_path: Path) -> None:
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    ends = {
        LoRA(2): {"lora_down.weight": (2, 8), "lora_up.weight": (8, 2), "alpha": ()},
        LoHa(2): {"hada_w1_a": (8, 2), "hada_w1_b": (2, 8), "hada_w2_a": (8, 2), "hada_w2_b": (2, 8), "alpha": ()},
        LoKr(1, factor=2): {"lokr_w1": (2, 2), "lokr_w2_a": (4, 1), "lokr_w2_b": (1, 4), "alpha": ()},
        DiagOFT(4): {"oft_blocks": (2, 4, 4), "alpha": ()},
        FullWeight(): {"diff": (8, 8)},
    }
    for delta, expected in ends.items():
        tensors = load_file(save_as_kohya(tmp_path / "a.safetensors", delta.on(net("unet"))))
        assert {
            k.removeprefix(f"{layer}."): tuple(v.shape) for k, v in tensors.items() if k.startswith(f"{layer}.")
        } == expected


def test_files_that_mix_kinds(tmp_path: Path) -> None:
    lokr, norms = made(LoKr(4), net("unet")), made(Norms(), net("unet"))
    one, two = (save_as_kohya(tmp_path / f"{k}.safetensors", a) for k, a in enumerate((lokr, norms)))
    save_file({**load_file(one), **load_file(two)}, tmp_path / "both.safetensors")
    found = load_adapters(tmp_path / "both.safetensors", net("unet"))["denoiser"]
    assert {type(a.patch) for a in found} == {LoKr, Norms}
    assert close(value(net("unet").with_(*found), "unet"), value(net("unet").with_(lokr, norms), "unet"))


# diffusers and PEFT ---------------------------------------------------------------------------------------------------
def peft_unet(config: Any) -> tuple[UNet2DConditionModel, dict[str, Tensor]]:
    """A UNet with an adapter of PEFT in it, with random numbers, and the adapter's tensors."""
    module = fixture("unet").net
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        inject_adapter_in_model(config, module)
        with torch.no_grad():
            for n, p in module.named_parameters():
                if "lora_" in n or "hada_" in n or "lokr_" in n:
                    p.add_(0.05 * torch.randn_like(p))
    prefix = {k: v.detach().clone().contiguous() for k, v in get_peft_model_state_dict(module).items()}
    return module.eval(), prefix


@torch.no_grad()
def called(module: UNet2DConditionModel) -> Tensor:
    return module(states("unet", 2), 499, conditions("unet", 2)["text"]).sample


def test_our_lora_in_diffusers(tmp_path: Path) -> None:
    adapter = made(LoRA(4, alpha=2.0, where="full"), net("unet")).scaled(0.5)
    save_as_diffusers(tmp_path / "a.safetensors", adapter)
    theirs = fixture("unet").net
    theirs.load_lora_adapter(str(tmp_path / "a.safetensors"), prefix="unet", use_safetensors=True)
    assert close(called(theirs), value(net("unet").with_(adapter), "unet"))
    assert close(value(net("unet").with_(loaded(tmp_path / "a.safetensors", net("unet"))), "unet"), called(theirs))


@pytest.mark.parametrize("dora", [False, True])
def test_lora_of_diffusers(dora: bool, tmp_path: Path) -> None:
    targets = ["to_q", "to_v", "conv1", "ff.net.2"]
    theirs, _ = peft_unet(
        LoraConfig(r=4, lora_alpha=2, alpha_pattern={"to_v": 3}, target_modules=targets, use_dora=dora)
    )
    theirs._hf_peft_config_loaded = True
    theirs.save_lora_adapter(tmp_path, weight_name="a.safetensors")
    assert close(value(net("unet").with_(loaded(tmp_path / "a.safetensors", net("unet"))), "unet"), called(theirs))


@pytest.mark.parametrize("config", [
    LoHaConfig(r=3, alpha=2, target_modules=["to_q", "conv1"], use_effective_conv2d=False),
    LoKrConfig(r=1, alpha=2, target_modules=["to_q", "conv1"], decompose_factor=2),
], ids=["LoHa", "LoKr"])  # fmt: skip
def test_adapters_of_peft(config: Any, tmp_path: Path) -> None:
    theirs, tensors = peft_unet(config)
    alphas = {f"{k.rsplit('.', 1)[0]}.alpha": torch.tensor(float(config.alpha)) for k in tensors}
    save_file({**tensors, **alphas}, tmp_path / "a.safetensors")
    assert close(value(net("unet").with_(loaded(tmp_path / "a.safetensors", net("unet"))), "unet"), called(theirs))


def test_first_names_of_diffusers(tmp_path: Path) -> None:
    adapter = made(LoRA(4, where="attn-only"), net("unet"))
    old = {}
    for name, part in zip(adapter.names, adapter.parts, strict=True):
        head, tail = name.split(".attn", 1)
        attention, layer = tail.split(".", 1)
        start = f"unet.{head}.attn{attention}.processor.{layer.removesuffix('.0')}_lora"
        old |= {f"{start}.down.weight": part["lora_down"].detach(), f"{start}.up.weight": part["lora_up"].detach()}
    save_file(old, tmp_path / "a.safetensors")
    again = loaded(tmp_path / "a.safetensors", net("unet"))
    assert torch.equal(value(net("unet").with_(again), "unet"), value(net("unet").with_(adapter), "unet"))


# names of the original code -------------------------------------------------------------------------------------------
def test_original_names_of_sdxl(tmp_path: Path) -> None:
    """As kohya writes SDXL; the names are checked against the converter of diffusers by loading there too."""
    from diffusers.loaders.lora_conversion_utils import (
        _convert_non_diffusers_lora_to_diffusers,
        _maybe_map_sgm_blocks_to_diffusers,
    )  # fmt: skip

    module = fixture("unet-sdxl").net
    wide = UNet2DConditionModel(**{**module.config, "layers_per_block": 2})
    names = {n: m for n, m in wide.named_modules() if isinstance(m, nn.Linear) and ".attentions." in n}
    ours = {alias: targets[0] for alias, targets in originals({**names, **dict.fromkeys(_resnets(wide))})}
    keys = {f"lora_unet_{a.replace('.', '_')}": t for a, t in ours.items() if t in names}
    assert set(keys.values()) == set(names)
    state = {f"{k}.{end}": torch.zeros(1) for k in keys for end in ("lora_down.weight", "lora_up.weight", "alpha")}
    theirs, _ = _convert_non_diffusers_lora_to_diffusers(_maybe_map_sgm_blocks_to_diffusers(state, wide.config))
    expected = {parsed(k)[1] for k in theirs}
    assert expected == set(names)
    for key, target in keys.items():
        one = {f"{key}.{end}": torch.zeros(1) for end in ("lora_down.weight", "lora_up.weight", "alpha")}
        found, _ = _convert_non_diffusers_lora_to_diffusers(_maybe_map_sgm_blocks_to_diffusers(one, wide.config))
        assert {parsed(k)[1] for k in found} == {target}
    adapter = made(LoRA(2, where="full"), net("unet-sdxl"))
    back = {target: alias for alias, (target,) in originals(dict.fromkeys(adapter.names))}
    tensors: dict[str, Tensor] = {}
    for name, part in zip(adapter.names, adapter.parts, strict=True):
        key = f"lora_unet_{back[name].replace('.', '_')}"
        tensors |= {f"{key}.{t}.weight": part[t].detach() for t in ("lora_down", "lora_up")}
    save_file(tensors, tmp_path / "a.safetensors")
    again = loaded(tmp_path / "a.safetensors", net("unet-sdxl"))
    assert torch.equal(
        value(net("unet-sdxl").with_(again), "unet-sdxl"), value(net("unet-sdxl").with_(adapter), "unet-sdxl")
    )


def _resnets(module: nn.Module) -> list[str]:
    return [n for n, m in module.named_modules() if ".resnets." in n and isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize("style", ["flat", "dotted"])
def test_original_names_of_flux_hold_several_layers(style: str, tmp_path: Path) -> None:
    d, r = 16, 2
    sizes = {
        "double_blocks.1.img_attn.qkv": 3 * d,
        "double_blocks.0.txt_mlp.0": 4 * d,
        "single_blocks.1.linear1": 7 * d,
    }
    generator = torch.Generator().manual_seed(0)
    down = {k: torch.randn(r, d, generator=generator) for k in sizes}
    up = {k: torch.randn(n, r, generator=generator) for k, n in sizes.items()}
    tensors = {}
    for k in sizes:
        if style == "flat":
            name = f"lora_unet_{k.replace('.', '_')}"
            tensors |= {
                f"{name}.lora_down.weight": down[k],
                f"{name}.lora_up.weight": up[k],
                f"{name}.alpha": torch.tensor(1.0),
            }
        else:
            tensors |= {
                f"diffusion_model.{k}.lora_A.weight": down[k],
                f"diffusion_model.{k}.lora_B.weight": 0.5 * up[k],
            }
    save_file(tensors, tmp_path / "a.safetensors")
    adapter = loaded(tmp_path / "a.safetensors", net("flux"))
    qkv = 0.5 * up["double_blocks.1.img_attn.qkv"] @ down["double_blocks.1.img_attn.qkv"]
    single = 0.5 * up["single_blocks.1.linear1"] @ down["single_blocks.1.linear1"]
    expected = {f"transformer_blocks.1.attn.to_{x}": part for x, part in zip("qkv", qkv.split(d), strict=True)}
    expected["transformer_blocks.0.ff_context.net.0.proj"] = (
        0.5 * up["double_blocks.0.txt_mlp.0"] @ down["double_blocks.0.txt_mlp.0"]
    )
    names = [f"single_transformer_blocks.1.{x}" for x in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")]
    expected |= dict(zip(names, single.split([d, d, d, 4 * d]), strict=True))
    assert set(adapter.names) == set(expected)
    for name, delta in expected.items():
        weight = net("flux").net.get_submodule(name).weight
        assert torch.allclose(adapter.patch.weight(adapter.part(name), weight), delta, atol=1e-5)


def test_original_names_of_sd3(tmp_path: Path) -> None:
    up, down = torch.randn(48, 2), torch.randn(2, 16)
    key = "lora_unet_joint_blocks_1_context_block_attn_qkv"
    save_file({f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down}, tmp_path / "a.safetensors")
    adapter = loaded(tmp_path / "a.safetensors", net("sd3"))
    for k, x in enumerate("qkv"):
        assert torch.equal(adapter.part(f"transformer_blocks.1.attn.add_{x}_proj")["lora_up"], up[16 * k : 16 * k + 16])
    assert len(adapter.names) == 3


# whole models ---------------------------------------------------------------------------------------------------------
def test_lora_of_a_whole_model_gives_the_picture_of_diffusers(tmp_path: Path) -> None:
    pipe = pipelines.stable_diffusion()
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    pipe.set_progress_bar_config(disable=True)
    model = assemble(
        "StableDiffusionPipeline", pipe.components, {**pipe.scheduler.config, "_class_name": "DDIMScheduler"}
    )
    adapters = {"denoiser": made(LoRA(4, alpha=2.0), model.denoiser, 0.2),
                "text_encoder": made(LoRA(2), Encoder(pipe.text_encoder), 0.2)}  # fmt: skip
    other = made(LoRA(3, where="full"), model.denoiser, 0.2)
    save_as_kohya(tmp_path / "kohya.safetensors", adapters)
    save_as_diffusers(tmp_path / "peft.safetensors", adapters)
    save_as_diffusers(tmp_path / "other.safetensors", other)

    def picture(m: Any) -> Tensor:
        return m.generate("a red circle", steps=2, guidance=3.0, seed=0, height=32, width=32).latents

    plain = picture(model)
    files = [(load_adapters(tmp_path / n, model, 0.8), load_adapters(tmp_path / "other.safetensors", model, 0.5))
             for n in ("kohya.safetensors", "peft.safetensors")]  # fmt: skip
    ours = [picture(with_adapters(model, *pair)) for pair in files]
    assert close(ours[0], ours[1]) and not close(ours[0], plain, 1e-2)
    only = picture(with_adapters(model, {"denoiser": files[0][0]["denoiser"]}, files[0][1]))
    assert not close(only, ours[0], 1e-3)
    twice = with_adapters(with_adapters(model, files[0][0]), files[0][1])
    assert torch.equal(picture(twice), ours[0]) and torch.equal(picture(model), plain)
    pipe.load_lora_weights(str(tmp_path), weight_name="kohya.safetensors", adapter_name="a")
    pipe.load_lora_weights(str(tmp_path), weight_name="other.safetensors", adapter_name="b")
    pipe.set_adapters(["a", "b"], [0.8, 0.5])
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    theirs = pipe(
        "a red circle", latents=z, num_inference_steps=2, guidance_scale=3.0, output_type="latent", height=32, width=32
    ).images
    pipe.unload_lora_weights()
    mine = (
        with_adapters(model, *files[0])
        .generate("a red circle", latents=z, steps=2, guidance=3.0, height=32, width=32)
        .latents
    )
    assert close(mine, theirs, 1e-4)
    # one that is baked is a plain model, here and there
    merged = with_adapters(model, *files[0]).baked()
    assert not merged.changes and close(picture(merged), ours[0], 1e-4) and torch.equal(picture(model), plain)
    again = suffuse.load(merged.save_pretrained(tmp_path / "merged"))
    assert close(picture(again), ours[0], 1e-4)


def test_folders_as_diffusers_and_peft_write_them(tmp_path: Path) -> None:
    """PEFT's file has no alphas, which are in its configuration."""
    config = LoraConfig(r=4, lora_alpha=16, target_modules=["to_q", "to_k"])
    theirs, tensors = peft_unet(config)
    config.save_pretrained(tmp_path / "peft")
    file = tmp_path / "peft" / "adapter_model.safetensors"
    save_file({f"base_model.model.{key}": tensor for key, tensor in tensors.items()}, file)
    assert close(value(net("unet").with_(loaded(tmp_path / "peft", net("unet"))), "unet"), called(theirs))
    with pytest.raises(BadInput, match="a folder without pytorch_lora_weights.safetensors or"):
        load_adapters(tmp_path, net("unet"))


def test_models_are_stored_without_adapters_or_not_at_all(tmp_path: Path) -> None:
    pipe = pipelines.stable_diffusion()
    model = assemble(
        "StableDiffusionPipeline", pipe.components, {**pipe.scheduler.config, "_class_name": "DDIMScheduler"}
    )
    view = Encoder(pipe.text_encoder)
    for network, delta in (("denoiser", LoRA(2).on(model.denoiser)), ("text_encoder", LoRA(2).during(0, 1).on(view))):
        changed = with_adapters(model, {network: delta})
        for store in (lambda m=changed: m.save_pretrained(tmp_path / "model"), changed.to_diffusers):
            with pytest.raises(Refused, match=r"(cannot hold|cannot run) LoRA\(.*\); merge adapters .* model.baked"):
                store()
    seen = with_adapters(model, {"text_encoder": []})  # a view without adapters
    folder = seen.save_pretrained(tmp_path / "model")
    assert json.loads((folder / "model_index.json").read_text())["text_encoder"] == ["transformers", "CLIPTextModel"]
    assert seen.to_diffusers().text_encoder is pipe.text_encoder


# bad files ------------------------------------------------------------------------------------------------------------
def test_bad_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(Damaged, match="missing"):
        load_adapters(path, net("unet"))
    save_adapters(path, made(LoRA(4), net("unet")))
    for other in ("sd3", "unet-class"):
        with pytest.raises(Refused, match="another architecture: this denoiser has no layer"):
            load_adapters(path, net(other))
    wide = fixture("unet").net
    wide = UNet2DConditionModel(**{**wide.config, "cross_attention_dim": 24})
    with pytest.raises(Refused, match="does not fit .*use the architecture"):
        load_adapters(path, {"denoiser": Encoder(wide)})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Damaged, match="no whole safetensors file"):
        load_adapters(path, net("unet"))
    torch.save({"a": torch.zeros(2)}, path)
    with pytest.raises(BadInput, match="pickled"):
        load_adapters(path, net("unet"))
    save_file({"unet.conv_in.something": torch.zeros(2)}, path)
    with pytest.raises(Refused, match="'unet.conv_in.something' is no tensor of LoRA"):
        load_adapters(path, net("unet"))
    save_file({"lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(Refused, match="changes text_encoder too"):
        load_adapters(path, net("unet"))
    with pytest.raises(Refused, match="hold plain LoRAs only"):
        save_as_diffusers(path, LoHa(2).on(net("unet")))
    with pytest.raises(BadInput, match="text_encoder_2"):
        save_adapters(path, {"unet": LoRA(2).on(net("unet"))})
    assert json.dumps(sorted(p.name for p in tmp_path.iterdir())) == '["a.safetensors"]'
