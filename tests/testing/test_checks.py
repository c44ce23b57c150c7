"""The generated checks on every registered method."""

from __future__ import annotations

import pytest
import torch

import suffuse
from suffuse import conditioning, editing, noise
from suffuse.adapters import EncodedInput
from suffuse.caching import (
    BAC,
    RAS,
    AutoDiffusion,
    DeeDiff,
    FasterDiffusion,
    FastKernels,
    FirstBlockCache,
    MultiUNetSwitching,
    Winograd,
)
from suffuse.caching.skipping import skippable
from suffuse.core.cond import Cond
from suffuse.core.engine import grid_of, place_of
from suffuse.core.grid import Grid
from suffuse.core.plugin import Setting
from suffuse.core.value import Coef
from suffuse.editing import MaskedBlend
from suffuse.evaluation import LPIPS, CLIPScore, DirectionalCLIP, ReaderFeatures, Reference, VendiScore
from suffuse.evaluation.frechet import FrechetDistance, KernelDistance
from suffuse.evaluation.precision_recall import DensityCoverage, PrecisionRecall
from suffuse.guidance import (
    PPAP,
    SEGA,
    Autoguidance,
    ClassifierGuidance,
    ClassScore,
    Concept,
    EditHistory,
    GradientGuidance,
    IdentityAttention,
    LinearAG,
    ScheduledCFG,
    SemanticGuidanceTuning,
    StableArtist,
    SuperDiffAND,
    SuperDiffOR,
)
from suffuse.guidance.questions import Combined, RewardSelect, TIFASelect
from suffuse.guidance.structured import StructuredDiffusion
from suffuse.layout import ControlNet
from suffuse.networks import ADMClassifier, Experts
from suffuse.noise import GoldenNoise, NPNet
from suffuse.personalization import ImagePrompt
from suffuse.probing import SeedStudy
from suffuse.resolution import (
    FSTD,
    MSWMSA,
    DegradationAwareTagger,
    DilatedSampling,
    KeepStatistics,
    LocalPrompts,
    LowBand,
    MultiDiffusion,
    RAUNet,
    RepresentationGuided,
    SkipResidual,
    TagReader,
    Upsampler,
    ZoomedIn,
)
from suffuse.restoration import Restorer
from suffuse.samplers import DDIM, OLSS, Explicit, LinearSolver
from suffuse.testing import Subject, all_checks, check_method, fixtures
from suffuse.testing.checks.subject import ROWS, STEPS, denoiser, states
from suffuse.training.denoising import Denoising
from suffuse.zoo.reader import Reader

FEATURES = ReaderFeatures()
ABSENT = "absent"
CONCEPTS = (Concept("striped"), Concept("large", remove=True, start=0.5, weight=0.5))
BESIDE = "it runs beside a source picture, through suffuse.editing.edit"


def compared(metric):
    """A metric that compares with a reference set."""
    images = torch.rand(12, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return Subject(metric(FEATURES, Reference.of(FEATURES, images)))


def linear():
    """Fitted to the run that the checks make."""
    cond = Subject(None).conditions("unet", ROWS)
    how = {"w": 3.0, "sampler": DDIM(), "steps": STEPS, "replaced": [1], "cond": cond}
    return Subject(LinearAG.fit(denoiser("unet"), states("unet", ROWS), **how))


def noisy_classifier():
    """Of states like those of the fixtures."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ADMClassifier(8, 3, 4, 8, (1, 2), 1, (4,), 8, groups=4).eval()


def experts():
    """By time, of a small classifier."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Experts(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 3)), 3, 2)
        for p in made.changes.parameters():
            torch.nn.init.normal_(p, 0.0, 0.1)
        return made.eval()


def one(reader):
    """The score of class 1."""
    return ClassScore(reader, 1)


def scheduled():
    """Of the run that the checks make, on the network with the most layers."""
    place = {"denoiser": denoiser("sd3"), "x": states("sd3", ROWS), "cond": Subject(None).conditions("sd3", ROWS)}
    return Subject(BAC.fit(**place, sampler=DDIM(), steps=STEPS, updates=1))


def switching():
    """To the same network with other weights."""
    light = fixtures.fixture("unet")
    with torch.no_grad():
        light.net.conv_out.weight.mul_(1.5)
    return Subject(MultiUNetSwitching(light, every=2))


def skipping():
    """A policy for the run that the checks make, which leaves out one layer."""
    net = denoiser("unet")
    (name, *_) = skippable(net, states("unet", 1), Coef(0.5), Subject(None).conditions("unet", 1))
    place = place_of(net, grid_of(net.process, DDIM(), None, STEPS), DDIM(), None)
    return Subject(AutoDiffusion(((), (name,), ()), place))


def known(name, n):
    """What a masked blend keeps."""
    x = states(name, ROWS + 1)[1 : n + 1]
    return Cond(alt={"known": Cond({"x0": x, "noise": x.flip(-1), "mask": (x[:, :1] > 0).float()})})


def path(name, n):
    """A path of the last steps, and where a state is free of it."""
    x = states(name, ROWS + 1)[1 : n + 1]
    known = torch.stack([(1 + k) * x for k in range(STEPS + 1)], 1)
    return Cond(alt={"path": Cond({"states": known, "mask": (x[:, :1] > 0).float()})})


def drawn(name, n):
    """A picture that a control branch reads."""
    x = states(name, ROWS + 1)[1 : n + 1]
    return Cond({"control": x[:, :3].sigmoid().repeat_interleave(2, -1).repeat_interleave(2, -2)})


def seen(name, n):
    """Tokens of pictures, as wide as what cross-attention sees."""
    width = {"pixart": 24}.get(name, fixtures.WIDTH)
    return Cond({"image_prompt": states(name, ROWS + 1)[1 : n + 1].flatten(1)[:, : 2 * width].unflatten(1, (2, width))})


def guided(name, n):
    """What larger pictures follow."""
    x = states(name, ROWS + 1)[1 : n + 1]
    guide = {"x0": x, "noise": x.flip(-1), "mean": x.flatten(1).mean(1), "std": x.flatten(1).std(1)}
    return Cond(alt={"guide": Cond(guide)})


def tagger():
    """Of the bundled reader, as it is."""
    return DegradationAwareTagger(TagReader.of(Reader.load()))


def enlarger():
    """With a control branch that adds nothing yet."""
    model = suffuse.load("shapes")
    return Subject(ZoomedIn(model.with_(ControlNet(widths=(4, 8, 8)).on(model.denoiser)), tagger(), steps=1))


def encoded(name, n):
    """A picture of the state's size."""
    return Cond({"encoded": states(name, ROWS + 1)[1 : n + 1, :3]})


def told(name, n):
    """What each of four windows is told."""
    base, more = fixtures.conditions(name, n), fixtures.conditions(name, 4 * n)
    own = {k: v.unflatten(0, (n, 2, 2)) for k, v in more.items() if k in ("text", "pooled")}
    return Cond(base.entries, {**base.alt, "windows": Cond(own)})


def golden():
    """Not fitted: the checks are of where it acts, not of what it learned."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = NPNet(fixtures.shape("unet"), (fixtures.TOKENS, fixtures.WIDTH)).eval().requires_grad_(False)
    return Subject(GoldenNoise(network, Setting(process=str(denoiser("unet").process))))


def one_more_step():
    """A start network with random weights, for the table of the fixture."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = noise.StartNet(4, fixtures.WIDTH, (16, 16), 8).eval().requires_grad_(False)
    return Subject(noise.OneMoreStep(network, Setting(process=str(denoiser("unet").process))))


def phrased(name, n):
    """Rows of which every second has a phrase, encoded as other rows are."""
    base, more = (fixtures.conditions(name, k) for k in (n, n + 1))
    if "text" not in base:
        return base
    spans = [{"red": (1, 2), "circle": (2, 4)}, {"blue": (1, 2)}] * n
    alone = Cond({"text": more["text"][1:]}, spans=[{"red": (1, 2), "circle": (2, 4)}] * n)
    given = Cond({"given": torch.ones(n, 1, dtype=torch.bool)})
    return Cond(base.entries, base.alt, spans[:n]).with_alt(**{"phrase:0": alone}, phrases=given)


EXAMPLES = {
    "AutoDiffusion": skipping,
    "BAC": scheduled,
    "Autoguidance": lambda: Subject(Autoguidance(IdentityAttention())),
    "Alternate": lambda: Subject(conditioning.Alternate(("a", "b"))),
    "Blend": lambda: Subject(conditioning.Blend(("a", "b"), (0.75, 0.25))),
    "ClassifierGuidance": lambda: Subject(ClassifierGuidance(noisy_classifier(), 3.0, target=1)),
    "CLIPScore": lambda: Subject(CLIPScore(ABSENT)),
    "DirectionalCLIP": lambda: Subject(DirectionalCLIP(ABSENT)),
    "Concept": lambda: Subject(CONCEPTS[1]),
    "DeeDiff": lambda: Subject(DeeDiff(threshold=1.0)),
    "DensityCoverage": lambda: compared(DensityCoverage),
    "DiffEditor": lambda: Subject(editing.DiffEditor(editing.Move(1, 0))),
    "Displaced": lambda: Subject(editing.Displaced(editing.Move(1, 0)), apart=BESIDE),
    "ControlNet": lambda: Subject(ControlNet(widths=(4, 8)), drawn),
    "CyclicOneWay": lambda: Subject(editing.CyclicOneWay(cycles=1), path),
    "Diversify": lambda: Subject(editing.Diversify("a face"), path),
    "DragonDiffusion": lambda: Subject(editing.DragonDiffusion(editing.Move(1, 0))),
    "SPICE": lambda: Subject(editing.SPICE("a red circle")),
    "Stage": lambda: Subject(editing.Stage(denoiser("unet"))),
    "EditHistory": lambda: Subject(EditHistory("a circle").add(CONCEPTS[0]).add(CONCEPTS[1]).undo()),
    "Explicit": lambda: Subject(Explicit(times=(1.0, 0.6, 0.2))),
    "FastKernels": lambda: Subject(FastKernels((("mid_block.resnets.0.conv1", Winograd()),))),
    "FasterDiffusion": lambda: Subject(FasterDiffusion(every=2, ahead=2)),
    "FirstBlockCache": lambda: Subject(FirstBlockCache(threshold=1.0)),
    "FSTD": lambda: Subject(FSTD(4, batch=4)),
    "FrechetDistance": lambda: compared(FrechetDistance),
    "GoldenNoise": golden,
    "GradientGuidance": lambda: Subject(GradientGuidance(ClassScore(noisy_classifier(), 1), 3.0, look_ahead=True)),
    "ImagePrompt": lambda: Subject(ImagePrompt(), seen),
    "KeepPath": lambda: Subject(editing.KeepPath(), path),
    "KernelDistance": lambda: compared(KernelDistance),
    "LPIPS": lambda: Subject(LPIPS(ABSENT, ABSENT)),
    "LinearAG": linear,
    "LinearSolver": lambda: Subject(
        LinearSolver.of(DDIM(), denoiser("mixture").process, Grid(torch.linspace(1, 0, 4)))
    ),
    "DilatedSampling": lambda: Subject(DilatedSampling(4, batch=4)),
    "KeepStatistics": lambda: Subject(KeepStatistics(), guided),
    "DegradationAwareTagger": lambda: Subject(tagger()),
    "EncodedInput": lambda: Subject(EncodedInput(3), encoded),
    "LocalPrompts": lambda: Subject(LocalPrompts(4, stride=1.0, batch=4), told),
    "ZoomedIn": enlarger,
    "LowBand": lambda: Subject(LowBand(), guided),
    "SkipResidual": lambda: Subject(SkipResidual(), guided),
    "MultiDiffusion": lambda: Subject(MultiDiffusion(4, jitter=True, batch=4)),
    "RepresentationGuided": lambda: Subject(RepresentationGuided(4, 0.5, batch=4)),
    "MSWMSA": lambda: Subject(MSWMSA(above=0.5)),
    "MaskedBlend": lambda: Subject(MaskedBlend(), known),
    "MultiUNetSwitching": switching,
    "OLSS": lambda: Subject(OLSS.fit(denoiser("mixture"), states("mixture", ROWS), steps=STEPS)),
    "PPAP": lambda: Subject(PPAP(experts(), 3.0, one)),
    "PrecisionRecall": lambda: compared(PrecisionRecall),
    "RAUNet": lambda: Subject(RAUNet(strided=(0.0, 0.6), pooled=(0.0, 0.0))),
    "RegionalSDE": lambda: Subject(editing.RegionalSDE(editing.Move(1, 0)), apart=BESIDE),
    "RAS": lambda: Subject(RAS(dense=0.0, resets=())),
    "Restorer": lambda: Subject(Restorer(denoiser("unet"))),
    "RegionEnergy": lambda: Subject(editing.RegionEnergy(editing.Move(1, 0)), apart=BESIDE),
    "Reweight": lambda: Subject(editing.Reweight("circle"), apart=BESIDE),
    "SEGA": lambda: Subject(SEGA(CONCEPTS)),
    "ScheduledCFG": lambda: Subject(ScheduledCFG((1.0, 3.0, 0.0))),
    "SemanticGuidanceTuning": lambda: Subject(SemanticGuidanceTuning(threshold=0.9), phrased),
    "StableArtist": lambda: Subject(StableArtist(CONCEPTS)),
    "Switch": lambda: Subject(conditioning.Switch("a", "b", 0.25)),
    "SuperDiffAND": lambda: Subject(SuperDiffAND(("a blue square",), w=3.0)),
    "SuperDiffOR": lambda: Subject(SuperDiffOR(("a blue square", "a green star"), w=3.0)),
    "StructuredDiffusion": lambda: Subject(StructuredDiffusion(), phrased),
    "Upsampler": lambda: Subject(Upsampler(denoiser("unet"), (16, 16))),
    "Combined": lambda: Subject(Combined((TIFASelect(), RewardSelect(torch.mean)))),
    "Correlated": lambda: Subject(noise.Correlated(1.0)),
    "MeanShift": lambda: Subject(noise.MeanShift(0.5)),
    "OneMoreStep": one_more_step,
    "OtherLaw": lambda: Subject(noise.OtherLaw("laplace")),
    "RewardSelect": lambda: Subject(RewardSelect(torch.mean)),
    "ScaleShift": lambda: Subject(noise.ScaleShift(1.5)),
    "SeedBank": lambda: Subject(noise.SeedBank((3, 4))),
    "SeedStudy": lambda: Subject(SeedStudy(torch.zeros(2, 2, 3, 8, 8), {"score": torch.zeros(2, 2)})),
    "VariationSeed": lambda: Subject(noise.VariationSeed(3, 4, 0.2)),
    "VendiScore": lambda: Subject(VendiScore(FEATURES)),
    "Weighted": lambda: Subject(conditioning.Weighted("a (red:1.5) [circle]")),
    **{
        name: lambda name=name: Subject(getattr(editing, name)(), apart=BESIDE)
        for name in (
            "BDIAInversion",
            "CycleDiffusion",
            "DiffEdit",
            "DirectInversion",
            "KVBank",
            "KeepOutside",
            "LatentDrag",
            "LocalBlend",
            "MasaCtrl",
            "NullText",
            "Pix2PixZero",
            "PlugAndPlay",
            "PromptToPrompt",
            "TimeTravel",
        )
    },
}


@pytest.mark.parametrize("case", all_checks(EXAMPLES), ids=str)
def test_every_registered_method(case):
    reason = case()
    if reason:
        pytest.skip(reason)


def test_the_denoising_objective():
    assert check_method(Denoising(dropout=0.5))["the_gradient_is_finite"] is None
