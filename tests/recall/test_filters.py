"""Random predicates over random tables, beside a Python evaluation of the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funnel.catalogue import write_catalogue
from funnel.config import parse as config_of
from funnel.errors import BadQuery
from funnel.generation import Generation, Manifest
from funnel.overlay import Change, LiveCatalogue
from funnel.predicate import parse
from funnel.types import All, AnyOf, Filter, Not, Predicate, Query
from recall.filters import Filters, Standing
from recall.masks import Masks

CONFIG = config_of(
    {
        "data": {
            "categorical": ["category", "brand"],
            "multi": ["tags"],
            "filterable": ["category", "brand", "tags", "price", "available"],
        }
    }
)
CATEGORIES = [None, "a", "a/b", "a/b/c", "a/bc", "b", "b/a", "ab"]
BRANDS = [None, "x", "y", "z"]
TAGS = ["s", "t", "u/v", "u"]
Item = dict[str, Any]


def table(draw: np.random.Generator, n: int) -> list[Item]:
    return [
        {
            "item_id": f"i{row:04}",
            "title": "",
            "category": CATEGORIES[draw.integers(len(CATEGORIES))],
            "brand": BRANDS[draw.integers(len(BRANDS))],
            "tags": [TAGS[k] for k in range(len(TAGS)) if draw.random() < 0.3],
            "price": float(draw.integers(10)) if draw.random() < 0.8 else None,
            "available": bool(draw.random() < 0.8) if draw.random() < 0.9 else None,
        }
        for row in range(n)
    ]


SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("item_id", "title", "category", "brand")]
    + [("tags", pa.list_(pa.string())), ("price", pa.float64()), ("available", pa.bool_())]
)


def opened(path: Path, items: list[Item]) -> Filters:
    columns = pa.Table.from_pylist(items, SCHEMA)
    write_catalogue(
        path / "items", columns, ["category", "brand"], ["tags"], ["price", "available"]
    )
    Manifest("g", until=0, past=0, actions=CONFIG.all_actions, config={}).write(path)
    return Filters.open(Generation.open(path), CONFIG)


def holds(item: Item, predicate: Predicate) -> bool:
    match predicate:
        case Not(part):
            return not holds(item, part)
        case All(parts):
            return all(holds(item, part) for part in parts)
        case AnyOf(parts):
            return any(holds(item, part) for part in parts)
        case Filter(name, any_of, low, high, exclude):
            own = item[name]
            if low is not None or high is not None:
                held = own is not None
                held = held and (low is None or own >= low) and (high is None or own <= high)
            elif name in ("price", "available"):
                truths = {"true": 1.0, "false": 0.0}
                wanted = [truths[v] if v in truths else float(v) for v in any_of]
                held = own is not None and float(own) in wanted
            else:
                values = own if name == "tags" else [own] if own is not None else []
                held = any(v == w or v.startswith(w + "/") for v in values for w in any_of)
            return bool(held) is not exclude
    raise AssertionError(predicate)


bounds = st.none() | st.integers(-1, 11).map(float)
leaves = st.one_of(
    st.tuples(bounds, bounds)
    .filter(lambda b: b != (None, None) and (None in b or b[0] <= b[1]))
    .map(lambda b: Filter("price", low=b[0], high=b[1])),
    st.lists(st.sampled_from(["0", "1", "2.5", "7", "8", "9"]), min_size=1, max_size=6).map(
        lambda v: Filter("price", tuple(v))
    ),
    st.lists(st.sampled_from(["a", "a/b", "b", "ab", "?"]), min_size=1, max_size=3).map(
        lambda v: Filter("category", tuple(v))
    ),
    st.lists(st.sampled_from([*BRANDS[1:], "w"]), min_size=1, max_size=3).map(
        lambda v: Filter("brand", tuple(v), exclude=len(v) > 2)
    ),
    st.lists(st.sampled_from([*TAGS, "w"]), min_size=1, max_size=3).map(
        lambda v: Filter("tags", tuple(v))
    ),
    st.sampled_from(["true", "false"]).map(lambda v: Filter("available", (v,))),
)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(All, st.lists(inner, max_size=3).map(tuple))
        | st.builds(AnyOf, st.lists(inner, max_size=3).map(tuple))
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module", params=[0, 1, 300])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    items = table(np.random.default_rng(request.param), request.param)
    return items, opened(tmp_path_factory.mktemp("filters"), items)


@settings(max_examples=120, deadline=None)
@given(st.lists(trees, max_size=3), st.lists(st.integers(-1, 310), max_size=4))
def test_a_bitmap_is_what_python_says_item_by_item(
    world: Any, predicates: list[Predicate], excluded: list[int]
) -> None:
    items, filters = world
    query = Query(filters=tuple(predicates), excluded=np.array(excluded, np.int32))
    wanted = [
        item["available"] is not False
        and row not in excluded
        and all(holds(item, predicate) for predicate in predicates)
        for row, item in enumerate(items)
    ]
    for _ in range(2):  # from the condition, and from what is remembered of it
        mask = filters.allowed(query)
        assert (np.ones(len(items), bool) if mask is None else mask).tolist() == wanted


def text_of(predicate: Predicate) -> str:
    match predicate:
        case Not(part):
            return f"not ({text_of(part)})"
        case All(parts) | AnyOf(parts):
            word = " and " if isinstance(predicate, All) else " or "
            return "(" + word.join(map(text_of, parts)) + ")" if parts else "available != 5"
        case Filter(name, any_of, low, high, exclude):
            if low is not None or high is not None:
                said = f"{'' if low is None else low}..{'' if high is None else high}"
                return f"{name} {said}"
            said = ", ".join(f'"{value}"' for value in any_of)
            return f"{name} {'not ' if exclude else ''}in ({said})"
    raise AssertionError(predicate)


@settings(max_examples=120, deadline=None)
@given(trees)
def test_a_text_says_the_same_as_its_tree(world: Any, predicate: Predicate) -> None:
    items, filters = world
    if "()" in repr(predicate):  # a text has no empty groups
        return
    read = filters.holds(parse(text_of(predicate), filters.kinds))
    assert read.tolist() == [holds(item, predicate) for item in items]


def test_what_is_remembered_is_forgotten_when_the_catalogue_changes(tmp_path: Path) -> None:
    opened(tmp_path, table(np.random.default_rng(1), 20))
    items = LiveCatalogue(tmp_path / "items")
    filters = Filters(items, {"price": "number", "brand": "codes"}, Standing(items))
    cheap = Query(filters=(Filter("price", high=3),))
    before = filters.allowed(cheap)
    new = {**table(np.random.default_rng(2), 1)[0], "item_id": "new", "price": 1.0}
    old = {**new, "item_id": "i0003", "price": 9.0}
    items.apply([Change(pa.Table.from_pylist([{**new, "available": True}, old], SCHEMA))])
    after = filters.allowed(cheap)
    assert before is not None
    assert after is not None
    assert (len(before), len(after)) == (20, 21)
    assert after[20]
    assert not after[3]


def test_masks_are_kept_up_to_a_size_the_oldest_go_first() -> None:
    masks, made = Masks(room=30), []

    def make(condition: Filter) -> Any:
        made.append(condition.attribute)
        return np.zeros(10, bool)

    for name in "abcabcdbcda":
        masks.of(Filter(name), 1, make)
    assert "".join(made) == "abcda"
    masks.of(Filter("a"), 2, make)
    assert "".join(made) == "abcdaa"


def test_no_request_changes_the_mask_of_another(tmp_path: Path) -> None:
    items = table(np.random.default_rng(1), 30)
    filters = opened(tmp_path, [{**item, "available": True} for item in items])
    cheap = Query(filters=(Filter("price", high=5),))
    first = filters.allowed(cheap)
    assert first is not None
    held = first.tolist()
    filters.allowed(Query(filters=cheap.filters, excluded=np.arange(30, dtype=np.int32)))
    filters.allowed(Query(filters=(*cheap.filters, Filter("brand", ("x",)))))
    again = filters.allowed(cheap)
    assert again is not None
    assert again.tolist() == held


def test_a_text_value_for_a_number_is_refused(tmp_path: Path) -> None:
    filters = opened(tmp_path, table(np.random.default_rng(1), 3))
    with pytest.raises(BadQuery, match="'price' is a number, and 'dear' is not"):
        filters.allowed(Query(filters=(parse("price in (1, dear)"),)))
