"""Suggestions: what begins so, what was meant, and what must not be said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funnel.catalogue import write_catalogue
from funnel.config import parse
from funnel.errors import BadQuery
from funnel.generation import Generation, Manifest
from recall.suggest import STARTS, Suggest, key, write_suggest

TITLES = ["Red Running Shoe", "Blue Shoe", "Café Table", "Red Hat", "红色跑步鞋", "Blue Shoe"]
QUERIES = [("running shoes", 12), ("red dress", 40), ("shoe rack", 3)]


def opened(
    path: Path, titles: list[str], queries: list[tuple[str, int]], **more: object
) -> Suggest:
    ids = [f"i{n:03}" for n in range(len(titles))]
    items = pa.table({"item_id": ids, "title": pa.array(titles, pa.string()), **more})
    write_catalogue(path / "items", items, [], [], list(more))
    table = parse({}).model_dump(mode="json")
    Manifest("g", until=0, past=0, actions=(), config=table).write(path)
    write_suggest(path / "suggest", titles, np.arange(len(titles))[::-1], queries)
    found = Suggest.open(Generation.open(path))
    assert found is not None
    return found


@pytest.fixture
def suggest(tmp_path: Path) -> Suggest:
    return opened(tmp_path, TITLES, QUERIES)


def said(found: Suggest, prefix: str, limit: int = 10) -> list[str]:
    return [one.text for one in found.complete(prefix, limit)]


def test_past_queries_come_first_then_titles_by_how_wanted_they_are(suggest: Suggest) -> None:
    assert said(suggest, "red") == ["red dress", "Red Running Shoe", "Red Hat"]
    assert said(suggest, "RED  d") == ["red dress"]
    assert said(suggest, "shoe") == ["running shoes", "shoe rack", "Red Running Shoe", "Blue Shoe"]
    assert said(suggest, "cafe") == ["Café Table"]
    assert said(suggest, "紅色") == ["红色跑步鞋"]
    assert said(suggest, "red", 1) == ["red dress"]
    assert said(suggest, "  ") == said(suggest, "zzzz") == []


def test_what_was_mistyped_is_said_as_it_was_meant(suggest: Suggest) -> None:
    found = suggest.complete("runing sho")
    assert [one.text for one in found] == ["running shoes", "Red Running Shoe"]
    assert all(one.corrected for one in found)
    assert suggest.corrected("bleu shoe") == "blue shoe"
    assert suggest.corrected("blue shoe") == "blue shoe"
    assert not any(one.corrected for one in suggest.complete("blue"))


def test_an_item_that_is_gone_is_not_suggested_and_a_new_one_is(tmp_path: Path) -> None:
    suggest = opened(tmp_path, TITLES, [], available=[False, True, True, True, True, True])
    assert said(suggest, "red") == ["Red Hat"]
    suggest.upsert(np.array([3, 9], np.int32), pa.table({"title": ["Green Hat", "Red Lamp"]}))
    assert said(suggest, "red") == ["Red Lamp"]
    assert said(suggest, "green") == ["Green Hat"]
    allowed = np.ones(9, bool)
    assert [one.text for one in suggest.complete("red", 5, allowed)] == ["Red Running Shoe"]


def test_too_much_is_the_callers_fault(suggest: Suggest) -> None:
    with pytest.raises(BadQuery, match="limit = 1000"):
        suggest.complete("a", 1000)
    with pytest.raises(BadQuery, match="300 characters"):
        suggest.complete("a" * 300)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text("ab é", min_size=1, max_size=8), max_size=12), st.text("abé", max_size=3))
def test_every_text_with_a_word_that_begins_so_is_found(
    tmp_path_factory: pytest.TempPathFactory, titles: list[str], prefix: str
) -> None:
    suggest = opened(tmp_path_factory.mktemp("suggest"), titles, [])
    expected = {
        title
        for title in titles
        for n in range(STARTS)
        if prefix and " ".join(key(title).split()[n:]).startswith(key(prefix)) and key(title)
    }
    found = suggest.complete(prefix, 50)
    assert {one.text for one in found if not one.corrected} == expected
