from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suffuse.core import registry
from suffuse.core.errors import BadInput
from suffuse.core.expression import parse, unparse
from suffuse.core.guidance import Guidance
from suffuse.core.hook import Hook
from suffuse.core.patch import Patch
from suffuse.core.registry import method


@dataclass(frozen=True)
class ToyGuidance(Guidance):
    """A toy guidance."""

    scale: float = 7.5
    inner: object = None
    words: tuple[str, ...] = ()
    window: tuple[float, float] = (0.0, 1.0)

    def __call__(self, predict, x, t, cond, at):
        return predict(x, t, cond)


@dataclass(frozen=True)
class ToyHook(Hook):
    """A toy hook."""

    every: int
    table: object = None

    def __post_init__(self):
        if self.every == 0:
            raise BadInput("every: 0 is not a period; give 1 or more")
        if self.every < 0:
            raise ValueError("every must be positive")

    def __call__(self, step, x, at):
        return step(x, at)


@dataclass(frozen=True)
class ToyPatch(Patch):
    """A toy patch."""

    every: int = 1


def toy_task(model):
    """A toy task."""


@pytest.fixture(autouse=True, scope="module")
def _toys():
    toys = (ToyGuidance, ToyHook, ToyPatch, toy_task)
    for target in toys:
        method()(target)
    yield
    for target in toys:
        del registry._methods[target.__name__]


def test_calls_by_position_by_name_and_by_name_alone():
    assert parse("ToyGuidance(5)") == parse(" ToyGuidance( scale = 5 ) ") == ToyGuidance(5)
    assert parse("ToyGuidance") == ToyGuidance()
    assert parse("ToyHook(3, table={'a': [1, -2.5e-3], 'b': (None, True)})") == ToyHook(
        3, {"a": [1, -0.0025], "b": (None, True)}
    )
    assert parse("ToyGuidance(inner=ToyHook(2))").inner == ToyHook(2)
    assert parse("inf") == math.inf and parse("-inf") == -math.inf


def test_only_what_differs_from_the_default_is_printed():
    assert unparse(ToyGuidance()) == "ToyGuidance()"
    assert unparse(ToyGuidance(5, words=("a",))) == "ToyGuidance(scale=5, words=('a',))"
    assert unparse(ToyHook(1)) == "ToyHook(every=1)"
    assert unparse(ToyHook(True)) == "ToyHook(every=True)"


def test_chains_and_windows():
    a, b, c = ToyGuidance(1), ToyGuidance(2), ToyGuidance(3)
    assert parse("ToyGuidance(1) | ToyGuidance(2) | ToyGuidance(3)") == a | b | c
    text = "during(ToyGuidance(scale=1) | ToyGuidance(scale=2), 0.0, 0.5) | ToyGuidance(scale=3)"
    assert parse(text) == (a | b).during(0.0, 0.5) | c
    assert unparse(parse(text)) == text
    assert unparse(ToyHook(2).during(0.25, 1)) == "during(ToyHook(every=2), 0.25, 1)"
    assert parse("during(ToyHook(2), 0.25, 1)") == ToyHook(2).during(0.25, 1)
    patch = ToyPatch(3).only("cond", "null").during(0.0, 0.5)
    assert unparse(patch) == "during(only(ToyPatch(every=3), 'cond', 'null'), 0.0, 0.5)"
    assert parse(unparse(patch)) == patch


literals = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)
values = st.recursive(
    literals,
    lambda inner: (
        st.builds(ToyGuidance, st.floats(allow_nan=False), inner, st.lists(st.text()).map(tuple))
        | st.builds(ToyHook, st.integers(min_value=1), inner)
        | st.builds(ToyGuidance, inner=inner).map(lambda g: g | ToyGuidance(2.0))
    ),
    max_leaves=5,
)


@given(values)
@settings(max_examples=200, deadline=None)
def test_what_is_printed_reads_back_as_the_same_value_and_the_same_text(value):
    text = unparse(value)
    again = parse(text)
    assert again == value and repr(again) == repr(value)
    assert unparse(again) == text


@given(st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_value_or_bad_input(text):
    try:
        unparse(parse(text))
    except BadInput:
        pass


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ToyGuidence(5)", "'ToyGuidence' is unknown; did you mean ToyGuidance"),
        ("ToyGuidance(scal=5)", "argument 'scal' is unknown; did you mean scale"),
        ("ToyGuidance(1, scale=2)", "'scale' is given twice"),
        ("ToyGuidance(1, 2, 3, 4, 5)", "at most 4 arguments, 5 were given"),
        ("ToyGuidance(scale=1, scale=2)", "'scale' is given twice"),
        ("ToyHook()", "argument 'every' is missing"),
        ("ToyHook(0)", "every: 0 is not a period"),
        ("ToyHook(-1)", "ToyHook: every must be positive; see `suffuse info ToyHook`"),
        ("ToyHook('a')", r"ToyHook\(.*='a'\): give "),
        ("toy_task()", "toy_task is a task"),
        ("ToyGuidance(", "was never closed at column"),
        ("", "write it like"),
        ("ToyGuidance() | 3", "ToyGuidance | int is not a chain"),
        ("ToyHook(1) | ToyHook(2)", "ToyHook | ToyHook is not a chain"),
        ("1 | 2", "int | int is not a chain"),
        ("1 + 2", "neither a call nor a literal"),
        ("-'a'", "neither a call nor a literal"),
        ("ToyGuidance().scale", "neither a call nor a literal"),
        ("__import__('os').system('true')", "neither a call nor a literal"),
        ("ToyGuidance(**{'scale': 1})", "neither a call nor a literal"),
        ("ToyGuidance(*[1])", "neither a call nor a literal"),
        ("{**{}}", "NoneType as a key of a dict"),
        ("{(1,): 2}", "tuple as a key of a dict"),
        ("[x for x in 'abc']", "neither a call nor a literal"),
        ("lambda: 1", "neither a call nor a literal"),
        ("b'a'", "neither a call nor a literal"),
        ("f'{1}'", "neither a call nor a literal"),
        ("during(3, 0, 1)", "during needs a plug-in"),
        ("only()", "only needs a plug-in"),
        ("during(ToyHook(1))", "during: "),
        ("'\0'", "null"),
        ("(" * 500 + ")" * 500, "too many nested|nested too deeply"),
        ("-" * 100_000 + "1", "nested too deeply"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text, message):
    with pytest.raises(BadInput, match=message) as caught:
        parse(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 2000


def test_a_value_of_the_wrong_kind_is_refused():
    assert parse("ToyHook(1)", Hook) == ToyHook(1)
    with pytest.raises(BadInput, match="ToyGuidance is not a Hook"):
        parse("ToyGuidance(1)", Hook)


@pytest.mark.parametrize("value", [math.nan, object(), 1j, {1}, ToyHook(1, object()), Hook])
def test_what_an_expression_cannot_say_is_refused(value):
    with pytest.raises(BadInput, match="an expression cannot say a"):
        unparse(value)
