"""The caller's order against `sorted`, and what a next page may have."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from funnel.catalogue import Catalogue, write_catalogue
from funnel.config import parse
from funnel.errors import BadQuery
from funnel.sort import Sorted, checked, onwards, restored
from funnel.types import AnyOf, Candidates, Filter, Not, Query

PRICES = [3.0, None, 1.0, 3.0, 2.0, None, 3.0, 0.5]


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    path: Path = tmp_path_factory.mktemp("sort") / "items"
    names = [f"i{n}" for n in range(len(PRICES))]
    table = pa.table({"item_id": names, "title": names, "price": PRICES, "brand": names})
    write_catalogue(path, table, ["brand"], [], ["price"])
    return Catalogue(path)


@pytest.mark.parametrize("sort", ["price", "-price"])
def test_the_order_is_that_of_sorted_with_ties_by_relevance_and_row(
    items: Catalogue, sort: str
) -> None:
    rows, scores = np.arange(8, dtype=np.int32), np.array([1, 5, 2, 4, 3, 6, 4, 1], np.float32)
    shuffled = np.random.default_rng(1).permutation(8)
    found = Sorted(items).run(Query(sort=sort), Candidates(rows[shuffled], scores[shuffled]))
    sign = -1 if sort.startswith("-") else 1

    def key(row: int) -> tuple[bool, float, float, int]:
        price = PRICES[row]
        return price is None, sign * (price or 0.0), -scores[row], row

    assert found.rows.tolist() == sorted(range(8), key=key)
    assert found.top(8).rows.tolist() == found.rows.tolist()  # a later cut keeps the order
    assert restored(found).scores.tolist() == scores[found.rows].tolist()
    assert "relevance" not in restored(found).columns


def test_items_that_are_not_known_here_come_last(items: Catalogue) -> None:
    rows = np.array([99, 2, 0], np.int32)
    found = Sorted(items).run(Query(sort="price"), Candidates(rows, np.ones(3, np.float32)))
    assert found.rows.tolist() == [2, 0, 99]


def test_a_search_orders_what_has_its_words(items: Catalogue) -> None:
    rows = np.arange(4, dtype=np.int32)
    words = np.array([2.0, np.nan, 1.0, np.nan], np.float32)
    found = Candidates(rows, np.ones(4, np.float32), {"recall.bm25": words})
    asked = Query(sort="price", text="tea")
    assert Sorted(items).run(asked, found).rows.tolist() == [2, 0]
    none = Candidates(rows, np.ones(4, np.float32), {"recall.bm25": np.full(4, np.nan)})
    assert len(Sorted(items).run(asked, none)) == 4
    assert len(Sorted(items).run(Query(sort="price"), found)) == 4


def test_only_numbers_that_may_be_filtered_on_can_be_sorted_by(items: Catalogue) -> None:
    config = parse({})
    assert checked("-price", items, config) == "-price"
    assert checked("", items, config) == ""
    for sort in ("brand", "title", "--price", "created_at"):
        with pytest.raises(BadQuery, match=rf"cannot sort by '{sort}'; here one can by price"):
            checked(sort, items, config)


def test_a_next_page_has_what_is_at_or_after_the_last_item(items: Catalogue) -> None:
    missing = Not(Filter("price", low=-math.inf))
    assert onwards("price", 4, items) == AnyOf((Filter("price", low=2.0), missing))
    assert onwards("-price", 4, items) == AnyOf((Filter("price", high=2.0), missing))
    assert onwards("price", 1, items) == missing
