"""Cold items and those that come while it serves, against plain NumPy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recall
from features.tokens import write_tokens
from funnel.catalogue import write_catalogue
from funnel.config import parse
from funnel.generation import Generation, Manifest
from funnel.overlay import Change, LiveCatalogue
from funnel.types import Candidates, Filter, History, Query
from recall.delta import Delta
from recall.encoder import LSA
from recall.nearest import Nearest
from recall.neighbours import interest
from recall.new import HALF_LIFE, RECENT, New

N = 200
COLOURS = ["red", "blue", "green", "yellow"]
THINGS = ["shoes", "hats", "lamps", "chairs", "bikes"]
OLD = (0, 6)  # of every 20: red shoes and green hats
NEWEST = np.random.default_rng(2).permutation([n for n in range(N) if n % 20 not in OLD])
NEWEST = NEWEST[:60].astype(np.int32)
CONFIG = parse(
    {
        "data": {"filterable": ["price"], "categorical": [], "language": "en"},
        "scenes": {"all": {"recall": {"channels": {"new": {"limit": 500}}}}},
    }
)
CLICK, DISLIKE = (CONFIG.all_actions.index(name) for name in ("click", "dislike"))


def title(n: int) -> str:
    return f"{COLOURS[n % 4]} {THINGS[n % 5]} number {n}"


def table(numbers: list[int], titles: list[str] | None = None) -> pa.Table:
    return pa.table(
        {
            "item_id": [f"i{n:03}" for n in numbers],
            "title": titles or [title(n) for n in numbers],
            "price": [float(n) for n in numbers],
        }
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, items = tmp_path_factory.mktemp("new"), table(list(range(N)))
    write_catalogue(path / "items", items, [], [], ["price"])
    titles = items.column("title").to_pylist()
    write_tokens(path / "items", titles)
    for part in ("vector", "new"):
        (path / part).mkdir()
    encoder = LSA.train(titles, 16, 1)
    encoder.save(path / "vector/encoder")
    np.save(path / "vector/text.npy", encoder.encode(titles))
    np.save(path / "new/rows.npy", NEWEST)
    Manifest("g", 0, 0, CONFIG.all_actions, CONFIG.model_dump(mode="json")).write(path)
    return path


@dataclass
class Shop:
    items: LiveCatalogue
    parts: recall.Parts
    stage: Any

    @property
    def new(self) -> New:
        channel = self.parts.channels["new"]
        assert isinstance(channel, New)
        return channel

    def upsert(self, numbers: list[int], titles: list[str] | None = None) -> None:
        applied = self.items.apply([Change(table(numbers, titles))])
        self.parts.upsert(applied.rows, applied.items)

    def find(self, **query: Any) -> list[str]:
        found = self.stage.run(Query(scene="all", **query), Candidates.empty())
        return self.items.item_ids(found.rows)


@pytest.fixture
def shop(path: Path) -> Shop:
    generation = Generation.open(path, live=True)
    parts = recall.Parts.open(generation, CONFIG)
    assert isinstance(generation.items, LiveCatalogue)
    return Shop(generation.items, parts, recall.build(generation, CONFIG, "all", parts=parts))


def clicks(*rows: int, action: int = CLICK) -> History:
    codes = np.full(len(rows), action, np.int8)
    return History(np.array(rows, np.int32), codes, np.arange(len(rows)))


def test_cold_items_come_by_their_cosine_to_the_mean_of_the_history(shop: Shop) -> None:
    text, history = np.asarray(shop.new.text, float), clicks(3, 8, 11)
    wanted = sum(2 ** (-ago / HALF_LIFE) * text[row] for ago, row in enumerate((11, 8, 3)))
    wanted /= np.linalg.norm(wanted)
    mask = np.random.default_rng(4).random(N) < 0.6
    for allowed in (None, mask):
        cold = [row for row in sorted(NEWEST.tolist()) if allowed is None or allowed[row]]
        expected = sorted(cold, key=lambda row: (-np.float32(text[row] @ wanted).round(5), row))
        found = shop.new.find(Query(history=history), allowed, 12)
        np.testing.assert_allclose(found.scores, text[found.rows] @ wanted, atol=1e-6)
        assert set(found.rows[:8].tolist()) <= set(expected[:14])
        np.testing.assert_allclose(found.scores, text[expected[:12]] @ wanted, atol=2e-5)


def test_what_is_like_a_cold_item_may_not_be_itself(shop: Shop) -> None:
    about = int(NEWEST[0])
    found = shop.find(item=about)
    assert shop.items.item_id(about) not in found
    text = np.asarray(shop.new.text)
    scores = text[NEWEST[1:]] @ text[about]
    assert text[shop.items.row(found[0])] @ text[about] == pytest.approx(scores.max(), abs=1e-6)


@pytest.mark.parametrize("history", [History(), clicks(3, 8, action=DISLIKE)], ids=["none", "bad"])
def test_without_a_profile_the_newest_come_first(shop: Shop, history: History) -> None:
    assert shop.new.find(Query(history=history), None, 500).rows.tolist() == NEWEST.tolist()
    shop.upsert([900, 901])
    for mask in (None, np.ones(N + 2, bool)):
        found = shop.new.find(Query(history=history), mask, 500)
        assert found.rows.tolist() == [N + 1, N, *NEWEST.tolist()]
        assert (np.diff(found.scores) < 0).all()


def test_a_typed_query_is_left_to_words_and_vectors(shop: Shop) -> None:
    assert shop.find(text="red shoes", history=clicks(3)) == []


def test_an_item_that_came_just_now_is_found_at_once_and_a_deleted_one_never(shop: Shop) -> None:
    history = clicks(0, 20, 40)  # red shoes
    shop.upsert([900, 901], ["red shoes number 0", "yellow bikes"])
    assert shop.find(history=history)[0] == "i900"
    assert shop.find()[:2] == ["i901", "i900"]
    assert shop.find(item=N)[0] not in ("i900", "i901")
    assert "i901" not in shop.find(filters=(Filter("price", high=900),))
    shop.items.apply([Change(None, ("i900",))])
    assert "i900" not in shop.find(history=history) + shop.find()
    shop.upsert([900], ["green hats"])  # back, as something else
    assert shop.find(history=history)[0] != "i900"
    assert shop.find(history=clicks(26, 46, 66))[0] == "i900"


def test_a_cold_item_that_changes_is_found_by_what_it_is_now(shop: Shop) -> None:
    row = int(next(row for row in NEWEST if row % 20 == 7))  # yellow lamps
    shop.upsert([row], ["red shoes number 0"])
    assert shop.find(history=clicks(0, 20, 40))[0] == f"i{row:03}"
    assert len(shop.find()) == len(NEWEST)


def test_an_item_that_is_not_new_does_not_become_so_by_changing(shop: Shop) -> None:
    old = next(row for row in range(N) if row not in NEWEST)
    shop.upsert([old])
    assert f"i{old:03}" not in shop.find() + shop.find(history=clicks(old))


@settings(max_examples=60, deadline=None)
@given(
    cold=st.sets(st.integers(0, 9)),
    writes=st.lists(st.lists(st.integers(0, 14), min_size=1, max_size=4), max_size=4),
    asked=st.lists(st.integers(0, 14), min_size=1, max_size=5),
    mask=st.none() | st.lists(st.booleans(), min_size=15, max_size=15),
)
def test_any_writes_leave_what_a_dictionary_holds(
    path: Path,
    cold: set[int],
    writes: list[list[int]],
    asked: list[int],
    mask: list[bool] | None,
) -> None:
    """Ten rows of the generation, some of them cold, and five that may come."""
    opened = New.open(Generation.open(path), CONFIG)
    assert opened is not None
    newest = np.array(sorted(cold, reverse=True), np.int32)
    few = small(opened, newest)
    known = {row: few.text[row] for row in cold}
    count = 0
    for batch in writes:
        titles = [title(37 * count + place) for place in range(len(batch))]
        count += len(batch)
        few.upsert(np.array(batch, np.int32), table(list(range(len(batch))), titles))
        made = dict(zip(batch, few.encoder.encode(titles), strict=True))  # the last one holds
        known |= {row: vector for row, vector in made.items() if row in cold or row >= 10}
    zero = np.zeros(16)
    of = {row: known.get(row, few.text[row] if row < 10 else zero) for row in asked}
    votes = np.exp2(-np.arange(len(asked))[::-1] / HALF_LIFE)
    wanted = sum(vote * of[row] for vote, row in zip(votes, asked, strict=True))
    allowed = None if mask is None else np.array(mask)
    found = few.find(Query(history=clicks(*asked)), allowed, 15)
    if not np.any(wanted):
        return
    scores = {row: v @ wanted / np.linalg.norm(wanted) for row, v in known.items()}
    expected = {
        row: score
        for row, score in scores.items()
        if (mask is None or mask[row]) and np.any(known[row])
    }
    got = dict(zip(found.rows.tolist(), found.scores.tolist(), strict=True))
    for row in set(expected) ^ set(got):  # a product of exactly 0 is not found
        assert abs(expected.get(row, 0.0)) < 1e-6
    for row in set(expected) & set(got):
        assert got[row] == pytest.approx(expected[row], abs=1e-5)


def small(opened: New, newest: np.ndarray) -> New:
    cold, text = np.sort(newest), np.asarray(opened.text[:10])
    base = Delta(Nearest(text[cold], None, CONFIG.vectors))
    return replace(opened, newest=newest, cold=cold, text=text, places=base)


def test_only_the_newest_actions_are_the_taste() -> None:
    rows, weights = interest(clicks(*range(99)), np.ones(20), HALF_LIFE, RECENT)
    assert len(rows) == RECENT
    assert weights.min() < 2e-5
