"""Popular items by category against the formula written out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from funnel.catalogue import write_catalogue
from funnel.config import Config, parse
from funnel.generation import Generation, Manifest
from funnel.types import All, AnyOf, Array, Filter, History, Query
from recall.categories import Categories, first_parts
from recall.popular import HALF_LIFE, Popular

N = 120
PATHS = ["shoes/running", "shoes/hiking/winter", "shoes/hiking", "hats", "lamps/desk", None]
PATH = [PATHS[n % 6] for n in range(N)]
TAGS = [[f"t{n % 3}", f"t{n % 4}/x"] if n % 5 else None for n in range(N)]
SCORES = np.where(np.arange(N) % 4 == 0, 0, np.random.default_rng(1).permutation(N)).astype(
    np.float32
)


def config(own: float) -> Config:
    return parse(
        {"popular": {"own": own}, "data": {"categorical": ["category"], "multi": ["tags"]}}
    )


CLICK = config(0).all_actions.index("click")


def generation(path: Path, by: str, keep: int) -> Generation:
    items = pa.table(
        {
            "item_id": [f"i{n:03}" for n in range(N)],
            "title": ["a"] * N,
            "category": PATH,
            "tags": pa.array(TAGS),
        }
    )
    write_catalogue(path / "items", items, ["category"], ["tags"], [])
    table = config(0).model_dump(mode="json")
    Manifest("g", 0, 0, config(0).all_actions, table).write(path)
    (path / "popular").mkdir()
    order = np.argsort(-SCORES, kind="stable")[:40]
    np.save(path / "popular/rows.npy", order.astype(np.int32))
    np.save(path / "popular/scores.npy", SCORES[order])
    opened = Generation.open(path)
    made = Categories.of(opened.items, by, SCORES, keep)
    assert made is not None
    made.write(path / "popular/lists")
    return opened


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    return generation(tmp_path_factory.mktemp("popular"), "category", 7)


def own(row: int) -> list[str]:
    """The names of the lists of an item: its path, and its first part where others have it too."""
    path = PATH[row]
    if path is None:
        return []
    return [path, "shoes/"] if path.startswith("shoes") else [path]


def inside(name: str) -> list[int]:
    return [row for row in range(N) if name in own(row)]


def clicks(*rows: int) -> History:
    codes = np.full(len(rows), CLICK, np.int8)
    return History(np.array(rows, np.int32), codes, np.arange(len(rows)))


def naive(shares: dict[str, float], part: float, keep: int) -> dict[int, float]:
    """Every item's score, where only the first `keep` of a category count as in it."""
    total = sum(shares.values())
    best = {
        name: sorted(inside(name), key=lambda row: (-SCORES[row], row))[:keep] for name in shares
    }
    sums = {name: sum(SCORES[row] for row in inside(name)) for name in shares}
    return {
        row: float(SCORES[row])
        * (
            1
            - part
            + part
            * sum(
                share / total * SCORES.sum() / sums[name]
                for name, share in shares.items()
                if row in best[name]
            )
        )
        for row in range(N)
    }


def compared(
    channel: Popular, query: Query, expected: dict[int, float], mask: Array | None
) -> None:
    found = channel.find(query, mask, 15)
    allowed = [row for row in expected if mask is None or mask[row]]
    ranked = sorted(allowed, key=lambda row: (-np.float32(expected[row]), row))[:15]
    assert found.rows.tolist() == ranked
    np.testing.assert_allclose(found.scores, [expected[row] for row in ranked], rtol=1e-5)


@pytest.mark.parametrize("part", [0.4, 1.0])
@pytest.mark.parametrize("keep", [7, N])
def test_the_users_categories_count_as_they_chose_them_lately(
    tmp_path: Path, part: float, keep: int
) -> None:
    channel = Popular.open(generation(tmp_path, "category", keep), config(part))
    history = [0, 5, 3, 1]  # running, nothing, hats, hiking in winter
    shares: dict[str, float] = {}
    for ago, row in enumerate(reversed(history)):
        for name in own(row):
            shares[name] = shares.get(name, 0) + 2 ** (-ago / HALF_LIFE) / len(own(row))
    expected = naive(shares, part, keep)
    channel = replace(channel, rows=np.argsort(-SCORES, kind="stable").astype(np.int32))
    channel = replace(channel, scores=SCORES[channel.rows])
    mask = np.random.default_rng(2).random(N) < 0.7
    mask &= np.array([score > 0 for score in expected.values()])
    compared(channel, Query(history=clicks(*history)), expected, mask)


def test_an_item_that_is_asked_about_stands_for_its_own_category(opened: Generation) -> None:
    channel = Popular.open(opened, config(1.0))
    found = channel.find(Query(item=9, history=clicks(0)), None, 7)  # a hat
    assert found.rows.tolist() == sorted(inside("hats"), key=lambda row: -SCORES[row])[:7]


@pytest.mark.parametrize("part", [0.0, 0.5])
@pytest.mark.parametrize("query", [Query(), Query(item=5), Query(history=clicks(5, 11))])
def test_where_no_category_is_implied_all_are_served_alike(
    opened: Generation, part: float, query: Query
) -> None:
    channel = Popular.open(opened, config(part))
    found = channel.find(query, None, 40)
    assert found.rows.tolist() == channel.rows.tolist()
    assert found.scores.tolist() == channel.scores.tolist()


def test_where_categories_do_not_count_a_history_changes_nothing(opened: Generation) -> None:
    channel = Popular.open(opened, config(0.0))
    found = channel.find(Query(history=clicks(0, 3)), None, 40)
    assert found.rows.tolist() == channel.rows.tolist()


@pytest.mark.parametrize("value", ["hats", "shoes", "shoes/hiking", "shoes/running", "no", "lamps"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_filter_finds_what_is_popular_in_it_beyond_the_first_of_all(
    opened: Generation, value: str, wrapped: bool
) -> None:
    channel = Popular.open(opened, config(0.0))
    channel = replace(channel, rows=channel.rows[:3], scores=channel.scores[:3])
    mask = np.array([path == value or (path or "").startswith(value + "/") for path in PATH])
    condition: Any = Filter("category", (value,))
    filters = (All((condition,)),) if wrapped else (condition,)
    found = channel.find(Query(filters=filters), mask, 7)
    best = sorted(np.flatnonzero(mask), key=lambda row: (-SCORES[row], row))[:7]
    assert found.rows.tolist() == best
    assert found.scores.tolist() == SCORES[best].tolist()


@pytest.mark.parametrize(
    "condition",
    [
        Filter("category", ("hats",), exclude=True),
        Filter("tags", ("t1",)),
        AnyOf((Filter("category", ("hats",)),)),
    ],
)
def test_what_names_no_category_to_keep_implies_none(opened: Generation, condition: Any) -> None:
    channel = Popular.open(opened, config(0.5))
    lists, _ = channel.implied(Query(filters=(condition,)), channel.lists)
    assert len(lists) == 0


def test_items_with_more_than_one_value_are_in_each_list_once(tmp_path: Path) -> None:
    opened = generation(tmp_path, "tags", N)
    lists = Categories.open(opened)
    assert lists is not None
    known = opened.items.values("tags")
    assert known == ["t0", "t0/x", "t1", "t1/x", "t2", "t2/x", "t3/x"]
    assert lists.tops.tolist() == [7, 7, 8, 8, 9, 9, 6]
    for top, name in ((7, "t0"), (6, "t3")):
        rows = [n for n in range(N) if any(tag.startswith(name) for tag in TAGS[n] or ())]
        wanted = sorted((row for row in rows if SCORES[row]), key=lambda row: (-SCORES[row], row))
        assert lists.entries(np.array([top]))[1].tolist() == wanted
        assert lists.totals[top] == pytest.approx(SCORES[rows].sum())
    shares = lists.shares(opened.items, np.array([1, 5, 13]), np.array([1.0, 1.0, 2.0]))
    expected = np.zeros(10)
    expected[[2, 8, 3]] += 1 / 3  # 1: t1, t1/x
    expected[[2, 8, 3]] += 2 / 3  # 13: t1, t1/x; 5 has none
    np.testing.assert_allclose(shares, expected / 3)


def test_paths_that_share_their_first_part_share_a_list() -> None:
    assert first_parts(["a/x", "a/y", "b/z", "c", "d", "d/e"]).tolist() == [6, 6, 2, 3, 7, 7]
    assert first_parts([]).tolist() == []


def test_a_generation_without_lists_serves_as_it_did(opened: Generation, tmp_path: Path) -> None:
    (tmp_path / "items").symlink_to(opened.path / "items")
    (tmp_path / "popular").mkdir()
    for name in ("rows", "scores"):
        np.save(tmp_path / f"popular/{name}.npy", opened.array(f"popular/{name}"))
    channel = Popular.open(Generation(tmp_path, opened.manifest), config(1.0))
    assert channel.lists is None
    found = channel.find(Query(history=clicks(0, 3)), None, 40)
    assert found.rows.tolist() == channel.rows.tolist()


def test_a_catalogue_without_the_column_has_no_lists(opened: Generation) -> None:
    assert Categories.of(opened.items, "brand", SCORES, 5) is None
    assert Categories.of(opened.items, "", SCORES, 5) is None
