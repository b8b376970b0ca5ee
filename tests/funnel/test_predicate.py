"""Conditions as text: what they mean, what is refused and where."""

from __future__ import annotations

import json
import math
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funnel.errors import BadQuery
from funnel.predicate import MAX_CONDITIONS, MAX_DEPTH, check, parse, plain, read_plain
from funnel.types import All, AnyOf, Filter, Not, Predicate


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("brand = Acme", Filter("brand", ("Acme",))),
        ("brand='Acme & Co'", Filter("brand", ("Acme & Co",))),
        (r'brand = "say \"so\""', Filter("brand", ('say "so"',))),
        ("brand != Acme", Filter("brand", ("Acme",), exclude=True)),
        ('brand in ("Acme", Bolt)', Filter("brand", ("Acme", "Bolt"))),
        ("brand NOT IN (Acme)", Filter("brand", ("Acme",), exclude=True)),
        ("price 10..50", Filter("price", low=10, high=50)),
        ("price = 10..50", Filter("price", low=10, high=50)),
        ("price in -1.5 .. 2e3", Filter("price", low=-1.5, high=2000)),
        ("price 10..", Filter("price", low=10)),
        ("price ..50", Filter("price", high=50)),
        ("price >= 10", Filter("price", low=10)),
        ("price <= 10", Filter("price", high=10)),
        ("price = 10", Filter("price", ("10",))),
        ("price < 10", Filter("price", high=math.nextafter(10, 0))),
        ("price > 0", Filter("price", low=5e-324)),
        ("created_at >= 1970-01-02", Filter("created_at", low=86_400_000)),
        ("created_at < 1970-01-01T00:01Z", Filter("created_at", high=math.nextafter(60_000, 0))),
        ("available", Filter("available", ("true",))),
        ("not available", Filter("available", ("true",), exclude=True)),
        ("`in stock` and kg", All((Filter("in stock", ("true",)), Filter("kg", ("true",))))),
        ("品牌 = 耐克", Filter("品牌", ("耐克",))),
        ("category = Shoes/Running", Filter("category", ("Shoes/Running",))),
    ],
)
def test_a_condition_means_what_it_says(text: str, meant: Predicate) -> None:
    assert parse(text) == meant


def test_and_binds_closer_than_or_and_not_closest() -> None:
    a, b, c = (Filter(name, ("true",)) for name in "abc")
    no_a = Filter("a", ("true",), exclude=True)
    assert parse("a or b and c") == AnyOf((a, All((b, c))))
    assert parse("(a or b) and c") == All((AnyOf((a, b)), c))
    assert parse("not a and b") == All((no_a, b))
    assert parse("not (a and b)") == Not(All((a, b)))
    assert parse("not not (a and b)") == All((a, b))


def test_the_example_of_the_documentation_reads() -> None:
    text = (
        'brand in ("Acme", "Bolt") and price 10..50 '
        'and not category = "Shoes/Running" and available'
    )
    assert parse(text) == All(
        (
            Filter("brand", ("Acme", "Bolt")),
            Filter("price", low=10, high=50),
            Filter("category", ("Shoes/Running",), exclude=True),
            Filter("available", ("true",)),
        )
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("brand = ", r"position 9 .*found the end, not a value"),
        ("brand = a b", r"position 11 .*found 'b', not 'and', 'or' or the end"),
        ("brand Acme", r"position 7 .*found 'Acme', not one of = !="),
        ("brand in (a, b", r"position 15 .*not '\)'"),
        ("brand in a", r"position 10 .*not '\('"),
        ("(brand = a", r"position 11 .*not '\)'"),
        ("and brand", r"position 1 .*found 'and', not the name"),
        ("price < dear", r"position 9 .*found 'dear', not a number"),
        ("price 50..10", r"position 7 .*empty; swap"),
        ("price ..", r"position 7 .*not a bound on one side"),
        ("price < 1e999", r"position 9 .*too large"),
        ("made > 2024-02-31", r"position 8 .*not a date that exists"),
        ("brand = 'a", r"position 9 .*quote that never ends"),
        ("brand = a; drop", r"position 10 .*';'"),
        (
            "colour = red",
            r"position 1 .*cannot filter on 'colour'; filterable here: brand, price, made",
        ),
        ("", r"position 1 .*found the end"),
    ],
)
def test_an_error_says_where_and_what(text: str, message: str) -> None:
    with pytest.raises(BadQuery, match=message):
        parse(text, ("brand", "price", "made"))


@pytest.mark.parametrize(
    "text",
    [
        "(" * 500 + "a" + ")" * 500,
        "not (a and " * 40 + "a" + ")" * 40,
        " and ".join(["a"] * (MAX_CONDITIONS + 1)),
        f"a in ({', '.join(map(str, range(11_000)))})",
        "a" * 20_000,
    ],
    ids=["parentheses", "groups", "conditions", "values", "text"],
)
def test_too_much_is_the_callers_fault(text: str) -> None:
    with pytest.raises(BadQuery, match=r"deep|more than|characters"):
        parse(text)


def test_a_tree_that_is_too_deep_is_refused_without_recursion() -> None:
    tree: Predicate = Filter("a", ("true",))
    for _ in range(100_000):
        tree = Not(tree)
    with pytest.raises(BadQuery, match=f"more than {MAX_DEPTH} deep"):
        check((tree,))
    while isinstance(tree, Not):  # freed part by part: the interpreter would do it recursively
        tree = tree.part


leaves = st.builds(
    Filter,
    st.text(max_size=3),
    st.lists(st.text(max_size=3), max_size=2).map(tuple),
    st.none() | st.floats(allow_nan=False),
    st.none() | st.floats(allow_nan=False),
    st.booleans(),
)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(All, st.lists(inner, max_size=3).map(tuple))
        | st.builds(AnyOf, st.lists(inner, max_size=3).map(tuple))
    ),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(trees)
def test_a_predicate_comes_back_from_json(tree: Predicate) -> None:
    assert read_plain(json.loads(json.dumps(plain(tree)))) == tree


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab ()=!<>.,'\"`12-andornti", max_size=30))
def test_any_text_is_a_predicate_or_a_bad_query(text: str) -> None:
    with suppress(BadQuery):
        parse(text)
