"""Ten thousand upserts, deletes and filtered searches against a dict of items."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import recall
from features.tokens import write_tokens
from funnel.catalogue import write_catalogue
from funnel.config import parse
from funnel.generation import Generation, Manifest
from funnel.overlay import Change, LiveCatalogue
from funnel.types import Candidates, Filter, History, Query
from recall.bm25 import write_index
from recall.channel import before

WORDS = [f"word{n}" for n in range(12)]
CATEGORIES = [None, "shoes", "shoes/running", "hats", "hats/felt", "shoestring"]
TAGS = ["new", "old", "sale", "rare"]
SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("category", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("price", pa.float64()),
        ("available", pa.bool_()),
    ]
)
CONFIG = parse(
    {
        "data": {
            "multi": ["tags"],
            "categorical": ["category"],
            "filterable": ["category", "price", "tags", "available"],
            "language": "none",
        },
        "scenes": {
            name: {"recall": {"channels": {"bm25": {"limit": 5000 if name == "search" else 0}}}}
            for name in ("search",)
        },
    }
)
Item = dict[str, Any]


def item(draw: np.random.Generator, id: str) -> Item:
    # Later items have categories and tags that the generation never saw.
    later = f"late{draw.integers(5)}"
    return {
        "item_id": id,
        "title": " ".join(draw.choice(WORDS, draw.integers(0, 4))),
        "category": str(draw.choice([later, "hats"])) if draw.random() < 0.2 else _pick(draw),
        "tags": [str(tag) for tag in draw.choice([*TAGS, later], draw.integers(0, 3), False)],
        "price": float(draw.integers(100)) if draw.random() < 0.9 else None,
        "available": bool(draw.random() < 0.9) if draw.random() < 0.9 else None,
    }


def _pick(draw: np.random.Generator) -> str | None:
    return CATEGORIES[draw.integers(len(CATEGORIES))]


def condition(draw: np.random.Generator) -> Filter:
    exclude = bool(draw.random() < 0.3)
    kind = draw.integers(3)
    if kind == 0:
        low = float(draw.integers(100))
        return Filter("price", low=low, high=low + 30, exclude=exclude)
    if kind == 1:
        values = (str(draw.choice(["shoes", "hats", "hats/felt", "late1", "none"])),)
        return Filter("category", values, exclude=exclude)
    return Filter("tags", tuple(str(t) for t in draw.choice([*TAGS, "late3"], 2)), exclude=exclude)


def holds(item: Item, condition: Filter) -> bool:
    value = item[condition.attribute]
    if condition.attribute == "price":
        found = value is not None and condition.low <= value <= condition.high
    else:
        own = value if isinstance(value, list) else [value] if value else []
        found = any(o == v or o.startswith(v + "/") for o in own for v in condition.any_of)
    return found != condition.exclude


@dataclass
class Shop:
    items: LiveCatalogue
    parts: recall.Parts
    stage: Any
    oracle: dict[str, Item]
    held: list[Change] = field(default_factory=list)

    def apply(self) -> None:
        applied = self.items.apply(self.held)
        self.parts.upsert(applied.rows, applied.items)
        self.held = []

    def search(self, query: Query) -> list[str]:
        found = self.stage.run(query, Candidates.empty()).rows
        assert len(np.unique(found)) == len(found)
        return sorted(self.items.item_ids(found))


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    draw = np.random.default_rng(1)
    first = [item(draw, f"i{n:03}") for n in range(150)]
    for one in first:
        one["tags"] = [tag for tag in one["tags"] if tag in TAGS]
        one["category"] = one["category"] if one["category"] in CATEGORIES else None
    table = pa.Table.from_pylist(first, SCHEMA)
    write_catalogue(tmp_path / "items", table, ["category"], ["tags"], ["price", "available"])
    write_tokens(tmp_path / "items", [one["title"] for one in first])
    Manifest("g", 0, 0, CONFIG.all_actions, CONFIG.model_dump(mode="json")).write(tmp_path)
    generation = Generation.open(tmp_path, live=True)
    (tmp_path / "bm25").mkdir()
    write_index(tmp_path / "bm25", generation.items, CONFIG)
    parts = recall.Parts.open(generation, CONFIG)
    stage = recall.build(generation, CONFIG, "search", parts=parts)
    assert isinstance(generation.items, LiveCatalogue)
    return Shop(generation.items, parts, stage, {one["item_id"]: one for one in first})


def test_ten_thousand_operations_return_exactly_the_allowed_items(shop: Shop) -> None:
    draw, searches, found = np.random.default_rng(2), 0, 0
    for _ in range(10_000):
        what, id = draw.random(), f"i{draw.integers(400):03}"
        if what < 0.6:
            shop.oracle[id] = item(draw, id)
            shop.held.append(Change(pa.Table.from_pylist([shop.oracle[id]], SCHEMA)))
        elif what < 0.9:
            shop.oracle.pop(id, None)
            shop.held.append(Change(None, (id,)))
        else:
            shop.apply()
            words = {str(word) for word in draw.choice(WORDS, 2)}
            filters = tuple(condition(draw) for _ in range(draw.integers(3)))
            about = shop.items.row(id)
            query = Query(scene="search", text=" ".join(words), filters=filters, item=about)
            expected = sorted(
                one["item_id"]
                for one in shop.oracle.values()
                if words & set(one["title"].split())
                and one["available"] is not False
                and all(holds(one, condition) for condition in filters)
                and one["item_id"] != id
            )
            assert shop.search(query) == expected
            assert shop.search(query) == expected
            searches, found = searches + 1, found + len(expected)
    assert searches > 900
    assert found > 10_000


def test_searches_go_on_while_items_come_and_go(shop: Shop) -> None:
    """A writer renames all of the items again and again; each search sees one name, whole."""
    ended = threading.Event()
    failed: list[BaseException] = []

    def write() -> None:
        draw = np.random.default_rng(4)
        try:
            for turn in range(60):
                rows = [item(draw, f"i{n:03}") for n in draw.integers(0, 600, 40)]
                shop.held.append(Change(pa.Table.from_pylist(rows, SCHEMA)))
                shop.held.append(Change(None, tuple(f"i{n:03}" for n in range(turn, 600, 50))))
                shop.apply()
        except BaseException as error:
            failed.append(error)
        finally:
            ended.set()

    def read() -> None:
        cheap = Filter("price", low=0, high=50)
        try:
            while not ended.is_set():
                query = Query(scene="search", text="word1 word2 word3", filters=(cheap,))
                shop.search(query)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)] + [threading.Thread(target=write)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_channels_of_the_generation_alone_are_not_asked_about_newer_rows() -> None:
    done = History(np.array([4, 12, 7], np.int32), np.ones(3, np.int8), np.array([1, 2, 3]))
    assert before(Query(history=done, item=3), 10).history.rows.tolist() == [4, 7]
    assert before(Query(history=done, item=3), 10).history.times.tolist() == [1, 3]
    newer = before(Query(history=done, item=12), 10)
    assert (newer.item, len(newer.history)) == (-1, 0)
    query = Query(history=done)
    assert before(query, 13) is query
