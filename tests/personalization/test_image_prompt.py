"""Image prompts: diffusers' pictures from released kinds of files, nothing before training, rows by themselves."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.models.embeddings import ImageProjection, IPAdapterPlusImageProjection
from safetensors.torch import save_file
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

import suffuse
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput, Damaged, Refused
from suffuse.guidance import CFG
from suffuse.images import to_pil
from suffuse.personalization import ImagePrompt, IPAdapter
from suffuse.samplers.ancestral import DDIM
from suffuse.samplers.spacing import Leading
from suffuse.testing import pipelines
from suffuse.testing.fixtures import conditions, fixture, states

PROMPTS = ["a red circle left of a blue square", "photo"]


def vision():
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8,
        projection_dim=12,
    )  # fmt: skip
    return pipelines.seeded(lambda: CLIPVisionModelWithProjection(config))


def file(kind, unet):
    """The tensors of a file as it is released."""
    random = torch.Generator().manual_seed(3)
    if kind == "plus":
        net = pipelines.seeded(lambda: IPAdapterPlusImageProjection(16, 16, 64, depth=4, heads=1, num_queries=3))
        renamed = {}
        for name, v in net.state_dict().items():
            name = name.replace("ln0", "0.norm1").replace("ln1", "0.norm2").replace(".attn.to_out.0", ".0.to_out")
            name = name.replace(".attn.", ".0.").replace("ff.0.", "1.0.").replace("ff.1.net.0.proj", "1.1")
            renamed[name.replace("ff.1.net.2", "1.3")] = v
        for k in range(4):
            key, value = (renamed.pop(f"layers.{k}.0.{n}.weight") for n in ("to_k", "to_v"))
            renamed[f"layers.{k}.0.to_kv.weight"] = torch.cat([key, value])
        images = renamed
    else:
        net = pipelines.seeded(lambda: ImageProjection(12, 16, 4))
        images = {k.replace("image_embeds", "proj"): v for k, v in net.state_dict().items()}
    tensors, place = {f"image_proj.{k}": v for k, v in images.items()}, 1
    modules = dict(unet.named_modules())
    for name in unet.attn_processors:
        if name.endswith("attn2.processor"):
            for layer, own in (("to_k_ip", "to_k"), ("to_v_ip", "to_v")):
                shape = getattr(modules[name.removesuffix(".processor")], own).weight.shape
                tensors[f"ip_adapter.{place}.{layer}.weight"] = 0.3 * torch.randn(shape, generator=random)
            place += 2
    return {k: v.contiguous() for k, v in tensors.items()}


@pytest.fixture(params=["base", "plus"])
def written(request, tmp_path):
    stock, encoder = pipelines.stable_diffusion(), vision()
    stock.save_pretrained(tmp_path / "model")
    encoder.save_pretrained(tmp_path / "encoder")
    save_file(file(request.param, stock.unet), tmp_path / "ip.safetensors")
    stock.register_modules(
        image_encoder=encoder,
        feature_extractor=CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    )
    return stock, tmp_path


def test_diffusers_picture(written):
    stock, folder = written
    model = suffuse.load(folder / "model")
    stock.load_ip_adapter(folder, subfolder="", weight_name="ip.safetensors", low_cpu_mem_usage=False)
    stock.set_ip_adapter_scale(0.7)
    stock.scheduler = DDIMScheduler.from_config(stock.scheduler.config, clip_sample=False)
    stock.set_progress_bar_config(disable=True)
    random = torch.Generator().manual_seed(1)
    z, shown = torch.randn(2, 4, 8, 8, generator=random), torch.rand(2, 3, 40, 32, generator=random) * 2 - 1
    each = zip(PROMPTS, to_pil(shown), z, strict=True)
    expected = torch.cat([stock(
        prompt, ip_adapter_image=picture, latents=start[None], num_inference_steps=3, guidance_scale=4.0,
        output_type="latent", height=32, width=32,
    ).images for prompt, picture, start in each])  # fmt: skip
    how = {"latents": z, "steps": 3, "guidance": 4.0, "sampler": DDIM(), "spacing": Leading(offset=1, end=1 / 1000),
           "height": 32, "width": 32}  # fmt: skip
    ip = IPAdapter.load(folder / "ip.safetensors", folder / "encoder", model)
    found = ip.shown(model, shown, scale=0.7).generate(PROMPTS, **how).latents
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    plain = model.generate(PROMPTS, **how).latents
    assert (found - plain).abs().max() > 1e-2
    assert torch.equal(ip.shown(model, shown, scale=0.0).generate(PROMPTS, **how).latents, plain)


def test_edits_take_it_too(written):
    _, folder = written
    model = suffuse.load(folder / "model")
    ip = IPAdapter.load(folder / "ip.safetensors", folder / "encoder", model)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(4)) * 2 - 1
    plain, told = (m.edit(image, "photo", "a photo", steps=2).decoded.target for m in (model, ip.shown(model, image)))
    assert not torch.equal(plain, told)


def run(denoiser, name, n=2, **entries):
    how = {"sampler": DDIM(), "guidance": CFG(3.0), "steps": 2, "cond": conditions(name, n) | entries}
    return sample(denoiser, states(name, n), **how).x


@pytest.mark.parametrize("name", ["unet", "unet-sdxl", "pixart"])
def test_a_new_one_adds_nothing(name):
    net = fixture(name)
    made, tokens = ImagePrompt().on(net), torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(1))
    width = next(iter(made.parts))["to_k_ip"].in_features
    tokens = tokens.repeat(1, 1, -(-width // 16))[..., :width]
    torch.testing.assert_close(run(net.with_(made), name, image_prompt=tokens), run(net, name), atol=1e-6, rtol=1e-5)
    for p in made.parameters():
        p.data += 0.1
    assert not torch.allclose(run(net.with_(made), name, image_prompt=tokens), run(net, name), atol=1e-3)
    only = net.with_(made.only("nobody"))
    torch.testing.assert_close(run(only, name, image_prompt=tokens), run(net, name), atol=1e-6, rtol=1e-5)


def test_what_is_refused(written):
    _, folder = written
    model = suffuse.load(folder / "model")
    with pytest.raises(Damaged, match="image_proj"):
        save_file({"x": torch.zeros(1)}, folder / "x.safetensors")
        IPAdapter.load(folder / "x.safetensors", folder / "encoder", model)
    with pytest.raises(Refused, match="cross-attention"):
        ImagePrompt().on(fixture("sd3"))
    net = fixture("unet")
    with pytest.raises(BadInput, match="image_prompt"):
        run(net.with_(ImagePrompt().on(net)), "unet")
    broken = {k: v[..., :3].contiguous() if "ip_adapter.1" in k else v for k, v in
              suffuse.adapters.reading.read_tensors(folder / "ip.safetensors")[0].items()}  # fmt: skip
    save_file(broken, folder / "broken.safetensors")
    with pytest.raises(Refused, match="does not fit"):
        IPAdapter.load(folder / "broken.safetensors", folder / "encoder", model)
