"""The live catalogue against a naive one: a dict of items, and rows counted by hand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.tokens import codes as word_codes
from features.tokens import write_tokens
from funnel.catalogue import id_hash, write_catalogue
from funnel.overlay import Change, LiveCatalogue
from funnel.types import NO_ITEM

SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("category", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("price", pa.float64()),
        ("note", pa.string()),
    ]
)
Item = dict[str, Any]
FIRST: list[Item] = [
    {"item_id": "a", "title": "red shoe", "category": "shoes", "tags": ["x", "y"], "price": 1.0},
    {"item_id": "c", "title": "blue hat", "category": "hats", "tags": [], "price": None},
    {"item_id": "e", "title": "", "category": None, "tags": None, "price": 3.0, "note": "old"},
]


def table(items: Sequence[Item]) -> pa.Table:
    return pa.Table.from_pylist(list(items), SCHEMA)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("items")
    write_catalogue(path, table(FIRST), ["category"], ["tags"], ["price"])
    write_tokens(path, [item["title"] for item in FIRST])
    return path


def seen(catalogue: LiveCatalogue) -> list[tuple[Any, ...]]:
    """Every row as its columns tell it: what two catalogues have in common, and nothing else."""
    n = len(catalogue)
    shown = catalogue.take(np.arange(n)).to_pylist()
    ids, price = catalogue.item_ids(np.arange(n)), catalogue.numbers("price")
    categories, tags = catalogue.values("category"), catalogue.values("tags")
    (starts, ends), codes = catalogue.bounds("tags"), catalogue.codes("tags")
    (low, high), words = catalogue.bounds("tokens"), catalogue.codes("tokens")
    alive = np.ones(n, bool) if catalogue.alive is None else catalogue.alive
    assert len(price) == len(starts) == len(ends) == len(alive) == len(catalogue.codes("category"))
    return [
        (
            ids[row],
            bool(alive[row]),
            shown[row],
            None if np.isnan(price[row]) else float(price[row]),
            categories[code] if (code := catalogue.codes("category")[row]) >= 0 else None,
            [tags[code] for code in codes[starts[row] : ends[row]]],
            words[low[row] : high[row]].tolist(),
        )
        for row in range(n)
    ]


class Naive:
    """What should be there."""

    def __init__(self) -> None:
        self.items = {item["item_id"]: item for item in FIRST}
        self.rows = ["a", "c", "e"]
        self.alive = {"a", "c", "e"}

    def apply(self, change: Change) -> None:
        for item in [] if change.items is None else change.items.to_pylist():
            self.items[item["item_id"]] = item
            self.alive.add(item["item_id"])
            if item["item_id"] not in self.rows:
                self.rows.append(item["item_id"])
        self.alive -= set(change.deleted)

    def seen(self) -> list[tuple[Any, ...]]:
        return [
            (
                id,
                id in self.alive,
                {name: self.items[id].get(name) for name in SCHEMA.names},
                self.items[id]["price"],
                self.items[id]["category"],
                self.items[id]["tags"] or [],
                word_codes(self.items[id]["title"] or "").tolist(),
            )
            for id in self.rows
        ]


ids = st.sampled_from("abcdefgh")
items = st.fixed_dictionaries(
    {
        "item_id": ids,
        "title": st.sampled_from(["", "red hat", "a green shoe", "hat hat"]),
        "category": st.sampled_from([None, "shoes", "lamps", "bags/small"]),
        "tags": st.none() | st.lists(st.sampled_from("xyzw"), max_size=3),
        "price": st.none() | st.floats(0, 9),
        "note": st.none() | st.just("new"),
    }
)
changes = st.builds(lambda some: Change(table(some)), st.lists(items, max_size=4)) | st.builds(
    lambda some: Change(None, tuple(some)), st.lists(ids, max_size=3)
)


@settings(max_examples=150, deadline=None)
@given(log=st.lists(changes, max_size=12), cuts=st.sets(st.integers(0, 12)))
def test_any_log_cut_anyhow_gives_what_a_dict_gives(
    place: Path, log: list[Change], cuts: set[int]
) -> None:
    one, naive = LiveCatalogue(place), Naive()
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(log)), len(log)]
    for low, high in pairwise(edges):
        applied = one.apply(log[low:high])
        for change in log[low:high]:
            naive.apply(change)
        # What channels are told is what is there now, each once.
        told = applied.items.column("item_id").to_pylist()
        assert one.item_ids(applied.rows) == told
        assert len(set(told)) == len(told)
        named = {
            id
            for change in log[low:high]
            if change.items is not None
            for id in change.items.column("item_id").to_pylist()
        }
        assert set(told) == named & naive.alive
    assert seen(one) == naive.seen()
    again = LiveCatalogue(place)
    for change in log:
        again.apply([change])
    assert seen(again) == seen(one)
    assert again.values("category") == one.values("category")
    assert again.rows(list("abcdefgh")).tolist() == one.rows(list("abcdefgh")).tolist()


def test_rows_are_kept_and_new_ones_follow_in_order_of_appearance(place: Path) -> None:
    catalogue = LiveCatalogue(place)
    catalogue.apply([Change(table([FIRST[1] | {"item_id": id} for id in ("z", "c", "b")]))])
    assert catalogue.rows(["a", "c", "e", "z", "b", "none"]).tolist() == [0, 1, 2, 3, 4, NO_ITEM]
    assert catalogue.item_ids(np.array([4, 1, 3])) == ["b", "c", "z"]
    assert catalogue.fresh_hashes.tolist() == [id_hash("z"), id_hash("b")]
    assert catalogue.values("category") == ["hats", "shoes"]


def test_a_deleted_item_keeps_its_row_and_comes_back_there(place: Path) -> None:
    catalogue = LiveCatalogue(place)
    assert catalogue.alive is None
    version = catalogue.version
    catalogue.apply([Change(None, ("c", "never"))])
    assert catalogue.version > version
    assert catalogue.alive is not None
    assert catalogue.alive.tolist() == [True, False, True]
    assert len(catalogue) == 3
    catalogue.apply([Change(table([FIRST[1]]))])
    assert catalogue.alive.tolist() == [True, True, True]
    assert catalogue.row("c") == 1


def test_columns_that_the_generation_lacks_are_left_out_and_lacking_ones_are_missing(
    place: Path,
) -> None:
    catalogue = LiveCatalogue(place)
    strange = pa.table({"item_id": ["n"], "title": ["new"], "colour": ["red"], "price": ["dear"]})
    catalogue.apply([Change(strange)])
    (row,) = catalogue.take(np.array([3])).to_pylist()
    assert row == dict.fromkeys(SCHEMA.names) | {"item_id": "n", "title": "new"}


def test_many_changes_leave_one_version_of_each_item(place: Path) -> None:
    catalogue = LiveCatalogue(place)
    for price in range(500):
        catalogue.apply([Change(table([FIRST[0] | {"price": float(price)}]))])
    assert catalogue.numbers("price").tolist()[0] == 499
    assert catalogue.take(np.array([0, 2])).column("price").to_pylist() == [499, 3]
    assert len(catalogue._changed.table) < 200  # old versions are thrown away in time
