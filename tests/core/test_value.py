"""Coefficients align from the left and compute in float64; Trees act part by part."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suffuse.core.value import Coef, Tree, batch_size, combine, dot, exp, flat, log, norm, put, sqrt, where

FUNCTIONS = [
    lambda u, v: u + v,
    lambda u, v: u - v,
    lambda u, v: u * v,
    lambda u, v: u / v,
    lambda u, v: exp(u * 0.1) + v,
    lambda u, v: sqrt(u) * v,
    lambda u, v: log(u) + v,
    lambda u, v: where(u < v, u, v),
]
numbers = st.floats(-50, 50, allow_nan=False)


def test_aligns_from_the_left():
    x = torch.ones(2, 3, 4)
    assert (Coef(torch.tensor([1.0, 2.0])) * x)[1].eq(2).all()
    assert (x * Coef(torch.arange(6.0).reshape(2, 3)))[1, 2].eq(5).all()
    assert torch.equal(x - Coef(torch.tensor([1.0, 0.5])), torch.tensor([0.0, 0.5]).reshape(2, 1, 1).expand(2, 3, 4))
    assert (1.0 / Coef(torch.tensor([2.0, 4.0])) * x)[1].eq(0.25).all()
    rows, entries = Coef(torch.tensor([1.0, 2.0])), Coef(torch.arange(6.0).reshape(2, 3))
    assert torch.equal(where(rows > 1.5, entries, 9.0).tensor(2), torch.tensor([[9.0] * 3, [3.0, 4.0, 5.0]]).double())


@settings(deadline=None)
@given(numbers, numbers)
def test_floats_and_tensors_agree(a, b):
    for f in FUNCTIONS:
        one = f(Coef(a), Coef(b)).d
        many = f(Coef(torch.tensor([a], dtype=torch.float64)), Coef(torch.tensor([b], dtype=torch.float64))).d
        torch.testing.assert_close(torch.tensor([one], dtype=torch.float64), many, equal_nan=True)


def test_division_by_zero_is_ieee():
    assert (Coef(1.0) / 0.0).d == math.inf and math.isnan((Coef(0.0) / 0.0).d) and log(Coef(0.0)).d == -math.inf


def test_shared_numbers_stay_cheap_and_exact():
    c = Coef(torch.tensor(0.1, dtype=torch.float64))
    assert isinstance(c.d, float) and c[torch.tensor([0])] is c
    assert Coef.cat([Coef(0.5), Coef(0.5)], [2, 3]).d == 0.5
    assert Coef.cat([Coef(0.5), Coef(0.25)], [1, 2]).d.tolist() == [0.5, 0.25, 0.25]


def test_gradient_flows_through_a_learned_schedule():
    w = torch.tensor(0.3, requires_grad=True)
    (exp(Coef(w)) * torch.ones(2, 2)).sum().backward()
    torch.testing.assert_close(w.grad, torch.tensor(4 * math.exp(0.3)))


def test_tree_arithmetic_and_torch_functions():
    tree = Tree(a=torch.ones(2, 3), b=torch.full((2, 1), 4.0))
    assert torch.sqrt(tree)["b"][0, 0] == 2 and (2 * tree - tree / 2 + 1)["a"][0, 0] == 2.5
    assert (Coef(torch.tensor([1.0, 3.0])) * tree)["b"].flatten().tolist() == [4, 12]
    assert combine((Tree(a=1.0, b=2.0), tree), (0.5, tree))["b"][0, 0] == 10
    assert tree[1:]["a"].shape == (1, 3) and batch_size(tree) == 2 and torch.cat([tree, tree])["a"].shape == (4, 3)
    assert (
        norm(tree).tolist() == [math.sqrt(19)] * 2
        and dot(tree, tree).tolist() == [19, 19]
        and flat(tree).shape == (2, 4)
    )


def test_put_copies():
    x = torch.zeros(3, 2)
    y = put(x, torch.tensor([1]), torch.ones(1, 2))
    assert x.sum() == 0 and y.sum(1).tolist() == [0, 2, 0]
