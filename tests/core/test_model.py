"""The model that a user holds: batches, sources, masks, inversion, recipes, names of arguments, refusals."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline
from PIL import Image
from torch import Tensor

import suffuse
from suffuse.caching import DeepCache
from suffuse.conditioning import Alternate, Blend, Switch, Weighted
from suffuse.core.errors import BadInput, Refused
from suffuse.core.expression import parse
from suffuse.core.hook import Hook
from suffuse.core.model import Model
from suffuse.core.noise import Keyed
from suffuse.core.patch import Patch, Sites
from suffuse.core.prompt import Mixture
from suffuse.core.reflection import Branch
from suffuse.guidance import PAG, Autoguidance
from suffuse.guidance.cfg import CFG
from suffuse.images import to_tensor
from suffuse.noise import SeedBank
from suffuse.samplers.ancestral import DDIM, DDPM
from suffuse.samplers.spacing import Explicit, Leading, Trailing
from suffuse.testing import pipelines

SPACING = Leading(offset=1, end=1 / 1000)
HOW: dict[str, Any] = {"steps": 4, "guidance": 3.0, "sampler": DDIM(), "spacing": SPACING}
PROMPTS = ["a red circle", "blue square"]


def ddim(pipe: Any) -> Any:
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def sd() -> Any:
    return ddim(pipelines.stable_diffusion())


@pytest.fixture(scope="module")
def model(sd: Any, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("sd")
    sd.save_pretrained(folder)
    return suffuse.load(folder)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    ramp = torch.linspace(0, 255, 32)
    pixels = torch.stack([ramp.expand(32, 32), ramp.expand(32, 32).T, torch.full((32, 32), 90.0)], -1)
    return Image.fromarray(pixels.to(torch.uint8).numpy())


@pytest.fixture(scope="module")
def mask() -> Image.Image:
    """Left half white: it may change. Its edge lies between two latents."""
    return Image.fromarray((torch.arange(32).expand(32, 32) < 16).to(torch.uint8).mul(255).numpy())


def seeded(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# batches --------------------------------------------------------------------------------------------------------------
def test_a_picture_of_a_batch_is_the_picture_alone(model: Model) -> None:
    how = {**HOW, "sampler": DDPM()}
    whole = model.generate(PROMPTS, n=2, seed=3, **how)
    assert [r["prompt"] for r in whole.recipes] == ["a red circle"] * 2 + ["blue square"] * 2
    assert [r["sample"] for r in whole.recipes] == [0, 1, 2, 3]
    parts = model.generate(PROMPTS, n=2, seed=3, batch=3, **how)
    alone = model.generate(PROMPTS[1], seed=3, samples=[2], **how)
    assert torch.allclose(whole.latents, parts.latents, atol=1e-4)
    assert torch.allclose(whole.latents[2:3], alone.latents, atol=1e-4)
    assert not torch.allclose(whole.latents[2], whole.latents[3], atol=1e-1)
    assert whole.nfe.tolist() == [8, 8, 8, 8]


def test_names_of_diffusers(model: Model) -> None:
    ours = model.generate(PROMPTS[0], steps=3, guidance=CFG(2.0), n=2, seed=1)
    theirs = model.generate(PROMPTS[0], num_inference_steps=3, guidance_scale=2.0, num_images_per_prompt=2, seed=1)
    assert torch.equal(ours.latents, theirs.latents)
    assert len(theirs.images) == 2 and isinstance(theirs.images[0], Image.Image)


def test_generator_is_read_as_diffusers_reads_it(model: Model, sd: Any) -> None:
    theirs = sd(PROMPTS, num_inference_steps=4, guidance_scale=3.0, generator=seeded(), output_type="latent").images
    assert torch.allclose(model.generate(PROMPTS, generator=seeded(), **HOW).latents, theirs, atol=1e-4)


def test_a_generator_for_each_picture(model: Model, sd: Any) -> None:
    each = [seeded(k) for k in (5, 6)]
    theirs = sd(PROMPTS, num_inference_steps=4, guidance_scale=3.0, generator=each, output_type="latent").images
    ours = model.generate(PROMPTS, generator=[seeded(k) for k in (5, 6)], **HOW)
    assert torch.allclose(ours.latents, theirs, atol=1e-4)
    alone = model.generate(PROMPTS[1], generator=[seeded(6)], samples=[1], **{**HOW, "sampler": DDPM()})
    whole = model.generate(PROMPTS, generator=[seeded(5), seeded(6)], batch=1, **{**HOW, "sampler": DDPM()})
    assert torch.allclose(whole.latents[1:], alone.latents, atol=1e-4)


def test_a_seed_for_each_picture(model: Model, tmp_path: Path) -> None:
    how = {**HOW, "sampler": DDPM(), "height": 32, "width": 32}
    whole = model.generate(PROMPTS, seed=[8, 3], **how)
    alone = model.generate(PROMPTS[1], seed=3, **how)
    assert torch.allclose(whole.latents[1:], alone.latents, atol=1e-4)
    assert (whole.recipes[1]["seed"], whole.recipes[1]["sample"]) == (3, 0)
    bank = model.generate(PROMPTS, noise=SeedBank((8, 3)), **how)
    assert torch.allclose(bank.latents, whole.latents, atol=1e-4) and bank.recipes == whole.recipes
    whole.save(tmp_path)
    again = suffuse.replay(tmp_path / "001.png", model=model)
    assert torch.allclose(again.latents, whole.latents[1:], atol=1e-4)


def test_numbers_of_numpy(model: Model) -> None:
    ours = model.generate(PROMPTS[0], steps=np.int64(2), seed=np.int64(3), n=np.int32(1))
    assert torch.equal(ours.latents, model.generate(PROMPTS[0], steps=2, seed=3).latents)
    assert json.loads(json.dumps(ours.recipes[0]))["seed"] == 3


def test_a_picture_of_any_size_becomes_the_nearest_that_can_be_made(model: Model) -> None:
    out = model.generate(PROMPTS[0], image=Image.new("RGB", (37, 50)), steps=2)
    assert out.images[0].size == (36, 48)


def test_it_says_in_one_line_what_it_is(model: Model) -> None:
    said = repr(model.with_(DeepCache(every=2)))
    assert "\n" not in said and "UNet2DConditionModel" in said and "DeepCache(every=2" in said
    with pytest.raises(BadInput, match="with_adapters"):
        model.with_({"denoiser": []})


def test_scale_of_one_or_less_is_no_guidance(model: Model) -> None:
    out = [model.generate(PROMPTS[0], steps=2, guidance=w) for w in (1.0, 0.0)]
    assert torch.equal(out[0].latents, out[1].latents) and out[0].nfe.tolist() == [2]
    assert not torch.equal(out[0].latents, model.generate(PROMPTS[0], steps=2, guidance=CFG(0.0)).latents)


def test_callback(model: Model) -> None:
    seen: list[tuple[int, float]] = []

    def callback(pipe: Any, step: int, timestep: float, values: dict[str, Tensor]) -> dict[str, Tensor]:
        assert pipe is model
        seen.append((step, timestep))
        return {"latents": values["latents"] * 0.0} if step == 3 else {}

    out = model.generate(PROMPTS[0], callback_on_step_end=callback, **HOW)
    assert seen == [(0, 751), (1, 501), (2, 251), (3, 1)]
    assert not out.latents.any()
    assert out.recipes[0]["lost"] == ["callback_on_step_end"]


@pytest.mark.parametrize("returned", [3, {"latents": 3}, {"latents": torch.zeros(1, 2, 8, 8)}])
def test_callback_that_returns_something_else(returned: Any, model: Model) -> None:
    with pytest.raises(BadInput, match="callback_on_step_end returned"):
        model.generate(PROMPTS[0], steps=1, callback_on_step_end=lambda *_: returned)


def test_callback_that_only_looks(model: Model) -> None:
    out = model.generate(PROMPTS[0], steps=2, callback_on_step_end=lambda pipe, step, timestep, values: values)
    assert torch.equal(out.latents, model.generate(PROMPTS[0], steps=2).latents) and "lost" not in out.recipes[0]


def test_progress(model: Model) -> None:
    seen: list[int] = []
    model.generate(PROMPTS, batch=1, steps=2, progress=lambda at: seen.append(at.i))
    assert seen == [0, 1, 0, 1]


def test_conditions_of_plug_ins(model: Model) -> None:
    """A plug-in names prompts; the model encodes them, one row for each picture."""

    class Listening(Hook):
        def prompts(self) -> dict[str, str]:
            return {"concept:red": "red"}

        def __call__(self, step: Any, x: Tensor, at: Any) -> Tensor:
            seen.append(step.cond.alt["concept:red"]["text"])
            return step(x, at)

    seen: list[Tensor] = []
    model.generate(PROMPTS, hooks=[Listening()], steps=1)
    assert torch.allclose(seen[0], model.condition(["red", "red"])["text"], atol=1e-6)


# prompts that are values ----------------------------------------------------------------------------------------------
def test_a_prompt_that_changes_is_one_prompt_and_then_the_other(model: Model) -> None:
    out = model.generate(Switch(PROMPTS[0], PROMPTS[1], 0.5), negative_prompt=Switch("no", "left", 0.5), **HOW)
    first, second = (model.condition(p, n) for p, n in zip(PROMPTS, ("no", "left"), strict=True))
    run: dict[str, Any] = {"sampler": DDIM(), "guidance": CFG(3.0), "grid": SPACING.grid(model.denoiser.process, 4)}
    middle = run["grid"].times[2].item()
    half = suffuse.sample(model.denoiser, (1, 4, 8, 8), cond=first, stop=middle, **run)
    whole = suffuse.sample(model.denoiser, suffuse.Start.exactly(half.x, middle), cond=second, **run)
    torch.testing.assert_close(out.latents, whole.x, atol=1e-4, rtol=1e-4)
    assert out.nfe.tolist() == [8]


def test_prompt_values_in_a_batch_and_in_recipes(model: Model, tmp_path: Path) -> None:
    prompts = [Weighted("a (red:1.5) circle"), PROMPTS[1], Switch("a", Blend(("red", "blue"), (2, 1)), 0.3)]
    how: dict[str, Any] = {**HOW, "negative_prompt": Alternate(("no", "left")), "seed": 4}
    out = model.generate(prompts, **how)
    for k, prompt in enumerate(prompts):
        alone = model.generate(prompt, samples=[k], **how)
        torch.testing.assert_close(alone.latents, out.latents[k : k + 1], atol=1e-4, rtol=1e-4)
    assert out.recipes[0]["prompt"] == {"expression": "Weighted(text='a (red:1.5) circle')"}
    assert out.recipes[1]["prompt"] == PROMPTS[1]
    again = suffuse.replay(out.save(tmp_path)[2], model=model)
    assert torch.equal(again.latents, model.generate(prompts[2], samples=[2], **how).latents)


def test_a_prompt_that_no_expression_says(model: Model) -> None:
    @dataclass(frozen=True)
    class Mine(Mixture):
        parts = ("red", "blue")

        def shares(self, i: int, n: int) -> list[float]:
            return [0.5, 0.5]

    recipe = model.generate(Mine(), steps=1).recipes[0]
    assert recipe["lost"] == ["prompt: Mine"] and "prompt" not in recipe


def test_inversion_and_a_prompt_that_changes(model: Model, picture: Image.Image) -> None:
    plain = model.invert(picture, PROMPTS[0], steps=2).x
    assert torch.equal(model.invert(picture, Switch(PROMPTS[0], PROMPTS[1], 1.0), steps=2).x, plain)
    assert not torch.equal(model.invert(picture, Switch(PROMPTS[0], PROMPTS[1], 0.5), steps=2).x, plain)


# from pictures --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("strength", [0.3, 0.5, 1.0])
def test_image_to_image_as_diffusers_counts_it(strength: float, model: Model, sd: Any, picture: Image.Image) -> None:
    pipe = StableDiffusionImg2ImgPipeline(**sd.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    z = model.encode(picture)
    theirs = pipe(
        PROMPTS[0],
        image=z,
        strength=strength,
        num_inference_steps=4,
        guidance_scale=3.0,
        generator=seeded(),
        output_type="latent",
    ).images
    ours = model.generate(PROMPTS[0], image=picture, strength=strength, generator=seeded(), **HOW)
    assert torch.allclose(ours.latents, theirs, atol=1e-4)
    assert ours.nfe.tolist() == [2 * int(4 * strength)]


def test_inpainting_with_an_ordinary_model(model: Model, sd: Any, picture: Image.Image, mask: Image.Image) -> None:
    pipe = StableDiffusionInpaintPipeline(**sd.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    z = model.encode(picture)
    theirs = pipe(
        PROMPTS[0], image=z, mask_image=mask, masked_image_latents=z, strength=1.0, num_inference_steps=4,
        guidance_scale=3.0, generator=seeded(), output_type="latent", height=32, width=32,
    ).images  # fmt: skip
    ours = model.generate(PROMPTS[0], image=picture, mask_image=mask, generator=seeded(), **HOW)
    assert torch.allclose(ours.latents, theirs, atol=1e-4)
    kept = to_tensor(picture)[..., 16:]
    assert torch.equal(to_tensor(ours.images[0])[..., 16:], kept)
    assert not torch.equal(to_tensor(ours.images[0])[..., :16], to_tensor(picture)[..., :16])


def test_inpainting_with_a_model_made_for_it(tmp_path: Path, picture: Image.Image, mask: Image.Image) -> None:
    pipe = ddim(pipelines.inpainting())
    pipe.save_pretrained(tmp_path)
    model = suffuse.load(tmp_path)
    hidden = to_tensor(picture) * (1 - (to_tensor(mask) > 0).float())
    theirs = pipe(
        PROMPTS[0], image=model.encode(picture), mask_image=mask, masked_image_latents=model.encode(hidden),
        strength=1.0, num_inference_steps=4, guidance_scale=3.0, generator=seeded(), output_type="latent",
        height=32, width=32,
    ).images  # fmt: skip
    ours = model.generate(PROMPTS[0], image=picture, mask_image=mask, generator=seeded(), **HOW)
    assert torch.allclose(ours.latents, theirs, atol=1e-4)


def test_soft_mask(model: Model, picture: Image.Image) -> None:
    half = Image.new("L", (32, 32), 128)
    soft = model.generate(PROMPTS[0], image=picture, mask_image=half, **HOW)
    white = model.generate(PROMPTS[0], image=picture, mask_image=Image.new("L", (32, 32), 255), **HOW)
    black = model.generate(PROMPTS[0], image=picture, mask_image=Image.new("L", (32, 32), 0), **HOW)
    assert torch.equal(to_tensor(black.images[0]), to_tensor(picture))
    assert torch.allclose(white.latents, model.generate(PROMPTS[0], **HOW).latents, atol=1e-4)
    far = [(to_tensor(out.images[0]) - to_tensor(picture)).abs().mean() for out in (black, soft, white)]
    assert far[0] < far[1] < far[2]


def test_pictures_are_those_of_their_rows(model: Model, picture: Image.Image, mask: Image.Image) -> None:
    other = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    how = {**HOW, "seed": 2, "strength": 0.5}
    both = model.generate(PROMPTS, image=[picture, other], mask_image=mask, **how)
    alone = model.generate(PROMPTS[1], image=other, mask_image=mask, samples=[1], **how)
    assert torch.allclose(both.latents[1:], alone.latents, atol=1e-4)
    assert both.recipes[1] == alone.recipes[0] and both.recipes[0]["image"] != both.recipes[1]["image"]
    assert torch.allclose(
        both.latents,
        model.generate(PROMPTS, image=[picture, other], mask_image=mask, batch=1, **how).latents,
        atol=1e-4,
    )


def test_inversion_leads_back(tmp_path: Path, picture: Image.Image) -> None:
    """DDIM forth and back is exact to first order."""
    pipe = pipelines.stable_diffusion_2()
    with torch.no_grad():  # random weights make a path of sharp bends; a smooth one has an order to measure
        pipe.unet.conv_out.weight *= 0.03
    pipe.save_pretrained(tmp_path)
    model = suffuse.load(tmp_path)
    z, errors = model.encode(picture), []
    for steps in (5, 20):
        how: dict[str, Any] = {"steps": steps, "guidance": 1.0, "spacing": Trailing()}
        noise = model.invert(picture, PROMPTS[0], **how)
        back = model.generate(PROMPTS[0], latents=noise.x, sampler=DDIM(), **how).latents
        errors.append(((back - z).norm() / z.norm()).item())
    assert errors[0] < 0.5 and errors[1] < errors[0] / 2.5, errors


def test_encode_and_decode(model: Model, picture: Image.Image) -> None:
    z = model.encode([picture, picture])
    assert z.shape == (2, 4, 8, 8) and model.decode(z).shape == (2, 3, 32, 32)


# recipes --------------------------------------------------------------------------------------------------------------
def test_recipe_rebuilds_the_picture(model: Model, tmp_path: Path) -> None:
    out = model.generate(
        PROMPTS, negative_prompt="no", n=2, seed=9, **{**HOW, "sampler": DDPM(), "guidance": CFG(3.0).during(0, 0.5)}
    )
    r = suffuse.recipe_of(out.save(tmp_path)[3])
    assert r["model"] == model.name and r["fingerprint"] == model.fingerprint and "lost" not in r
    again = model.generate(
        r["prompt"], negative_prompt=r["negative_prompt"], seed=r["seed"], samples=[r["sample"]], steps=r["steps"],
        sampler=parse(r["sampler"]), spacing=parse(r["spacing"]), guidance=parse(r["guidance"]), height=r["height"],
        width=r["width"],
    )  # fmt: skip
    assert torch.allclose(again.latents, out.latents[3:], atol=1e-4)


def test_what_a_recipe_cannot_hold_is_said(model: Model) -> None:
    class Mine(Hook):
        def __call__(self, step: Any, x: Tensor, at: Any) -> Tensor:
            return step(x, at)

    assert model.generate(PROMPTS[0], steps=1, hooks=[Mine()]).recipes[0]["lost"] == ["hooks: Mine"]


def test_saving_pictures(model: Model, tmp_path: Path) -> None:
    out = model.generate(PROMPTS, steps=1)
    assert [p.name for p in out.save(tmp_path / "folder")] == ["000.png", "001.png"]
    with pytest.raises(BadInput, match="one file for 2 pictures"):
        out.save(tmp_path / "a.png")


# views ----------------------------------------------------------------------------------------------------------------
class Doubled(Patch):
    """Twice the output of the network's first convolution."""

    def sites(self, net: Sites) -> Any:
        return net.named("conv_in")

    def around(self, call: Any) -> Tensor:
        return 2 * call()


def test_views_share_weights_and_leave_the_model_alone(model: Model, tmp_path: Path) -> None:
    before = model.generate(PROMPTS[0], steps=2).latents
    view = model.with_(Doubled())
    changed = view.generate(PROMPTS[0], steps=2)
    assert not torch.allclose(changed.latents, before, atol=1e-2)
    assert changed.recipes[0]["lost"] == ["patches: Doubled"]
    assert torch.equal(model.generate(PROMPTS[0], steps=2).latents, before)
    assert torch.allclose(model.generate(PROMPTS[0], steps=2, patches=[Doubled()]).latents, changed.latents)
    assert view.net is model.net
    with pytest.raises(Refused, match="save_pretrained"):
        view.save_pretrained(tmp_path / "view")
    with pytest.raises(Refused, match="to_diffusers"):
        view.to_diffusers()


def test_fingerprint_follows_the_weights(model: Model) -> None:
    first = model.fingerprint
    with torch.no_grad():
        model.net.conv_in.bias += 1.0  # type: ignore[union-attr, operator]
        assert model.fingerprint != first
        model.net.conv_in.bias -= 1.0  # type: ignore[union-attr, operator]
    assert len(first) == 16


# refusals -------------------------------------------------------------------------------------------------------------
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "steps 0": ({"steps": 0}, "steps=0"),
    "steps 2.5": ({"steps": 2.5}, "steps=2.5"),
    "two names": ({"steps": 3, "num_inference_steps": 3}, "two names of one argument"),
    "height": ({"height": 30}, "height=30.*multiples of 4; the nearest are 32 and 32"),
    "guidance": ({"guidance": "strong"}, "guidance='strong'"),
    "nan": ({"guidance": float("nan")}, "guidance=nan"),
    "n": ({"n": 0}, "n=0"),
    "seed": ({"seed": "one"}, "seed='one'"),
    "seed and noise": ({"seed": 1, "noise": Keyed(2)}, "more than one was given"),
    "seeds": ({"seed": [1, 2, 3]}, "seed: 3 for 1 pictures"),
    "steps of its own": ({"steps": 4, "spacing": Explicit(times=(1.0, 0.5))}, "has 2 steps of its own"),
    "negative of a scale of 1": ({"negative_prompt": "no", "guidance": 1.0}, "asks about the prompt alone"),
    "negative of PAG": ({"negative_prompt": "no", "guidance": PAG(3.0)}, "PAG.* asks about the prompt alone"),
    "height of a wall": (
        {"height": 10**20},
        "height=10*: must be a whole number from 1 to 2147483647",
    ),
    "no generator": ({"generator": 3}, "generator=3: must be a torch.Generator"),
    "generators": ({"generator": [seeded(), seeded()]}, "generator: 2 for 1 pictures"),
    "noise": ({"noise": torch.zeros(1, 4, 8, 8)}, "start states as latents"),
    "a scheduler": ({"sampler": DDIMScheduler()}, "sampler=DDIMScheduler.*must be a value such as DDIM"),
    "a class": ({"sampler": DDPM}, "sampler=<class.*must be a value"),
    "a text": ({"patches": ["DeepCache()"]}, "patches='DeepCache\\(\\)': must be a value"),
    "one patch": ({"patches": CFG(3.0)}, r"patches=CFG.*give a list, such as \[DeepCache"),
    "another kind": ({"hooks": [DDPM()]}, "hooks=DDPM.*must be a value such as MaskedBlend"),
    "spacing": ({"spacing": DDPM()}, "spacing=DDPM"),
    "negative of a kind": ({"negative_prompt": {"a": 1}}, "must be text"),
    "samples": ({"samples": [1, 2]}, "2 identities for 1 pictures"),
    "negatives": ({"negative_prompt": ["a", "b"]}, "negative_prompt: 2 for 1"),
    "mask alone": ({"mask_image": Image.new("L", (32, 32))}, "mask_image: needs a picture"),
    "strength alone": ({"strength": 0.5}, "strength: needs a picture"),
    "strength 0": ({"image": Image.new("RGB", (32, 32)), "strength": 0.0}, "strength=0.0"),
    "strength too small": ({"image": Image.new("RGB", (32, 32)), "strength": 0.01, "steps": 4}, "at least 0.25"),
    "latents": ({"latents": torch.zeros(1, 4, 3, 3)}, "latents: shape"),
    "latents and image": ({"latents": torch.zeros(1, 4, 8, 8), "image": Image.new("RGB", (32, 32))}, "two starts"),
    "batch": ({"batch": 0}, "batch=0"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_input(name: str, model: Model) -> None:
    arguments, message = BAD[name]
    with pytest.raises(BadInput, match=message) as error:
        model.generate(PROMPTS[0], **arguments)
    assert "\n" not in str(error.value)


def test_too_long_a_prompt(model: Model) -> None:
    with pytest.raises(BadInput, match="too long"):
        model.generate("red " * 90)
    assert model.generate("red " * 90, steps=1, truncate=True).images


def test_a_negative_prompt_goes_to_every_guidance_that_asks_for_null(model: Model) -> None:
    guidance = Autoguidance(Branch(path="null"), 2.0)
    one, two = (model.generate(PROMPTS[0], negative_prompt=p, **{**HOW, "guidance": guidance}) for p in (None, "no"))
    assert not torch.equal(one.latents, two.latents)
