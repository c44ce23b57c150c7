"""What the matrices say is what happens when methods are run together."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from suffuse.core.guidance import Guidance
from suffuse.core.hook import Hook
from suffuse.core.plugin import Needs
from suffuse.core.registry import Method, resolve
from suffuse.docs import matrices
from suffuse.docs.trials import KINDS, on_kind, on_network, outcome, stage
from suffuse.testing import fixtures


@dataclass(frozen=True)
class Leaking(Guidance):
    """Lets the pictures of a batch see each other, and says so nowhere."""

    def __call__(self, predict, x, t, cond, at):
        p = predict(x, t, cond)
        return p.with_(eps=p.eps - p.eps.mean(0))


@dataclass(frozen=True)
class Broken(Hook):
    """Does not run."""

    def __call__(self, step, x, at):
        return step(x, at) + torch.zeros(7)


@dataclass(frozen=True)
class Idle(Hook):
    """Does nothing."""

    def __call__(self, step, x, at):
        return step(x, at)


def own(target: type) -> Method:
    return Method(target, None, ())


@pytest.mark.parametrize(
    ("methods", "reason"),
    [
        ([resolve("CFG")], ""),
        ([resolve("DeepCache"), resolve("CFG"), resolve("DDIM")], ""),
        ([resolve("LoRA")], ""),
        ([own(Leaking)], "fault: a picture in a batch differs from the same picture alone"),
        ([own(Broken)], "fault: RuntimeError"),
        ([own(Idle)], "changes nothing here"),
    ],
)
def test_a_cell_says_what_happens(methods, reason):
    found = outcome(on_network("unet"), *methods)
    assert found.startswith(reason) and bool(found) == bool(reason)


def test_refusals_are_reasons_without_settings():
    assert outcome(on_network("dit"), resolve("DeepCache")).startswith("this network has no skip connections;")
    assert outcome(on_kind("logits"), resolve("DDIM")).startswith("needs a Gaussian process")


@pytest.mark.parametrize("kind", KINDS)
def test_guidance_matters_on_every_kind(kind):
    assert outcome(on_kind(kind), resolve("CFG")) == ""


def test_edits_are_tried_in_edits():
    assert outcome(on_network("unet"), resolve("PromptToPrompt"), resolve("DirectInversion")) == ""
    assert outcome(on_network("unet"), resolve("DirectInversion"), resolve("NullText")).startswith("an edit inverts")


def test_pages_show_what_was_found(monkeypatch, tmp_path):
    methods = [resolve(name) for name in ("DDIM", "CFG", "DeepCache")]
    monkeypatch.setattr(matrices, "plugins", lambda: methods)
    monkeypatch.setattr(fixtures, "NAMES", ("unet", "dit"))
    assert matrices.untried(tmp_path) == ["CFG", "DDIM", "DeepCache"]
    matrices.measure(tmp_path)
    assert matrices.untried(tmp_path) == []
    lines = matrices.architectures_page(tmp_path).splitlines()
    assert "| DDIM | yes | yes |" in lines
    assert "| DeepCache | yes | no [1] |" in lines
    page = matrices.methods_page(tmp_path)
    assert "| DDIM | yes | yes | yes | yes | yes | no [1] |" in page
    assert "### Patch with Guidance\n\n| | CFG |\n|---|---|\n| DeepCache | yes |" in page
    guided = matrices.guidance_page(tmp_path)
    assert "## eps\n\n| | DDIM |\n|---|---|\n| CFG | yes |\n" in guided
    assert "## logits\n\n| | DDIM |\n|---|---|\n| CFG | no [1] |\n\n1. needs a Gaussian process" in guided
    monkeypatch.setattr(matrices, "plugins", lambda: methods[:2])
    assert matrices.untried(tmp_path) == ["DeepCache"]


@pytest.mark.parametrize(("name", "sampler", "reason"), [
    ("PAG", "DDIM", ""),
    ("CFGPlusPlus", "Heun", "needs one evaluation a step"),
    ("SuperDiffOR", "DDPM", ""),
    ("SuperDiffOR", "DDIM", "needs all the noise of the SDE"),
])  # fmt: skip
def test_guidances_meet_samplers(name, sampler, reason):
    for kind in ("x0", "flow"):
        found = outcome(stage(kind, name == "PAG"), resolve(name), resolve(sampler))
        assert found.startswith(reason) and bool(found) == bool(reason)


def test_a_method_that_needs_a_sampler_is_tried_with_one():
    assert outcome(on_network("sd3"), resolve("SuperDiffAND")) == ""


def test_every_need_has_words():
    assert {n.name for n in Needs} <= set(matrices.NEEDS)
