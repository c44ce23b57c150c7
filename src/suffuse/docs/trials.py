"""Short runs on tiny denoisers that tell whether methods go together."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, reduce
from typing import Any

import torch
from torch import Tensor

from suffuse.core.cond import Cond
from suffuse.core.denoiser import EMPTY, Denoiser, Network, count_evaluation
from suffuse.core.engine import grid_of, sample
from suffuse.core.errors import Refused, SuffuseError
from suffuse.core.guidance import Guidance
from suffuse.core.hook import Hook
from suffuse.core.patch import Adapter, Patch
from suffuse.core.plugin import Needs
from suffuse.core.prediction import EPS, FLOW, SCORE, X0, Kind, Prediction, V
from suffuse.core.process import Gaussian as GaussianProcess
from suffuse.core.reflection import Branch
from suffuse.core.registry import REQUIRED, Method
from suffuse.core.sampler import Sampler
from suffuse.core.value import Coef
from suffuse.editing.ddim_inversion import DDIMInversion
from suffuse.editing.inverter import Inverter, Plan
from suffuse.editing.lockstep import decode
from suffuse.guidance import CFG, ClassScore
from suffuse.processes import VP, Absorbing, Flow
from suffuse.samplers import DDIM, DDPM, Ancestral
from suffuse.testing.analytic import GaussianMixture, KnownLaw
from suffuse.testing.fixtures import conditions, fixture, states

STEPS, ROWS = 3, 2
TOLERANCE = 1e-3
"""Relative to the largest entry: random networks carry float rounding far."""

PROCESSES: Mapping[str, tuple[Kind, GaussianProcess]] = {
    "eps": (EPS, VP()),
    "x0": (X0, VP()),
    "v": (V, VP()),
    "score": (SCORE, VP()),
    "flow": (FLOW, Flow()),
}
KINDS = (*PROCESSES, "logits")
"""Kinds of prediction that methods are tried on; the last one is that of discrete data."""


@dataclass(frozen=True, eq=False)
class Bench:
    """A denoiser with two rows of start states and conditions, and the sampler for methods that are none.

    Args:
        other: further conditions, what edits lead to.
    """

    denoiser: Denoiser
    x: Tensor
    cond: Cond
    other: Cond
    sampler: Sampler

    def run(self, *plugins: Any, rows: tuple[int, ...] = (0, 1), edit: bool = False) -> Any:
        """Final states of some rows with these plug-ins, in a plain run or as an edit of these states."""

        def of(*kinds: type) -> list[Any]:
            return [p for p in plugins if isinstance(p, kinds)]

        sampler, index = (of(Sampler) or [self.sampler])[0], torch.tensor(rows)
        guidance = reduce(operator.or_, of(Guidance)) if of(Guidance) else None
        hooks, patches = of(Hook), of(Patch, Adapter)
        reading = {p: [k for part in p.bare for k in getattr(part, "reads", ()) if k in SEEN] for p in patches}
        seen = {name: SEEN[name](self)[index] for names in reading.values() for name in names}
        cond, other = self.cond[index] | seen, self.other[index] | seen
        if not edit:
            return sample(self.denoiser, self.x[index], sampler=sampler, steps=STEPS, cond=cond, guidance=guidance,
                          hooks=hooks, patches=patches, samples=rows).x  # fmt: skip
        inverter, *more = of(Inverter) or [DDIMInversion()]
        if more:
            raise Refused("an edit inverts in one way; give one inverter")
        net = self.denoiser.with_(*(p for p, names in reading.items() if names))
        plan = Plan(net, grid_of(net.process, sampler, None, STEPS), sampler, guidance or CFG(3.0))
        editors = [p for p in (*patches, *hooks) if p is not inverter and not reading.get(p)]
        found = decode(plan, inverter.encode(plan, self.x[index], cond), cond, other, editors)
        return torch.cat([found.source, found.target])


def _tokens(bench: Bench) -> Tensor:
    """As wide as what cross-attention sees."""
    net: Any = bench.denoiser
    width = net.sites.attention("cross")[0].module.to_k.in_features
    return bench.x.flatten(1)[:, : 2 * width].unflatten(1, (2, width))


SEEN: Mapping[str, Callable[[Bench], Tensor]] = {
    "control": lambda bench: bench.x[:, :3].sigmoid(),
    "encoded": lambda bench: bench.x.flip(0),
    "image_prompt": _tokens,
}
"""What patches read beside the prompt, by its name in the condition."""


@cache
def on_network(name: str) -> Bench:
    """One of the fixture networks, whose conditions say which words their tokens are."""
    x, whole = states(name, ROWS), conditions(name, 2 * ROWS)
    words = [{"a": (1, 2), colour: (2, 3), "circle": (3, 4)} for colour in ("red", "blue") for _ in range(ROWS)]
    null = replace(whole.alt["null"], spans=[{"": (0, 1)}] * len(words))
    whole = replace(whole, alt={"null": null}, spans=words)
    return Bench(fixture(name), x, _with_known(whole[:ROWS], x), _with_known(whole[ROWS:], x), DDIM())


@cache
def on_kind(name: str) -> Bench:
    """Known laws of data behind one kind of prediction, one with the condition and one without."""
    null = Cond({"label": torch.zeros(ROWS)})
    cond, other = Cond({"label": torch.ones(ROWS)}, {"null": null}), null.with_alt(null=null)
    if name == "logits":
        rows, x = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]]), torch.full((ROWS, 4), 3)
        laws = [KnownLaw(rows, Absorbing(K=4), probs=torch.tensor(p)) for p in ([0.5, 0.5], [0.1, 0.9])]
        return Bench(Labelled(*laws), x, _with_known(cond, x), _with_known(other, x), Ancestral())
    kind, process = PROCESSES[name]
    x = states("unet", ROWS)
    mixtures = [GaussianMixture(means, process, std=0.5, kind=kind) for means in (x, x.flip(1))]
    return Bench(Labelled(*mixtures), x, _with_known(cond, x), _with_known(other, x), DDIM())


class Labelled(Denoiser):
    """One denoiser for rows of label 0, another for those of label 1."""

    def __init__(self, without: Denoiser, given: Denoiser):
        super().__init__()
        self.without, self.given, self.process = without, given, without.process

    def forward(self, x: Any, t: Coef | float | Tensor, cond: Cond = EMPTY) -> Prediction:
        count_evaluation()
        rows = cond["label"].nonzero()[:, 0]
        return self.without(x, t).put(rows, self.given(x, t)[rows])


def _with_known(cond: Cond, x: Tensor) -> Cond:
    """What a hook that keeps a part of the picture reads."""
    mask = torch.zeros(len(x), 1, *x.shape[2:])
    mask[..., ::2] = 1.0
    known = Cond({"x0": x.flip(-1), "noise": x.flip(1), "mask": mask})
    shown = Cond({"mask": mask, "points": torch.tensor([[1.0, 1.0, 3.0, 3.0]]).expand(len(x), 1, 4)})
    return cond.with_alt(known=known, place=shown)


def outcome(bench: Bench, *methods: Method) -> str:
    """ "" where the methods run together and a picture is in a batch what it is alone, else what is in the way.

    A single method that is no sampler must also change the picture.
    """
    edit = any(_edits(m) for m in methods)
    plugins: list[Any] = []
    try:
        plugins += _made(bench, methods)
        both = bench.run(*plugins, edit=edit)
        needed = [p for p in plugins if isinstance(p, Sampler) and methods[0].kind != "Sampler"]
        plain = bench.run(*needed, edit=edit) if len(methods) == 1 and methods[0].kind != "Sampler" else None
        alone = both[1:] if edit else bench.run(*plugins, rows=(1,))
    except SuffuseError as reason:
        return _short(str(reason), plugins)
    except Exception as fault:  # a fault of ours: shown in the page rather than hidden
        return f"fault: {type(fault).__name__}: {fault}"
    if plain is not None and torch.equal(plain, both):
        return "changes nothing here"
    if not _close(both[1:], alone):
        return "fault: a picture in a batch differs from the same picture alone"
    return ""


def _short(reason: str, plugins: Sequence[Any]) -> str:
    """A message without the settings of the plug-ins in it, nor the name of the one that it is about."""
    for p in plugins:
        reason = reason.replace(str(p), type(p).__name__)
    return re.sub(r"^[A-Z]\w+(\(.*?\))?: ", "", reason)


def _edits(method: Method) -> bool:
    """True where it acts between the source and the target of an edit."""
    return method.topic == "editing" and (issubclass(method.target, Inverter) or Needs.COUPLES in method.target.needs)


def _close(a: Tensor, b: Tensor) -> bool:
    a, b = a.double(), b.double()
    return bool((a - b).abs().max() <= TOLERANCE * b.abs().max())


def _made(bench: Bench, methods: tuple[Method, ...]) -> list[Any]:
    sampler = next((_plugin(m, bench, bench.sampler) for m in methods if m.kind == "Sampler"), bench.sampler)
    plugins = [_plugin(m, bench, sampler) for m in methods]
    bare = [part for p in plugins for part in p.bare]
    if any(Needs.SDE in part.needs for part in bare) and not any(isinstance(part, Sampler) for part in bare):
        plugins.append(DDPM())
    return plugins


def _plugin(method: Method, bench: Bench, sampler: Sampler) -> Any:
    """A plug-in of the method at its defaults; an adapter gets parameters that differ from where they start."""
    lacking = [a.name for a in method.arguments if a.default is REQUIRED]
    if lacking and method.name not in SETTINGS:
        raise Refused(f"not tried: {method.name} needs {lacking[0]}, and suffuse.docs.trials knows no value for it")
    plugin = SETTINGS[method.name](method.target, bench, sampler) if method.name in SETTINGS else method.target()
    if not isinstance(plugin, Patch) or type(plugin).make is Patch.make:
        return plugin
    adapter = plugin.on(bench.denoiser).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in adapter.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return adapter


@cache
def stage(kind: str, on_net: bool) -> Bench:
    """Where guidances meet samplers on one kind of prediction: a known law, or a network that is read in this kind."""
    if not on_net or kind == "logits":
        return on_kind(kind)
    own = on_network("sd3" if kind == "flow" else "unet")
    assert isinstance(own.denoiser, Network)
    net = own.denoiser
    return replace(own, denoiser=Network(net.net, net.family, net.process, PROCESSES[kind][0]))


def _brightness(x: Tensor, t: Coef, cond: Cond) -> Tensor:
    """A scorer: the brighter a picture, the likelier."""
    return x.flatten(1).mean(1)


def _pictures_apart(x: Tensor, t: Coef) -> Tensor:
    """Logits of two classes, pictures that are brighter on the left and those that are brighter on the right."""
    left = x.flatten(1) @ torch.linspace(0.1, -0.1, x[0].numel(), dtype=x.dtype)
    return torch.stack([left, -left], 1)


SETTINGS: Mapping[str, Callable[[Any, Bench, Sampler], Any]] = {
    "Autoguidance": lambda cls, b, sampler: cls(Branch(path="null")),
    "ClassifierGuidance": lambda cls, b, sampler: cls(_pictures_apart, target=1),
    "DynamicThresholding": lambda cls, b, sampler: cls() | CFG(3.0),
    "Embedded": lambda cls, b, sampler: cls(7.0),
    "GradientGuidance": lambda cls, b, sampler: cls(_brightness, look_ahead=True),
    "GuidanceInterval": lambda cls, b, sampler: cls() | CFG(3.0),
    "GuidanceRescale": lambda cls, b, sampler: cls() | CFG(3.0),
    "LinearAG": lambda cls, b, sampler: cls.fit(
        b.denoiser, b.x, w=3.0, sampler=sampler, steps=STEPS, cond=b.cond, replaced=[2]
    ),
    "PPAP": lambda cls, b, sampler: cls(_pictures_apart, score=lambda reader: ClassScore(reader, 1)),
    "Reweight": lambda cls, b, sampler: cls("blue"),
    "ScheduledCFG": lambda cls, b, sampler: cls((3.0, 2.0, 0.5)),
    "SuperDiffAND": lambda cls, b, sampler: cls((Branch(path="null"),), w=2.0),
    "SuperDiffOR": lambda cls, b, sampler: cls((Branch(path="null"),), w=2.0),
}
"""How to make methods that have no default setting, or one that the conditions of the fixtures hold already."""
