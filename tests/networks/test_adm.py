"""ADM's networks: sites for patches and adapters, files, fitted guidance."""

from __future__ import annotations

import pytest
import torch

from suffuse.adapters import LoRA
from suffuse.backbones import family_of
from suffuse.caching import DeepCache
from suffuse.core.cond import Cond
from suffuse.core.denoiser import Network
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput
from suffuse.core.fitted import load_method, save_method
from suffuse.core.patch import Patch
from suffuse.core.prediction import EPS
from suffuse.guidance import ClassifierGuidance
from suffuse.networks import ADMClassifier, ADMUNet, ConditionedMLP, ConditionedMLPFamily
from suffuse.processes import VP, LearnedVariance
from suffuse.samplers import DDPM

X = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = Cond({"label": torch.tensor([0, 2, 1])})


def unet(**changes):
    torch.manual_seed(0)
    settings = {"image_size": 8, "channels": 2, "width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,),
                "head_width": 8, "classes": 3, "groups": 4}  # fmt: skip
    net = ADMUNet(**{**settings, **changes}).eval()
    return Network(net, family_of(net), LearnedVariance("linear", 1e-4, 0.02), EPS)


@pytest.mark.parametrize("resample", [True, False])
def test_every_site_is_called_with_its_streams(resample):
    class Seen(Patch):
        names: list[str] = []

        def sites(self, net):
            return [s for s in net if s.kind in ("block", "unit", "attention")]

        def around(self, call):
            assert call["image"].shape[0] == 3, call.site.name
            self.names.append(call.site.name)
            return call()

    model, seen = unet(resample=resample), Seen()
    seen.names.clear()
    plain = model(X, 0.5, LABELS).value
    assert torch.equal(model.with_(seen)(X, 0.5, LABELS).value, plain)
    assert set(seen.names) == {s.name for s in seen.sites(model.sites)}
    assert plain.shape == (3, 2, 8, 8)


def test_caches_adapters_and_learned_variances_go_together():
    model = unet()
    lora = LoRA(2, where="full").on(model)
    how = {"sampler": DDPM(), "steps": 4, "cond": LABELS}
    plain = sample(model, X, **how).x
    assert torch.equal(sample(model, X, patches=[lora], **how).x, plain)
    cached = sample(model, X, patches=[DeepCache(2)], **how).x
    assert torch.isfinite(cached).all() and not torch.equal(cached, plain)


@pytest.mark.parametrize("heads", [None, 4])
def test_files_keep_the_heads(tmp_path, heads):
    net = unet(heads=heads).net
    net.save_pretrained(tmp_path)
    again = ADMUNet.from_pretrained(tmp_path)
    t, y = torch.tensor([3, 500, 9]), LABELS["label"]
    torch.testing.assert_close(again(X, t, y).sample, net(X, t, y).sample)


def test_classifier_guidance_is_kept_in_a_file(tmp_path):
    torch.manual_seed(0)
    classifier = ADMClassifier(8, 3, 2, 8, (1, 2), 1, (4,), 8, groups=4).eval()
    guidance = ClassifierGuidance(classifier, 2.5, target=1)
    again = load_method(save_method(guidance, tmp_path / "guidance.safetensors"))
    assert (again.s, again.target, again.mean) == (2.5, 1, False)
    t = torch.tensor([0.1, 0.5, 1.0])
    torch.testing.assert_close(again.classifier(X, t), classifier(X, t))


def test_a_perceptron_is_told_numbers():
    net = Network(ConditionedMLP((4,), 16, 1, numbers=2), ConditionedMLPFamily(), VP(), EPS)
    torch.nn.init.normal_(net.net.body.blocks[0].outer.weight)  # 0 at first, when nothing told matters
    x, value = torch.randn(3, 4), torch.randn(3, 2)
    p = net(x, 0.5, Cond({"value": value}))
    torch.testing.assert_close(net(x[[1]], 0.5, Cond({"value": value[[1]]})).value, p.value[[1]])
    assert not torch.allclose(net(x, 0.5, Cond({"value": value + 1})).value, p.value)
    assert [s.name for s in net.sites.blocks] == ["body.blocks.0"] and net.family.shape(net.net) == (4,)
    with pytest.raises(BadInput, match=r"\(B, 2\) numbers"):
        net(x, 0.5, Cond({"value": value[:, :1]}))
