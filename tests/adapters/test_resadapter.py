"""ResAdapter: where it acts, what it leaves alone, released files, norms as differences and as they are."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from suffuse import sample
from suffuse.adapters import LoRA, ResCLoRA, ResENorm, load_adapters, load_resadapter, save_adapters
from suffuse.core.errors import BadInput, Damaged, Refused
from suffuse.resolution import MSWMSA, RAUNet
from suffuse.samplers import DDIM
from suffuse.testing.fixtures import conditions, fixture, states
from suffuse.testing.pipelines import stable_diffusion_xl


def run(net, *items, size=8):
    cond = conditions("unet", 2)
    return sample(net, states("unet", 2, size=size), patches=items, sampler=DDIM(), steps=2, cond=cond, noise=0).x


def randomised(adapter, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for p in adapter.parameters():
        p.data = 0.1 * torch.randn(p.shape, generator=generator)
    return adapter


def released(folder, net, shift=0.25):
    """Files with the names and shapes of the released ones, for this network."""
    convs = {"down_blocks.0.downsamplers.0.conv", "up_blocks.0.upsamplers.0.conv"}
    tensors = {}
    for name in convs:
        weight, key = net.net.get_submodule(name).weight, "lora_unet_" + name.replace(".", "_")
        tensors[f"{key}.lora_down.weight"] = torch.full((4, *weight.shape[1:]), 0.1).half()
        tensors[f"{key}.lora_up.weight"] = torch.full((len(weight), 4, 1, 1), 0.2).half()
        tensors[f"{key}.alpha"] = torch.tensor(2.0).half()
    save_file(tensors, folder / "pytorch_lora_weights.safetensors")
    norms = {n: m for n, m in net.net.named_modules() if ".resnets." in n and isinstance(m, nn.GroupNorm)}
    values = {f"{n}.{p}": getattr(m, p).detach() + shift for n, m in norms.items() for p in ("weight", "bias")}
    save_file(values, folder / "diffusion_pytorch_model.safetensors")
    return folder


def test_where_both_parts_act():
    net = fixture("unet")
    assert ResCLoRA().on(net).names == ["down_blocks.0.downsamplers.0.conv", "up_blocks.0.upsamplers.0.conv"]
    names = ResENorm().on(net).names
    assert all(".resnets." in n and ".norm" in n for n in names) and len(names) == 2 * 8
    with pytest.raises(Refused):
        ResCLoRA().on(fixture("dit"))


def test_untrained_and_at_scale_zero_it_is_the_base():
    net = fixture("unet")
    fresh = [ResCLoRA().on(net), ResENorm().on(net)]
    assert torch.equal(run(net, *fresh), run(net))
    changed = [randomised(a) for a in fresh]
    assert not torch.equal(run(net, *changed), run(net))
    assert torch.equal(run(net, *(a.scaled(0.0) for a in changed)), run(net))


def test_released_files_load_in_both_modes(tmp_path):
    base = fixture("unet")
    folder = released(tmp_path, base)
    personal = copy.deepcopy(base)
    for module in personal.net.modules():
        if isinstance(module, nn.GroupNorm):
            module.weight.data += 1.0
    lora, norms = load_resadapter(folder, personal, base=base, scale=0.5)
    assert isinstance(lora.patch, LoRA) and lora.scale == 0.5 and norms.scale == 1.0
    part = lora.part("down_blocks.0.downsamplers.0.conv")
    change = lora.patch.weight(part, personal.net.down_blocks[0].downsamplers[0].conv.weight)
    torch.testing.assert_close(change, torch.full_like(change, 4 * 0.1 * 0.2 * 2.0 / 4), atol=1e-4, rtol=1e-2)
    torch.testing.assert_close(norms.part("mid_block.resnets.0.norm1")["w_norm"], torch.full((16,), 0.25))

    def with_norms(weights):
        net = copy.deepcopy(personal)
        for name, module in net.net.named_modules():
            if ".resnets." in name and isinstance(module, nn.GroupNorm):
                for p in ("weight", "bias"):
                    getattr(module, p).data = weights(name, p).clone()
        return net

    kept = with_norms(lambda n, p: getattr(personal.net.get_submodule(n), p).detach() + 0.25)
    torch.testing.assert_close(run(personal, norms), run(kept), atol=1e-4, rtol=1e-4)
    over = load_resadapter(folder, personal)[1]
    overwritten = with_norms(lambda n, p: getattr(base.net.get_submodule(n), p).detach() + 0.25)
    torch.testing.assert_close(run(personal, over), run(overwritten), atol=1e-4, rtol=1e-4)


def test_either_file_alone(tmp_path):
    net = fixture("unet")
    released(tmp_path, net)
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    assert len(load_resadapter(tmp_path, net)) == 1
    (tmp_path / "pytorch_lora_weights.safetensors").unlink()
    with pytest.raises(Damaged, match="neither"):
        load_resadapter(tmp_path, net)
    released(tmp_path, net)
    (tmp_path / "pytorch_lora_weights.safetensors").unlink()
    with pytest.raises(Refused, match="fits no norm"):
        load_resadapter(tmp_path, fixture("unet-sdxl"), base=fixture("dit"))


def test_our_own_files(tmp_path):
    net = fixture("unet")
    for adapter in (randomised(ResCLoRA(4).on(net)), randomised(ResENorm().on(net))):
        (again,) = load_adapters(save_adapters(tmp_path / "a.safetensors", adapter), net)["denoiser"]
        assert again.patch == adapter.patch and torch.equal(run(net, again), run(net, adapter))


def test_it_goes_with_a_style_lora_and_with_hidiffusion():
    net = fixture("unet")
    both = [randomised(ResCLoRA(4).on(net)), randomised(ResENorm().on(net), 1)]
    style = randomised(LoRA(2, where="attn-only").on(net), 2)
    torch.testing.assert_close(run(net, style, *both), run(net, *both, style), atol=1e-4, rtol=1e-4)
    assert not torch.equal(run(net, style, *both), run(net, *both))
    assert run(net, RAUNet(), MSWMSA(), *both, style, size=16).isfinite().all()


def test_sizes_as_conditions(tmp_path):
    from suffuse import load
    from suffuse.training import Buckets

    stable_diffusion_xl().save_pretrained(tmp_path)
    model = load(tmp_path)
    pictures = torch.rand(2, 3, *model.defaults.size) * 2 - 1
    low, high = (s // 2 for s in model.defaults.size), (2 * s for s in model.defaults.size)
    sizes = [tuple(low), tuple(high)]
    source = Buckets.of(model, pictures, ["a", "b"], sizes, batch=2)
    for (height, width), inner in source.sources.items():
        batch = inner(0)
        assert batch.cond["time_ids"].tolist() == [[height, width, 0, 0, height, width]] * 2
        assert batch.data.shape[2:] == tuple(s // model.codec.space.factor for s in (height, width))
    with pytest.raises(BadInput, match="native"):
        Buckets.of(model, pictures, ["a", "b"], [model.defaults.size], batch=2)
