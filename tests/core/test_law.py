"""Laws against brute force and torch.distributions; what is certain has log-probability and gradient 0."""

from __future__ import annotations

import torch

from suffuse.core.law import Choice, Delta, Normal, Product
from suffuse.core.value import Coef, Tree


def draw(like, tag="", kind="normal"):
    if kind == "gumbel":
        return -torch.log(-torch.log(torch.rand(like.shape)))
    return torch.randn(like.shape)


def test_normal_matches_torch():
    mean, std = torch.randn(3, 4, 2), torch.tensor([0.5, 1.0, 2.0])
    law, x = Normal(mean, Coef(std)), torch.randn(3, 4, 2)
    reference = torch.distributions.Normal(mean.double(), std.reshape(3, 1, 1).double())
    torch.testing.assert_close(law.log_prob(x), reference.log_prob(x.double()).sum((1, 2)))
    other = Normal(torch.randn(3, 4, 2), Coef(torch.tensor([1.0, 3.0, 0.2])))
    expected = torch.distributions.kl_divergence(
        reference,
        torch.distributions.Normal(other.mean.double(), torch.tensor([1.0, 3.0, 0.2]).reshape(3, 1, 1).double()),
    )
    torch.testing.assert_close(law.kl(other), expected.sum((1, 2)))
    torch.testing.assert_close(law.at(law.noise_of(x)), x)


def test_certain_entries_have_no_probability_and_no_gradient():
    mean = torch.zeros(2, 3, requires_grad=True)
    logp = Normal(mean, Coef(torch.tensor([0.0, 1.0]))).log_prob(torch.ones(2, 3))
    assert logp[0] == 0
    logp.sum().backward()
    assert mean.grad[0].eq(0).all() and torch.isfinite(mean.grad).all()

    logits = torch.tensor([[[0.0, -torch.inf, -torch.inf], [0.0, 1.0, 2.0]]], requires_grad=True)
    value = Choice(logits).log_prob(torch.tensor([[0, 2]]))
    torch.testing.assert_close(value, torch.tensor([0.0, 1.0, 2.0]).double().log_softmax(0)[2][None])
    value.sum().backward()
    assert torch.isfinite(logits.grad).all() and logits.grad[0, 0].eq(0).all()


def test_choice_draws_its_probabilities():
    torch.manual_seed(0)
    p = torch.tensor([0.2, 0.5, 0.3])
    drawn = Choice(p.log().expand(1, 20000, 3)).sample(draw)
    assert (torch.bincount(drawn.flatten(), minlength=3) / 20000 - p).abs().max() < 0.015
    q = torch.tensor([0.1, 0.1, 0.8])
    torch.testing.assert_close(
        Choice(p.log()[None]).kl(Choice(q.log()[None])), (p * (p / q).log()).sum().double()[None]
    )


def test_laws_of_trees_are_those_of_their_parts():
    mean = Tree(a=torch.randn(2, 3), b=torch.randn(2, 4, 5))
    law, x = Normal(mean, Coef(torch.tensor([0.5, 2.0]))), mean.map(torch.randn_like)
    other = Normal(mean.map(torch.randn_like), Coef(1.5))
    parts = {k: Normal(mean[k], law.std) for k in mean}
    for k, part in parts.items():
        assert torch.equal(law.at(1.0)[k], part.at(1.0)) and torch.equal(law.at(x)[k], part.at(x[k]))
        torch.testing.assert_close(law.at(law.noise_of(x))[k], x[k])
    torch.testing.assert_close(law.log_prob(x), sum(part.log_prob(x[k]) for k, part in parts.items()))
    torch.testing.assert_close(law.kl(other), sum(p.kl(Normal(other.mean[k], other.std)) for k, p in parts.items()))
    mixed = Product(Tree(a=parts["a"], b=Choice(torch.randn(2, 4, 5))))
    assert torch.equal(mixed.at(1.0)["a"], parts["a"].at(1.0)) and torch.equal(mixed.at(1.0)["b"], mixed.mean["b"])


def test_product_and_delta():
    laws = Product(Tree(a=Normal(torch.zeros(2, 3), Coef(1.0)), b=Choice(torch.zeros(2, 4, 5))))
    x = laws.sample(draw)
    assert x["a"].shape == (2, 3) and x["b"].shape == (2, 4)
    torch.testing.assert_close(laws.log_prob(x), laws.laws["a"].log_prob(x["a"]) + laws.laws["b"].log_prob(x["b"]))
    assert torch.equal(Delta(x["a"]).sample(draw), x["a"]) and Delta(x["a"]).log_prob(x["a"]).eq(0).all()
