"""Items on their way in: what the contract allows passes, whole; the rest is refused in words."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnel.errors import BadQuery, Unavailable
from funnel.intake import Intake, item_of, message, taken_in

SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("category", pa.string()),
        ("description", pa.string()),
        ("price", pa.float64()),
        ("created_at", pa.int64()),
        ("available", pa.bool_()),
        ("tags", pa.large_list(pa.large_string())),
        ("sizes", pa.list_(pa.int32())),
        ("made", pa.timestamp("ms")),
    ]
)
INTAKE = Intake(SCHEMA)
GOOD: dict[str, Any] = {
    "item_id": "x",
    "title": "",
    "category": "Shoes/Running",
    "price": 3,
    "created_at": 5,
    "available": False,
    "tags": ["a", "ü"],
    "sizes": [38, 39.0],
}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"item_id": None}, "item_id is missing"),
        ({"item_id": "  "}, "item_id is missing"),
        ({"item_id": "y" * 600}, "item_id has 600 bytes; at most 500"),
        ({"title": None}, "title is missing"),
        ({"title": 7}, "title must be a string, not int '7'"),
        ({"title": "y" * 70_000}, "title has 70,000 bytes"),
        ({"title": "\ud800"}, "title is not valid Unicode"),
        ({"colour": "red"}, "no column 'colour' here; there are: item_id, title"),
        ({"price": "3"}, "price must be a number, not str '3'"),
        ({"price": -1.0}, "price -1.0 is not a finite number from 0"),
        ({"price": float("nan")}, "price nan is not"),
        ({"category": "Shoes//Running"}, "category 'Shoes//Running' is not a path"),
        ({"created_at": 1.5}, "created_at must be a whole number, not 1.5"),
        ({"created_at": float("inf")}, "created_at must be a whole number of 64 bits"),
        ({"created_at": 1 << 63}, "created_at must be a whole number of 64 bits"),
        ({"available": 1}, "available must be true or false, not int '1'"),
        ({"tags": "a"}, "tags must be a list, not str 'a'"),
        ({"tags": ["a", 1]}, "tags has a value that must be a string, not int '1'"),
        ({"tags": ["a"] * 1001}, "tags has 1,001 values; at most 1,000"),
        ({"sizes": [1, 1 << 31]}, "sizes has a value that must be a whole number of 32 bits"),
        ({"made": "today"}, "made is timestamp"),
    ],
)
def test_what_breaks_the_contract_is_refused_by_name(change: dict[str, Any], reason: str) -> None:
    assert INTAKE.problem(GOOD) == ""
    assert INTAKE.problem({**GOOD, **change}).startswith(reason)


def test_refused_items_do_not_keep_the_others_out() -> None:
    tables: list[pa.Table] = []
    items = [{**GOOD, "item_id": f"i{n}", "price": -1.0 if n % 5 == 0 else n} for n in range(505)]
    told = taken_in(items, INTAKE, tables.append, batch=50)
    assert (told.accepted, told.refusals, len(told.refused)) == (404, 101, 100)
    assert [one.index for one in told.refused[:3]] == [0, 5, 10]
    assert told.refused[1].item_id == "i5"
    assert "price -1.0" in told.refused[1].reason
    assert [len(table) for table in tables] == [50] * 8 + [4]
    ids = pa.concat_tables(tables).column("item_id").to_pylist()
    assert ids == [f"i{n}" for n in range(505) if n % 5]
    assert tables[0].schema.names == SCHEMA.names
    row = tables[0].slice(0, 1).to_pylist()[0]
    assert row == {**GOOD, "item_id": "i1", "price": 1.0, "description": None, "made": None}


def test_what_the_log_does_not_take_is_not_acknowledged() -> None:
    def append(table: pa.Table) -> None:
        raise Unavailable("down")

    with pytest.raises(Unavailable):
        taken_in([GOOD], INTAKE, append)


values = (
    st.booleans()
    | st.text(max_size=5)
    | st.floats(allow_nan=False)
    | st.lists(st.text(max_size=3), max_size=3)
)


@given(
    item=st.fixed_dictionaries(
        {"item_id": st.text(min_size=1), "title": st.text()},
        optional={
            "brand": st.text(min_size=1),
            "price": st.floats(allow_nan=False),
            "created_at": st.integers(0, 1 << 50),
            "available": st.booleans(),
            "other": values,
        },
    )
)
def test_an_item_survives_the_wire(item: dict[str, Any]) -> None:
    assert item_of(type(message(item)).FromString(message(item).SerializeToString())) == item


def test_what_cannot_be_sent_is_an_error_that_names_it() -> None:
    with pytest.raises(BadQuery, match="needs title"):
        message({"item_id": "x"})
    with pytest.raises(BadQuery, match="'when' is object"):
        message({**GOOD, "when": object()})
    with pytest.raises(BadQuery, match="price = "):
        message({**GOOD, "price": "dear"})
