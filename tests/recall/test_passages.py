"""One passage a document, against the same with a dictionary; through the stage and the pages."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recall
from features.event import UserHistory
from funnel.catalogue import write_catalogue
from funnel.config import parse
from funnel.gateway import Gateway, Serving
from funnel.generation import Generation, Manifest
from funnel.overlay import Change, LiveCatalogue
from funnel.page import Ask, Page, Passage
from funnel.passages import passages, representatives
from funnel.pipeline import pipeline
from funnel.stage import Cut, Select
from funnel.types import Candidates
from recall.bm25 import write_index
from recall.passages import Documents
from recall.popular import Popular

CONFIG = parse({"scenes": {"search": {"limit": 2, "recall": {"keep": 6}}}})
PARTS = 3  # passages of each of the documents d0 … d4, which are items too; and items of their own
DOCUMENTS = 5


def table() -> pa.Table:
    items = []
    for d in range(DOCUMENTS):
        items.append({"item_id": f"d{d}", "title": f"Book {d}"})
        for p in range(PARTS):
            text = f"tea page {p} " + "tea " * (d + p)
            part = {"item_id": f"d{d}#{p}", "title": f"Book {d}", "description": text}
            items.append(
                part | {"parent_id": f"d{d}", "start": 100 * p, "end": 100 * p + len(text)}
            )
    items += [{"item_id": f"x{n}", "title": f"tea {n}"} for n in range(3)]
    names = ("item_id", "title", "description", "parent_id", "start", "end")
    return pa.table({name: [item.get(name) for item in items] for name in names})


def written(path: Path) -> Generation:
    write_catalogue(path / "items", table(), ["parent_id"], [], [])
    config = CONFIG.model_dump(mode="json")
    Manifest("g1", until=0, past=0, actions=CONFIG.all_actions, config=config).write(path)
    opened = Generation.open(path)
    write_index(path / "bm25", opened.items, CONFIG)
    return Generation.open(path, live=True)


@pytest.fixture
def generation(tmp_path: Path) -> Generation:
    return written(tmp_path)


class Nobody:
    def user(self, user_id: str) -> UserHistory:
        return UserHistory()


def page(generation: Generation, ask: Ask) -> Page:
    scene = CONFIG.scenes["search"]
    stages = {
        "recall": recall.build(generation, CONFIG, "search"),
        "prerank": Cut(300),
        "rank": Cut(50),
        "rerank": Select([]),
    }
    funnel = pipeline(stages, scene, Popular.open(generation, CONFIG))
    with ThreadPoolExecutor(2) as pool:
        gateway = Gateway(CONFIG, Serving(generation, {"search": funnel}), Nobody(), pool)
        return gateway.page(ask)


def document(item_id: str) -> str:
    return item_id.split("#")[0]


KEPT: dict[str, Generation] = {}


@settings(deadline=None)
@given(st.permutations(range(DOCUMENTS * (PARTS + 1) + 3)), st.integers(0, 23))
def test_the_first_of_every_document_stays_in_its_place(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], count: int
) -> None:
    if "one" not in KEPT:
        KEPT["one"] = written(tmp_path_factory.mktemp("passages"))
    generation = KEPT["one"]
    documents = Documents.open(generation)
    assert documents is not None
    rows = np.array(order[:count], np.int32)
    found = documents.once(Candidates(rows, np.zeros(count, np.float32)))
    expected: dict[str, int] = {}
    for row in rows.tolist():
        expected.setdefault(document(generation.items.item_id(row)), row)
    assert found.rows.tolist() == list(expected.values())


def test_pages_have_every_document_once_and_the_cut_keeps_documents(generation: Generation) -> None:
    seen, cursor = [], ""
    for _ in range(10):
        found = page(generation, Ask("search", text="tea page", cursor=cursor))
        assert found.total <= 6
        seen += [hit.item_id for hit in found.hits]
        cursor = found.cursor
        if not cursor:
            break
    assert len({document(item_id) for item_id in seen}) == len(seen)
    assert len(seen) == DOCUMENTS + 3 - 1 or len(seen) == DOCUMENTS + 3
    assert all("#" in item_id for item_id in seen if item_id.startswith("d"))


def test_a_hit_carries_its_passage_with_what_is_around_it(generation: Generation) -> None:
    found = page(generation, Ask("search", text="page 1"))
    hit = found.hits[0]
    assert hit.passage is not None
    d = hit.passage.parent_id
    assert hit.item_id == hit.passage.passage_id == f"{d}#1"
    assert (hit.passage.start, hit.passage.end) == (100, 100 + len(hit.passage.text))
    assert [part.passage_id for part in hit.passage.before] == [f"{d}#0"]
    assert [part.passage_id for part in hit.passage.after] == [f"{d}#2"]


def test_a_passage_that_is_gone_leaves_the_next_best_one(generation: Generation) -> None:
    first = page(generation, Ask("search", text="page")).hits[0]
    assert isinstance(generation.items, LiveCatalogue)
    generation.items.apply([Change(deleted=(first.item_id,))])
    again = page(generation, Ask("search", text="page", limit=6))
    same = [hit for hit in again.hits if document(hit.item_id) == document(first.item_id)]
    assert len(same) == 1
    assert same[0].item_id != first.item_id
    assert same[0].passage is not None
    around = (*same[0].passage.before, *same[0].passage.after)
    assert first.item_id not in {part.passage_id for part in around}


def test_what_is_blocked_takes_its_document_along(generation: Generation) -> None:
    found = page(generation, Ask("search", text="tea page", blocked=("d1#2",)))
    assert all(document(hit.item_id) != "d1" for hit in found.hits)


def test_neighbours_are_as_many_as_asked_for_and_of_the_document_only(
    generation: Generation,
) -> None:
    rows = generation.items.rows(["d2#0", "x1", "d2#2", "d2"])
    first, none, last, whole = passages(rows, generation.items, 5)
    assert none is whole is None
    assert isinstance(first, Passage)
    assert [part.passage_id for part in first.after] == ["d2#1", "d2#2"]
    assert first.before == ()
    assert last is not None
    assert [part.passage_id for part in last.before] == ["d2#0", "d2#1"]
    assert passages(rows, generation.items, 0)[0] == Passage("d2#0", "d2", 0, first.end, first.text)


def test_every_passage_stands_for_its_document(generation: Generation) -> None:
    ids = ["d3#2", "d3#0", "x1", "d3#1"]
    found = representatives(generation.items.rows(ids), generation.items)
    assert generation.items.item_ids(found) == ["d3#0", "d3#0", "x1", "d3#0"]
