"""Prompts that were encoded before, by us or by diffusers."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from suffuse.conditioning import Blend, Encoded, Switch
from suffuse.core.errors import BadInput
from suffuse.core.model import Model
from suffuse.guidance import CFG, Embedded
from suffuse.loading.pipelines import assemble
from suffuse.testing import pipelines

PROMPTS = ["a red circle", "blue square"]


@cache
def made(kind: str) -> tuple[Any, Model]:
    pipe = getattr(pipelines, kind)()
    pipe.set_progress_bar_config(disable=True)
    about = {"_class_name": type(pipe.scheduler).__name__, **pipe.scheduler.config}
    return pipe, assemble(type(pipe).__name__, pipe.components, about)


def run(model: Model, prompts: Any, **more: Any) -> torch.Tensor:
    return model.generate(prompts, steps=2, height=32, width=32, **more).latents


@pytest.mark.parametrize(
    "kind", ["stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3", "flux", "pixart_alpha"]
)
def test_encoded_once_is_what_the_text_is(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, model = made(kind)
    guidance = CFG(3.0) | Embedded(3.5) if kind == "flux" else CFG(3.0)
    plain = run(model, PROMPTS, negative_prompt="no", guidance=guidance)
    said, against = [model.encode_prompt(p) for p in PROMPTS], model.encode_prompt("no")
    for prompts, negative in ((said, against), ([said[0], PROMPTS[1]], "no")):
        latents = run(model, prompts, negative_prompt=negative, guidance=guidance)
        torch.testing.assert_close(latents, plain, atol=1e-5, rtol=1e-4)
    for name, part in model.conditioner.components.items():
        if "encoder" in name:
            monkeypatch.setattr(part, "forward", None)
    run(model, said, negative_prompt=against, guidance=guidance)  # asks no encoder


def test_embeddings_of_diffusers() -> None:
    pipe, model = made("stable_diffusion_xl")
    text, _, pooled, _ = pipe.encode_prompt(PROMPTS[0], negative_prompt="no")
    ours = run(model, Encoded({"text": text[0], "pooled": pooled[0]}), negative_prompt="no")
    torch.testing.assert_close(ours, run(model, PROMPTS[0], negative_prompt="no"), atol=1e-4, rtol=1e-4)


def test_words_averages_and_longer_texts() -> None:
    _, model = made("stable_diffusion")
    said = model.encode_prompt(PROMPTS[0])
    assert said.spans == model.condition(PROMPTS[0]).spans[0] and "circle" in said.spans
    mixed = run(model, Blend((said, PROMPTS[1])))
    torch.testing.assert_close(mixed, run(model, Blend(tuple(PROMPTS))), atol=1e-5, rtol=1e-4)
    once = run(model, model.encode_prompt(Blend((said, PROMPTS[1]))))
    torch.testing.assert_close(once, mixed, atol=1e-5, rtol=1e-4)
    with pytest.raises(BadInput, match="changes over the run; give it to `generate`"):
        model.encode_prompt(Switch(PROMPTS[0], PROMPTS[1], 0.5))
    long = Encoded({"text": said.entries["text"].repeat(2, 1)})
    assert run(model, long, negative_prompt=long).isfinite().all()
    with pytest.raises(BadInput, match=r"'text' of shapes \[\(154, 16\), \(77, 16\)\] in one run"):
        run(model, long)
    with pytest.raises(BadInput, match="'pooled' of shapes"):
        run(model, Encoded({**said.entries, "pooled": torch.zeros(16)}))
    assert model.generate(said, steps=1).recipes[0]["lost"] == ["prompt: Encoded"]


def test_what_a_model_needs_and_was_not_given() -> None:
    _, model = made("stable_diffusion_xl")
    said = model.encode_prompt(PROMPTS[0])
    alone = Encoded({"text": said.entries["text"]})
    with pytest.raises(BadInput, match="pooled"):
        run(model, alone, negative_prompt=alone)
