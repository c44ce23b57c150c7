"""Prompts made of others, and entries that change from step to step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suffuse.core.cond import Cond
from suffuse.core.engine import Start, sample
from suffuse.core.errors import BadInput
from suffuse.core.grid import Grid
from suffuse.core.prompt import Mixture, Stepwise, average, share_table, simple, varies
from suffuse.core.value import Coef
from suffuse.guidance import CFG
from suffuse.samplers import DDIM, Heun
from suffuse.testing.fixtures import conditions, fixture, states


@dataclass(frozen=True)
class Listed(Mixture):
    prompts: tuple[Any, ...]

    @property
    def parts(self) -> tuple[Any, ...]:
        return self.prompts


class Even(Listed):
    """All parts alike."""

    def shares(self, i: int, n: int) -> list[float]:
        return [1 / len(self.parts)] * len(self.parts)


class Half(Listed):
    """The first part, and from the middle of the run on the second."""

    varies = True

    def shares(self, i: int, n: int) -> list[float]:
        return [float(2 * i < n), float(2 * i >= n)]


def stepwise(rows: int = 2, n: int = 4, width: int = 3) -> Stepwise:
    """Row 0 changes from leaf 0 to leaf 1 in the middle, row 1 is leaf 1."""
    leaves = torch.arange(2.0 * width).reshape(2, width)
    return Stepwise.on(even(n), leaves, share_table([Half(("a", "b")), "b"][:rows], ["a", "b"], n))


def even(n: int) -> Grid:
    return Grid(torch.linspace(1, 0, n + 1, dtype=torch.float64))


def test_mixtures_nest() -> None:
    nested = Even(("a", Half(("b", Even(("a", "c"))))))
    assert simple(nested) == ["a", "b", "c"] and varies(nested) and not varies(Even(("a", "b"))) and not varies("a")
    table = share_table([nested, "c"], ["a", "b", "c"], 2)
    assert table.tolist() == [[[0.5, 0.5, 0.0], [0.75, 0.0, 0.25]], [[0, 0, 1], [0, 0, 1]]]


def test_a_row_of_one_leaf_is_that_leaf_to_the_bit() -> None:
    leaves = torch.randn(3, 5)
    out = average(leaves, torch.tensor([[0.0, 1.0, 0.0], [0.25, 0.0, 0.75]]))
    assert torch.equal(out[0], leaves[1])
    torch.testing.assert_close(out[1], 0.25 * leaves[0] + 0.75 * leaves[2])


def test_masks_unite_and_classes_have_no_average() -> None:
    masks = torch.tensor([[True, False], [False, False]])
    assert average(masks, torch.tensor([[0.5, 0.5]])).tolist() == [[True, False]]
    assert average(torch.tensor([3, 4]), torch.tensor([[0.0, 1.0]])).tolist() == [4]
    with pytest.raises(BadInput, match="no average"):
        average(torch.tensor([3, 4]), torch.tensor([[0.5, 0.5]]))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.data())
def test_the_step_of_a_time(n: int, data: Any) -> None:
    times = torch.tensor(sorted(data.draw(st.sets(st.integers(0, 10**6), min_size=n + 1, max_size=n + 1)))) / 10**6
    leaves = torch.arange(float(n))
    for grid in (Grid(times), Grid(times.flip(0))):
        entry = Stepwise.on(grid, leaves, torch.eye(n)[None])
        falling = times.flip(0).double()
        for i in range(n):
            middle = (falling[i] + falling[i + 1]) / 2
            assert entry(falling[i]).item() == i == entry(middle).item()
        assert entry(falling[n]).item() == n - 1


def test_times_of_rows_and_of_pixels() -> None:
    entry = stepwise()
    assert entry(0.75)[:, 0].tolist() == [0, 3] and entry(Coef(0.5))[:, 0].tolist() == [3, 3]
    assert stepwise()[torch.tensor([0, 0])](torch.tensor([0.9, 0.1]))[:, 0].tolist() == [0, 3]
    assert entry(torch.tensor([[0.9, 0.1], [0.2, 0.1]])).shape == (2, 3)
    with pytest.raises(BadInput, match="differ within a picture"):
        Stepwise.on(Grid(torch.rand(3, 2)), torch.zeros(2, 3), torch.zeros(2, 2, 2))


def test_it_is_handled_like_a_tensor() -> None:
    cond = Cond({"text": stepwise()}, {"null": Cond({"text": stepwise()})})
    plain = Cond({"text": torch.zeros(1, 3)}, {"null": Cond({"text": torch.zeros(1, 3)})})
    assert (
        cond.rows == 2 and cond.repeat(2).rows == 4 and cond[1:].rows == 1 and cond[torch.tensor([1, 0, 1])].rows == 3
    )
    assert cond.joins(plain) and plain.joins(cond) and not cond.joins(Cond({"text": torch.zeros(1, 4)}))
    for t in (0.9, 0.1):
        joined = Cond.cat([plain, cond]).at(t)
        assert torch.equal(joined["text"], torch.cat([plain["text"], cond["text"](t)]))
        assert torch.equal(joined.alt["null"]["text"], joined["text"])
        assert torch.equal(cond.repeat(2).at(t)["text"], cond.at(t)["text"].repeat_interleave(2, 0))
    assert cond.map(lambda v: v.double()).at(0.3)["text"].dtype == torch.float64
    assert plain.at(0.5) is plain
    other = Stepwise.on(even(3), torch.zeros(1, 3), torch.ones(1, 3, 1))
    with pytest.raises(BadInput, match="different grids"):
        Cond.cat([cond, Cond({"text": other}, {"null": Cond({"text": other})})])


@pytest.mark.parametrize("sampler", [DDIM(), Heun()])
def test_branches_that_change_are_one_call(sampler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of two halves is the run with one condition, then with the other; branches go together as always."""
    denoiser, x, cond = fixture("unet"), states("unet", 2), conditions("unet", 3)
    first, second, null = ({"text": cond["text"][k : k + 1].expand(2, -1, -1)} for k in range(3))
    leaves = torch.cat([first["text"][:1], second["text"][:1], null["text"][:1]])
    grid = even(4)

    def entry(*prompts: Any) -> Stepwise:
        return Stepwise.on(grid, leaves, share_table(prompts, ["a", "b", "c"], 4))

    changing = Cond({"text": entry(*[Half(("a", "b"))] * 2)}, {"null": Cond({"text": entry("c", Half(("c", "a")))})})
    sizes: list[int] = []
    forward = type(denoiser).forward

    def counted(self: Any, x: Any, *rest: Any) -> Any:
        sizes.append(len(x))
        return forward(self, x, *rest)

    monkeypatch.setattr(type(denoiser), "forward", counted)
    run: dict[str, Any] = {"sampler": sampler, "grid": grid, "guidance": CFG(3.0)}
    out = sample(denoiser, x, cond=changing, **run)
    assert set(sizes) == {4} and out.nfe.tolist() == [2 * len(sizes)] * 2
    alone = sample(denoiser, x[1:], cond=changing[1:], samples=[1], **run)
    torch.testing.assert_close(alone.x, out.x[1:], atol=1e-3, rtol=1e-3)
    if isinstance(sampler, DDIM):
        nulls = [null["text"], torch.cat([null["text"][:1], first["text"][:1]])]
        halves = [Cond(c, {"null": Cond({"text": n})}) for c, n in zip((first, second), nulls, strict=True)]
        state = sample(denoiser, x, cond=halves[0], stop=0.5, **run).x
        state = sample(denoiser, Start.exactly(state, 0.5), cond=halves[1], **run).x
        torch.testing.assert_close(state, out.x, atol=1e-4, rtol=1e-4)
