"""Neighbour lists against the formula written out over Python dictionaries."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from funnel.config import Behaviour, parse
from jobs import events, item_cf, items
from jobs.work import Work

START, DAY = 1_700_000_000_000, 86_400_000
CONFIG = {
    "data": {"positive": {"click": 1.0, "cart": 3.0}},
    "build": {"holdout": 0.2, "sample_share": 0.3},
}
Events = list[dict[str, Any]]


@pytest.fixture(scope="module")
def log() -> Events:
    """Random events of nine of the twelve items; the last user looked but wanted nothing."""
    draw = np.random.default_rng(3)
    actions = ("impression", "click", "cart", "dislike")
    made = [
        {
            "event_id": f"e{n}",
            "user_id": f"u{draw.integers(12)}",
            "item_id": f"i{draw.integers(9):02d}",
            "action": str(draw.choice(actions)),
            "timestamp": START + int(draw.integers(90 * DAY)),
        }
        for n in range(300)
    ]
    return [*made, {**made[0], "event_id": "x", "user_id": "looker", "action": "impression"}]


@pytest.fixture(scope="module")
def work(
    opened: Callable[..., Work], data_set: Callable[..., Path], goods: object, log: Events
) -> Work:
    work = opened(data_set(items=goods, events=log), CONFIG)
    prepare(work)
    assert item_cf.run(work)["neighbours"] > 0
    return work


def prepare(work: Work) -> None:
    items.run(work)
    events.run(work)


def naive(log: Events, cut: int) -> dict[int, dict[int, float]]:
    """item -> other -> weight, by the formula of the job."""
    last: dict[str, dict[int, int]] = {}
    for event in log:
        if event["action"] in ("click", "cart") and event["timestamp"] < cut:
            own = last.setdefault(event["user_id"], {})
            row = int(event["item_id"][1:])
            own[row] = max(own.get(row, 0), event["timestamp"])
    fame = {row: sum(row in own for own in last.values()) for own in last.values() for row in own}
    weights: dict[int, dict[int, float]] = {}
    for own in last.values():
        for a, b in permutations(own, 2):
            gap_days = abs(own[a] - own[b]) / DAY
            vote = 0.5 ** (gap_days / 30) / math.log(1 + len(own))
            of = weights.setdefault(a, {})
            of[b] = of.get(b, 0.0) + vote / math.sqrt((fame[a] + 20) * (fame[b] + 20))
    return weights


@pytest.mark.parametrize("which", [0, 1], ids=["past", "until"])
def test_the_lists_are_those_of_the_formula(work: Work, log: Events, which: int) -> None:
    draft, cut = work.drafts[which]
    indptr, indices, weights = (
        np.load(draft / f"item_cf/{name}.npy") for name in ("indptr", "indices", "weights")
    )
    assert (indptr.dtype, indices.dtype, weights.dtype) == (np.int64, np.int32, np.float32)
    assert indptr.shape == (13,)
    expected = naive(log, cut)
    for row in range(12):
        span = slice(indptr[row], indptr[row + 1])
        found = dict(zip(indices[span].tolist(), weights[span].tolist(), strict=True))
        assert found == pytest.approx(expected.get(row, {}), rel=1e-5)
        assert weights[span].tolist() == sorted(found.values(), reverse=True)


def frame(spark: SparkSession, wants: list[tuple[str, int, int]]) -> Any:
    return spark.createDataFrame(wants, "user_id string, row int, time long")


def test_only_the_best_neighbours_are_kept_and_ties_go_to_the_lower_row(
    spark: SparkSession,
) -> None:
    wants = [("a", row, 0) for row in range(5)] + [("b", 0, 0), ("b", 4, 0)]
    found = item_cf.neighbours(frame(spark, wants), Behaviour(neighbours=2))
    found = found.where("row = 0").orderBy("place").collect()
    assert [(r["other"], r["place"]) for r in found] == [(4, 1), (1, 2)]


def test_pairs_outside_the_window_do_not_count(spark: SparkSession) -> None:
    wants = [("a", 0, 0), ("a", 1, DAY), ("a", 2, 3 * DAY)]
    found = item_cf.neighbours(frame(spark, wants), Behaviour(window_days=2)).collect()
    assert {(r["row"], r["other"]) for r in found} == {(0, 1), (1, 0), (1, 2), (2, 1)}


def test_a_pair_counts_half_after_the_half_life(spark: SparkSession) -> None:
    wants = [("a", 0, 0), ("a", 1, 4 * DAY)]
    near, far = (
        item_cf.neighbours(frame(spark, wants), Behaviour(half_life_days=days)).collect()
        for days in (4e9, 4.0)
    )
    assert far[0]["weight"] == pytest.approx(near[0]["weight"] / 2)


def test_only_the_newest_items_of_a_long_history_count(
    spark: SparkSession,
) -> None:
    config = parse({**CONFIG, "behaviour": {"history": 3}})
    click = config.all_actions.index("click")
    log = [("a", row, click, START + row) for row in range(6)] + [("a", 5, click, START - 9)]
    kept = item_cf.wanted(
        spark.createDataFrame(log, "user_id string, row int, action int, timestamp long"),
        config,
        START + 5,
    )
    rows = sorted((r["row"], r["time"] - START) for r in kept.collect())
    assert rows == [(2, 2), (3, 3), (4, 4)]  # row 5 at START + 5 is not before the cut


def test_without_anything_wanted_there_are_no_lists(
    opened: Callable[..., Work], data_set: Callable[..., Path], goods: object, log: Events
) -> None:
    looked = [event for event in log if event["action"] == "impression"]
    work = opened(data_set(items=goods, events=looked), CONFIG)
    prepare(work)
    (work.draft / "item_cf").mkdir()
    assert item_cf.run(work) == {"neighbours": 0}
    assert not (work.draft / "item_cf").exists()


def test_without_events_old_lists_are_removed(
    opened: Callable[..., Work], data_set: Callable[..., Path], goods: object
) -> None:
    work = opened(data_set(items=goods))
    (work.draft / "item_cf").mkdir()
    item_cf.run(work)
    assert not (work.draft / "item_cf").exists()
