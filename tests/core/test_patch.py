"""Patches on every architecture: what they see, that they leave no trace, and that rows stay apart."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from suffuse.core.call import Call, stack
from suffuse.core.cond import Cond
from suffuse.core.denoiser import Network
from suffuse.core.engine import sample
from suffuse.core.errors import Refused
from suffuse.core.guidance import Guidance
from suffuse.core.memory import join
from suffuse.core.patch import Patch
from suffuse.core.site import Site, Sites
from suffuse.core.tap import checkpoint
from suffuse.guidance.cfg import CFG
from suffuse.samplers.ancestral import DDIM
from suffuse.testing.fixtures import NAMES, conditions, fixture, states

net = cache(fixture)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    """Equal to a share of the largest entry: random networks send some runs far out."""
    return bool((a - b).abs().max() <= tolerance * b.abs().max())


def value(denoiser: nn.Module, name: str, n: int = 3, size: int = 8) -> Tensor:
    return denoiser(states(name, n, size), 0.5, conditions(name, n)).value


def run(
    name: str, *patches: Patch, n: int = 3, size: int = 8, guidance: Guidance | None = None, steps: int = 3
) -> Tensor:
    return sample(
        net(name), states(name, n, size), sampler=DDIM(), steps=steps, cond=conditions(name, n), patches=patches,
        guidance=guidance or CFG(3.0),
    ).x  # fmt: skip


@dataclass(frozen=True)
class Everywhere(Patch):
    """Calls every site as it is, and counts."""

    def sites(self, net: Sites) -> Sequence[Site]:
        return list(net)

    def around(self, call: Call):
        call.scratch.setdefault("seen", set()).add(call.site.name)
        if not call.site.name:
            out = call()
            assert len(call.scratch["seen"]) > 20
            return out
        return call()


@dataclass(frozen=True)
class Scaled(Patch):
    """Outputs of units times a factor."""

    factor: float
    role: str

    def sites(self, net: Sites) -> Sequence[Site]:
        return net.of("unit", role=self.role) or net.blocks[:1]

    def around(self, call: Call):
        out = call()
        return tuple(self.factor * v for v in out) if isinstance(out, tuple) else self.factor * out


@dataclass(frozen=True)
class Keys(Patch):
    """Intercepts attention: queries, keys and values as they are, or keys scaled."""

    factor: float = 1.0

    def sites(self, net: Sites) -> Sequence[Site]:
        return net.attention()

    def qkv(self, call: Call, q: Tensor, k: Tensor, v: Tensor):
        assert q.ndim == 4 and k.shape == v.shape
        call.scratch[call.site.name] = True
        return (q, k, v) if self.factor == 1.0 else (q, self.factor * k, v)


@dataclass(frozen=True)
class Maps(Patch):
    """Intercepts probabilities: unchanged, or without their text part."""

    drop_text: bool = False

    def sites(self, net: Sites) -> Sequence[Site]:
        return net.attention()

    def probs(self, call: Call, p: Tensor) -> Tensor:
        assert torch.allclose(p.sum(-1), torch.ones(()), atol=1e-5)
        if not self.drop_text:
            return p
        p = p.clone()
        p[..., call.span("text")] = 0
        return p / p.sum(-1, keepdim=True).clamp(min=1e-9)


@dataclass(frozen=True)
class Reused(Patch):
    """Outputs of the second half of blocks, computed at even steps and remembered at odd ones."""

    def sites(self, net: Sites) -> Sequence[Site]:
        return [b for b in net.blocks if b.stage in ("mid", "body")]

    def around(self, call: Call):
        return call.remember() if call.at.i % 2 == 0 else call.last()


@dataclass(frozen=True)
class Apart(Guidance):
    """CFG in two network calls."""

    w: float

    def __call__(self, predict, x, t, cond, at):
        pu = predict(x, t, cond.branch("null"), "null")
        pc = predict(x, t, cond, "cond")
        return pc.mix([self.w, 1 - self.w], [pc, pu])


# transparency ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_identity_patches_change_nothing(name: str) -> None:
    plain = value(net(name), name)
    assert torch.equal(value(net(name).with_(Everywhere()), name), plain)
    assert close(value(net(name).with_(Keys()), name), plain)
    assert close(value(net(name).with_(Maps()), name), plain)


@pytest.mark.parametrize("name", NAMES)
def test_interception_reaches_every_attention_site(name: str) -> None:
    @dataclass(frozen=True)
    class Count(Patch):
        def sites(self, net: Sites) -> Sequence[Site]:
            return [net.root]

        def around(self, call: Call):
            out = call()
            seen.append(set(call.scratch))
            return out

    seen: list[set[str]] = []
    value(net(name).with_(Count(), Keys()), name)
    assert seen == [{s.name for s in net(name).sites.attention()}] and seen[0]
    assert not close(value(net(name).with_(Keys(2.0)), name), value(net(name), name))


@pytest.mark.parametrize("name", NAMES)
def test_removal_is_exact_in_any_order(name: str) -> None:
    plain = value(net(name), name)
    a, b = Scaled(0.5, "resnet"), Scaled(0.7, "in")
    both, other = net(name).with_(a).with_(b), net(name).with_(b).with_(a)
    first = value(both, name)
    assert not close(first, plain) and close(value(other, name), first)
    assert torch.equal(value(net(name).with_(a), name), value(both.base.base.with_(a), name))
    assert torch.equal(value(both, name), first) and torch.equal(value(net(name), name), plain)


@pytest.mark.parametrize("name", NAMES)
def test_copies_of_tapped_networks_run_plain_and_stand_alone(name: str) -> None:
    fresh, used = fixture(name), fixture(name)
    plain, patched = value(used, name), value(used.with_(Scaled(0.5, "in")), name)
    twin, view = copy.deepcopy(used), copy.deepcopy(used.with_(Scaled(0.5, "in")))
    assert list(twin.state_dict()) == list(used.state_dict()) == list(fresh.state_dict())
    with torch.no_grad():
        for p in used.parameters():
            p.mul_(1.1)
    assert torch.equal(value(twin, name), plain) and torch.equal(value(view, name), patched)
    assert torch.equal(value(twin.with_(Scaled(0.5, "in")), name), patched)
    assert json.loads(used.net.to_json_string())["_class_name"] == type(fresh.net).__name__


def test_a_tapped_network_saves_and_loads_as_what_it_is(tmp_path) -> None:
    used = fixture("unet")
    plain = value(used, "unet")
    value(used.with_(Everywhere()), "unet")
    used.net.save_pretrained(tmp_path)
    again = UNet2DConditionModel.from_pretrained(tmp_path)
    assert torch.equal(value(Network(again, used.family, used.process, used.kind), "unet"), plain)


@pytest.mark.parametrize("name", NAMES)
def test_networks_come_back_from_pickle(name: str) -> None:
    used = fixture(name)
    plain = value(used, name)
    assert torch.equal(value(pickle.loads(pickle.dumps(used)), name), plain)
    view = used.with_(Scaled(0.5, "in"))  # its network is tapped now
    patched = value(view, name)
    again, twin = (pickle.loads(pickle.dumps(d)) for d in (view, used))
    assert torch.equal(value(again, name), patched) and torch.equal(value(twin, name), plain)
    assert torch.equal(value(twin.with_(Scaled(0.5, "in")), name), patched)


def test_nothing_is_kept_after_a_run_or_an_error() -> None:
    kept: list[weakref.ref[Tensor]] = []

    @dataclass(frozen=True)
    class Keep(Patch):
        fail: bool = False

        def sites(self, net: Sites) -> Sequence[Site]:
            return net.blocks[:1]

        def around(self, call: Call):
            note = torch.ones(len(call.rows), 2)
            call.memory["note"] = note
            kept.append(weakref.ref(call.memory["note"]))
            if self.fail:
                raise RuntimeError("on purpose")
            return call()

    run("unet", Keep())
    with pytest.raises(RuntimeError, match="on purpose"):
        run("unet", Keep(fail=True))
    gc.collect()
    assert kept and all(ref() is None for ref in kept)
    assert (stack.bindings, stack.context, stack.frame) == ((), None, None)


# rows -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_branches_do_not_mix(name: str) -> None:
    assert close(run(name, Reused(), guidance=CFG(3.0)), run(name, Reused(), guidance=Apart(3.0)), 1e-4)
    assert not close(run(name, Reused()), run(name), 1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_batch_equals_singles_and_sizes_may_change_between_runs(name: str) -> None:
    whole, x, cond = run(name, Reused()), states(name, 3), conditions(name, 3)
    for k in range(3):
        one = sample(net(name), x[k : k + 1], sampler=DDIM(), steps=3, cond=cond[k : k + 1], guidance=CFG(3.0),
                     patches=[Reused()], samples=[k])  # fmt: skip
        assert close(one.x, whole[k : k + 1])
    assert run(name, Reused(), n=2, size=12).shape[2:] == (12, 12)
    assert torch.equal(run(name, Reused()), whole)


@pytest.mark.parametrize("kind", ["root", "block", "attention", "unit", "linear"])
@pytest.mark.parametrize("name", NAMES)
def test_rows_taken_apart_equal_the_whole(name: str, kind: str) -> None:
    @dataclass(frozen=True)
    class Apart(Patch):
        """Runs a site on rows 2, 0 and then 1, and puts them in order."""

        def sites(self, net: Sites) -> Sequence[Site]:
            return net.of(kind)

        def around(self, call: Call):
            if len(call.rows) != 3 or call.rows[0][1] not in (0, 1, 2):
                return call()
            parts = [call.take([2, 0]), call.take([1])]
            if not call.site.name:
                first, second = (part() for part in parts)
                return call().put([2, 0], first).put([1], second)
            both = join([part() for part in parts])
            order = torch.tensor([1, 2, 0])
            return tuple(v[order] if isinstance(v, Tensor) else tuple(w[order] for w in v) if v is not None else None
                         for v in both) if isinstance(both, tuple) else both[order]  # fmt: skip

    assert close(value(net(name).with_(Apart()), name), value(net(name), name))


def test_sites_see_the_condition_and_memory_of_the_rows_that_were_taken() -> None:
    seen: list[tuple[int, int, int]] = []

    @dataclass(frozen=True)
    class Half(Patch):
        def sites(self, net: Sites) -> Sequence[Site]:
            return [net.root]

        def around(self, call: Call):
            p = call()
            return p.put([0, 2], call.take([0, 2])())

    @dataclass(frozen=True)
    class Look(Patch):
        def sites(self, net: Sites) -> Sequence[Site]:
            return net.attention("cross")[:1]

        def qkv(self, call: Call, q: Tensor, k: Tensor, v: Tensor):
            seen.append((len(q), len(call.cond["text"]), len(call.rows)))
            assert torch.equal(call.cond["text"], conditions("unet", 3)["text"][[s for _, s in call.rows]])
            assert call.t.tensor(len(q)).tolist() == [0.5 if len(q) == 3 else 0.5] * len(q)
            return q, k, v

    value(net("unet").with_(Half(), Look()), "unet")
    assert seen == [(3, 3, 3), (2, 2, 2)]


def test_a_view_wrapped_for_one_call_keeps_its_memory() -> None:
    class Wrapping(Guidance):
        def __call__(self, predict, x, t, cond, at):
            return (predict.with_(Keys()) if at.i % 2 else predict)(x, t, cond, "cond")

    assert close(run("unet", Reused(), guidance=Wrapping()), run("unet", Reused(), guidance=CFG(1.0)))


# where and when -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_only_some_branches(name: str) -> None:
    class Separate(Guidance):
        def __call__(self, predict, x, t, cond, at):
            pc = predict.with_(Scaled(0.5, "resnet"), Keys(2.0))(x, t, cond, "cond")
            pu = predict(x, t, cond.branch("null"), "null")
            return pc.mix([3.0, -2.0], [pc, pu])

    one = run(name, Scaled(0.5, "resnet").only("cond"), Keys(2.0).only("cond"))
    assert close(one, run(name, guidance=Separate()), 1e-4)
    assert not close(one, run(name), 1e-4)
    assert torch.equal(run(name, Keys(2.0).only("another"), Maps().only("another").during(0, 1)), run(name))


def test_only_a_part_of_the_run() -> None:
    late = Scaled(0.5, "resnet").during(0.5, 1.0)
    assert torch.equal(run("unet", late, steps=1), run("unet", steps=1))
    assert torch.equal(run("unet", Scaled(0.5, "resnet").during(0.0, 1.0)), run("unet", Scaled(0.5, "resnet")))
    assert not close(run("unet", late), run("unet", Scaled(0.5, "resnet")))


def test_windows_of_patches_with_parameters_have_them() -> None:
    @dataclass(frozen=True)
    class Bias(Patch):
        def sites(self, net: Sites) -> Sequence[Site]:
            return net.of("conv")[:1]

        def make(self, site: Site) -> nn.Module:
            return nn.ParameterList([torch.ones(1)])

        def around(self, call: Call):
            return call() + call.part[0]

    adapter = Bias().during(0.5, 1.0).on(net("unet"))
    assert len(list(adapter.parameters())) == 1 and len(list(Bias().only("cond").on(net("unet")).parameters())) == 1
    assert torch.equal(run("unet", Bias().during(0.5, 1.0).on(net("unet")), steps=1), run("unet", steps=1))
    assert not torch.equal(run("unet", adapter), run("unet"))
    for wrapped in (Bias().during(0.0, 0.5), Bias().only("cond").during(0.0, 0.5)):
        with pytest.raises(Refused, match=r"has parameters.*\.on\(denoiser\)"):
            net("unet").with_(wrapped)


def test_what_is_in_windows_and_adapters_is_found() -> None:
    @dataclass(frozen=True)
    class Prompted(Scaled):
        def prompts(self):
            return {"away": "a text"}

    patch = Prompted(0.5, "resnet")
    assert patch.during(0.0, 0.5).only("cond").bare == patch.on(net("unet")).bare == (patch,)
    assert patch.during(0.0, 0.5).prompts() == {"away": "a text"}
    assert (CFG(3.0).during(0.0, 0.5) | CFG(2.0)).bare == (CFG(3.0), CFG(2.0))


# text and image tokens ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("unet-class", "dit")])
def test_text_lies_where_the_site_says(name: str) -> None:
    """With the text part of every map dropped, text reaches the picture no more: tokens cannot matter."""
    view, x, cond = net(name).with_(Maps(drop_text=True)), states(name, 3), conditions(name, 3)
    other = cond | Cond({"text": cond["text"].flip(0)})
    assert not close(net(name)(x, 0.5, other).value, net(name)(x, 0.5, cond).value)
    image = view(x, 0.5, cond).value
    assert close(view(x, 0.5, other).value, image)


def test_text_spans_of_joint_attention() -> None:
    spans: dict[str, tuple[slice, slice]] = {}

    @dataclass(frozen=True)
    class Look(Patch):
        def sites(self, net: Sites) -> Sequence[Site]:
            return net.attention()

        def probs(self, call: Call, p: Tensor) -> Tensor:
            text, image = (p[..., call.span(stream)].shape[-1] for stream in ("text", "image"))
            assert text + image == p.shape[-1]
            spans[call.site.name] = (text, image)
            return p

    for name in ("sd3", "flux", "unet"):
        value(net(name).with_(Look()), name)
    assert spans["transformer_blocks.0.attn"] == (5, 16) and spans["single_transformer_blocks.1.attn"] == (5, 16)
    assert spans["transformer_blocks.0.attn2"] == (0, 16)  # the image-only attention of SD 3.5
    cond = conditions("sd3", 3)
    net("sd3").with_(Look())(states("sd3", 3), 0.5, cond | {"text": cond["text"][:, :0]})
    assert spans["transformer_blocks.0.attn"] == (0, 16)


# training and threads -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_checkpointing_carries_patches_into_the_recomputation(name: str) -> None:
    def gradients(checkpointed: bool) -> list[Tensor | None]:
        denoiser = fixture(name)
        if checkpointed:
            denoiser.net.enable_gradient_checkpointing(checkpoint)
        value(denoiser.with_(Scaled(0.5, "resnet"), Keys(2.0)), name, n=2).square().mean().backward()
        return [p.grad for p in denoiser.parameters()]

    plain, recomputed = gradients(False), gradients(True)
    assert any(g is not None and bool(g.abs().max() > 0) for g in plain)
    for a, b in zip(plain, recomputed, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def test_threads_do_not_see_each_other() -> None:
    views = [net("unet"), net("unet").with_(Scaled(0.5, "resnet")), net("unet").with_(Keys(2.0))]
    alone, results = [value(view, "unet") for view in views], [[] for _ in views]
    start = threading.Barrier(len(views))

    def work(k: int) -> None:
        start.wait()
        results[k] += [value(views[k], "unet") for _ in range(4)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(views))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(r) == 4 and all(torch.equal(v, alone[k]) for v in r) for k, r in enumerate(results))


def test_attention_out_of_reach_is_refused() -> None:
    from diffusers.models.attention_processor import AttnProcessor

    denoiser = fixture("unet")
    denoiser.net.set_attn_processor(AttnProcessor())
    with pytest.raises(Refused, match="default attention processor"):
        value(denoiser.with_(Keys()), "unet")
