"""PPAP: experts by time share one network, learn without data, and guide."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from suffuse.core.cond import Cond
from suffuse.core.engine import sample
from suffuse.core.errors import BadInput, Damaged, Refused
from suffuse.core.noise import Keyed
from suffuse.core.training import Batch, Roles
from suffuse.core.value import Coef
from suffuse.guidance import PPAP, ClassScore, MapScore, Preprocess, synthesise
from suffuse.networks import Experts
from suffuse.processes.tables import Table
from suffuse.samplers import DDIM, DDPM
from suffuse.testing.analytic import GaussianMixture
from suffuse.training import KnowledgeTransfer, Regression, SoftLabels

MEANS = torch.stack([torch.full((1, 4, 4), v) for v in (-1.0, 1.0)])


def net(norm=True):
    torch.manual_seed(0)
    layers = [
        Preprocess(8),
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 2),
    ]
    return nn.Sequential(*(layers if norm else [m for m in layers if not isinstance(m, nn.BatchNorm2d)])).eval()


def moved(experts):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in experts.changes.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return experts.eval()


def test_experts_are_the_network_at_first_and_switch_by_time():
    known, x = net(), torch.randn(5, 1, 4, 4)
    experts = Experts(known, 4, rank=2)
    t = torch.tensor([0.0, 0.2499, 0.25, 0.8, 1.0])
    torch.testing.assert_close(experts(x, t), known(x))
    moved(experts)
    whole = experts(x, t)
    for row, n in enumerate((0, 0, 1, 3, 3)):
        alone = experts(x[[row]], float(t[row]))
        torch.testing.assert_close(alone, whole[[row]])
        torch.testing.assert_close(experts._views[n](x[[row]]), alone)
    assert not torch.allclose(experts(x[[0]], 0.1), experts(x[[0]], 0.3), atol=1e-3)
    assert torch.equal(experts.clean(x), known(x))  # the teacher is as it was


def test_only_the_changes_are_trained_and_stored(tmp_path):
    known = net()
    before = {k: v.clone() for k, v in known.state_dict().items()}
    experts = moved(Experts(known, 3, rank=2))
    trained = [n for n, p in experts.named_parameters() if p.requires_grad]
    assert trained and all(n.startswith("changes.") for n in trained)
    kinds = {n.rsplit(".", 1)[1] for n in trained}
    assert kinds == {"lora_down", "lora_up", "diff_b", "w_norm", "b_norm"}
    experts.train()
    assert not known.training
    experts(torch.randn(4, 1, 4, 4), torch.rand(4)).sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in known.state_dict().items())
    x, t = torch.randn(6, 1, 4, 4), torch.rand(6)
    again = Experts.load(experts.eval().save(tmp_path / "experts.safetensors"), net())
    torch.testing.assert_close(again(x, t), experts(x, t))
    assert (tmp_path / "experts.safetensors").stat().st_size < 4 * 3 * experts.share() * 1.5 * _size(known) + 5000
    with pytest.raises(Refused, match="not of this one"):
        Experts.load(tmp_path / "experts.safetensors", net(norm=False))
    with pytest.raises(BadInput, match="no file"):
        Experts.load(tmp_path / "none.safetensors", net())
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(Damaged, match="bad.safetensors"):
        Experts.load(tmp_path / "bad.safetensors", net())
    with pytest.raises(BadInput, match="count=0"):
        Experts(net(), 0)


def _size(module):
    return sum(p.numel() for p in module.parameters())


def test_likenesses():
    student, teacher = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    expected = torch.stack([
        torch.stack([
            torch.distributions.kl_divergence(
                torch.distributions.Categorical(logits=4 * teacher[i, :, j]),
                torch.distributions.Categorical(logits=student[i, :, j]),
            )
            for j in range(4)
        ]).mean()
        for i in range(2)
    ])  # fmt: skip
    torch.testing.assert_close(SoftLabels()(student, teacher), expected)
    torch.testing.assert_close(SoftLabels(1.0)(student[..., 0], student[..., 0]), torch.zeros(2))
    torch.testing.assert_close(Regression()(student, teacher), ((student - teacher) ** 2).mean((1, 2)))


def test_the_teacher_sees_clean_pictures_and_the_expert_noisy_ones():
    seen = {}

    class Spy(Experts):
        def clean(self, x):
            seen["clean"] = x
            return super().clean(x)

        def forward(self, x, t):
            seen["noisy"], seen["t"] = x, t
            return super().forward(x, t)

    x0 = torch.randn(8, 1, 4, 4)
    roles = Roles({"experts": Spy(net(), 2, rank=2)})
    loss = KnowledgeTransfer(Table())(roles, Batch(x0, Cond(), torch.arange(8)), Keyed(0), nn.ModuleDict())
    assert torch.equal(seen["clean"], x0) and loss.per_sample.shape == (8,) and loss.per_sample.requires_grad
    eps = (seen["noisy"] - Table().alpha(seen["t"]) * x0) / Table().sigma(seen["t"])
    assert abs(eps.mean()) < 0.3 and abs(eps.std() - 1) < 0.3


@pytest.mark.parametrize("likeness", [SoftLabels(), Regression()], ids=["class", "map"])
def test_fitted_experts_read_noise_and_guide(likeness):
    process = Table("linear", 1e-4, 0.02)
    generator = GaussianMixture(MEANS, process, std=0.3)

    class Mean(nn.Module):
        """Knows which of the two a clean picture is by one pixel alone, which noise drowns."""

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 4, bias=False)
            with torch.no_grad():
                self.conv.weight.zero_()[:, 0, 0, 0] = torch.tensor([-4.0, 4.0])

        def forward(self, x):
            return self.conv(x).flatten(1)

    made = synthesise(generator, 128, (1, 4, 4))
    assert made.shape == (128, 1, 4, 4) and torch.equal(made[:2], synthesise(generator, 2, (1, 4, 4)))
    logs = []
    guidance = PPAP.fit(Mean(), generator, (1, 4, 4), count=2, rank=2, likeness=likeness, pictures=made, steps=80,
                        batch=64, lr=3e-2, report=logs.append)  # fmt: skip
    assert logs[-1].losses["experts"] < 0.7 * logs[0].losses["experts"]
    if isinstance(likeness, Regression):
        guidance = PPAP(guidance.experts, 2.0, lambda experts: MapScore(experts, 2.0))
        cond = Cond(alt={"target": Cond({"map": torch.tensor([[-4.0, 4.0]]).expand(12, 2)})})
    else:
        cond = Cond(alt={"target": Cond({"label": torch.ones(12, dtype=torch.long)})})
    how = {"sampler": DDIM(), "steps": 12, "cond": cond}
    found = sample(generator, (12, 1, 4, 4), guidance=guidance, **how)
    plain = sample(generator, (12, 1, 4, 4), **how)
    assert (found.x.mean((1, 2, 3)) > 0).double().mean() > (plain.x.mean((1, 2, 3)) > 0).double().mean() + 0.2
    assert found.nfe.tolist() == [12] * 12


def test_it_works_with_stochastic_samplers_and_states_at_their_own_times():
    generator, experts = GaussianMixture(MEANS, Table(), std=0.3), moved(Experts(net(), 2, rank=2))
    cond = Cond(alt={"target": Cond({"label": torch.tensor([0, 1, 1])})})
    x = sample(generator, (3, 1, 4, 4), sampler=DDPM(), steps=4, cond=cond, guidance=PPAP(experts, 3.0)).x
    assert torch.isfinite(x).all()
    score = ClassScore(experts)(x, Coef(torch.tensor([0.1, 0.9, 0.4])), cond)
    assert score.shape == (3,) and (score <= 0).all()
