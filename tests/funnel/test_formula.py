"""Formulas of the config: their values against Python's own, and what is refused."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnel.config import parse
from funnel.errors import BadConfig
from funnel.formula import Formula

COLUMNS = {"p.click": np.array([0.1, 0.5]), "item.price": np.array([3.0, np.nan])}


def value(text, columns=COLUMNS, count=2):
    return Formula.parse(text)(columns, count).tolist()


def test_names_have_dots_and_what_is_missing_stays_missing():
    assert Formula.parse("p.click + item.price * p.click").names == ("p.click", "item.price")
    found = value("p.click + item.price")
    assert found[0] == pytest.approx(3.1)
    assert math.isnan(found[1])
    assert value("p.click + known(item.price, 1)") == pytest.approx([3.1, 1.5])
    assert math.isnan(value("where(item.price > 2, 1, 0)")[1])


def test_a_number_alone_is_the_same_for_all():
    assert value("2 ** 3 / 4") == [2.0, 2.0]


def test_what_has_no_value_is_no_error():
    assert not np.isfinite(value("log(p.click - 0.5) / 0")).all()


EXPRESSIONS = st.recursive(
    st.sampled_from(["a", "b.c", "2", "0.5"]),
    lambda parts: st.one_of(
        st.tuples(parts, st.sampled_from("+-*/"), parts).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        parts.map(lambda part: f"(-{part})"),
        st.tuples(parts, parts).map(lambda t: f"max({t[0]}, {t[1]})"),
        st.tuples(parts, parts).map(lambda t: f"min({t[0]}, {t[1]})"),
        parts.map(lambda part: f"abs({part})"),
    ),
    max_leaves=12,
)


@given(EXPRESSIONS, st.integers(1, 9), st.integers(1, 9))
def test_values_equal_those_of_python(text, a, b):
    class Dotted:
        c = float(b)

    try:
        expected = eval(text, {"a": float(a), "b": Dotted, "max": max, "min": min, "abs": abs})
    except ZeroDivisionError:
        return
    found = value(text, {"a": np.array([a]), "b.c": np.array([b])}, 1)
    if "/" not in text or math.isfinite(found[0]):
        assert found == pytest.approx([expected])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no formula"),
        ("p.click +", "no formula"),
        ("open('x')", "'open' is no function; known: log"),
        ("(1).real.__class__", "not understood"),
        ("a[0]", "not understood"),
        ("[a for a in b]", "not understood"),
        ("lambda: 1", "not understood"),
        ("1 < a < 3", "not understood"),
        ("True", "not understood"),
        ("'text'", "not understood"),
        ("log(1, 2)", "log takes 1 values"),
        ("max(1)", "max takes 2 or more values"),
        ("log(a=1)", "not understood|no function"),
        ("a" * 1001, "1001 characters"),
        ("(" * 300 + "a" + ")" * 300, "no formula"),
    ],
)
def test_what_is_no_formula_is_refused_with_the_reason(text, said):
    with pytest.raises(ValueError, match=said):
        Formula.parse(text)


def test_the_config_refuses_it_too_and_says_where():
    with pytest.raises(BadConfig, match=r"rank\.value.*'open' is no function"):
        parse({"scenes": {"home": {"rank": {"value": "open(1)"}}}})
