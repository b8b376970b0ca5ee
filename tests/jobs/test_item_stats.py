"""Counters against the formula written out, and against the live store's own fold."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.fold import ItemCounters, counted, counter_names
from funnel.generation import Generation
from jobs import events, item_stats, items
from jobs.work import Work
from recall.categories import Categories

START, DAY = 1_700_000_000_000, 86_400_000
ACTIONS = ("impression", "click", "cart", "dislike", "rating")
CONFIG = {
    "data": {"positive": {"click": 1.0, "cart": 3.0}},
    "features": {"half_lives": [0.5, 4.0, 20.0]},
    "build": {"holdout": 0.2, "sample_share": 0.3},
}


@pytest.fixture(scope="module")
def log() -> list[dict[str, Any]]:
    """Random events in no order, some of them twice."""
    draw = np.random.default_rng(5)
    events = [
        {
            "event_id": f"e{n}",
            "user_id": f"u{draw.integers(4)}",
            "item_id": f"i{draw.integers(9):02d}",
            "action": str(draw.choice(ACTIONS)),
            "timestamp": START + int(draw.integers(30 * DAY)),
        }
        for n in range(400)
    ]
    return [*events, *events[::7]]


@pytest.fixture(scope="module")
def work(
    opened: Callable[..., Work],
    data_set: Callable[..., Path],
    goods: object,
    log: list[dict[str, Any]],
) -> Work:
    work = opened(data_set(items=goods, events=log), CONFIG)
    items.run(work)
    made = events.run(work)
    assert made == {"events": 400, "unknown_actions": 0, "unknown_items": 0}
    metrics = item_stats.run(work)
    assert metrics == {"items_with_events": 9, "popular": 9}
    return work


def naive(log: list[dict[str, Any]], item: str, action: str, days: float, cut: int) -> float:
    once = {event["event_id"]: event for event in log}.values()
    return sum(
        2.0 ** ((event["timestamp"] - cut) / (days * DAY))
        for event in once
        if event["item_id"] == item and event["action"] == action and event["timestamp"] < cut
    )


@pytest.mark.parametrize("which", [0, 1], ids=["past", "until"])
def test_every_counter_is_the_sum_of_the_decayed_events_before_the_cut(
    work: Work, log: list[dict[str, Any]], which: int
) -> None:
    draft, cut = work.drafts[which]
    state = np.load(draft / "counters/state.npy")
    names = json.loads((draft / "counters/names.json").read_text())
    assert names == list(counter_names(counted(work.config), (0.5, 4.0, 20.0)))
    assert state.shape == (12, 9)
    assert state.dtype == np.float64
    for row in range(12):
        for place, name in enumerate(names):
            _, action, days = name.split(".", 2)
            expected = naive(log, f"i{row:02d}", action, float(days[:-1]), cut)
            assert math.isclose(state[row, place], expected, rel_tol=1e-9, abs_tol=1e-12)


def test_the_live_fold_of_the_same_events_reads_the_same(
    work: Work, log: list[dict[str, Any]]
) -> None:
    generation = Generation.open(work.draft, check=False)
    ours = ItemCounters.open(generation)
    live = ItemCounters.empty(work.config, 12, work.past)
    once = list({event["event_id"]: event for event in log}.values())
    known = [event for event in once if event["timestamp"] < work.until]
    live.apply(
        generation.items.rows([event["item_id"] for event in known]),
        live.codes([event["action"] for event in known]),
        np.array([event["timestamp"] for event in known]),
    )
    rows, at = np.arange(12), work.until + 3 * DAY
    np.testing.assert_allclose(ours.read(rows, at), live.read(rows, at), rtol=1e-6)


def test_popular_items_are_ordered_by_their_weighted_positive_actions(
    work: Work, log: list[dict[str, Any]]
) -> None:
    for draft, cut in work.drafts:
        weight = CONFIG["data"]["positive"]
        expected = {
            row: sum(naive(log, f"i{row:02d}", a, 4.0, cut) * w for a, w in weight.items())
            for row in range(12)
        }
        rows, scores = np.load(draft / "popular/rows.npy"), np.load(draft / "popular/scores.npy")
        assert rows.tolist() == sorted(range(9), key=lambda row: -expected[row])
        np.testing.assert_allclose(scores, [expected[row] for row in rows.tolist()], rtol=1e-5)
        assert rows.dtype == np.int32
        assert scores.dtype == np.float32


def test_the_popular_items_of_each_category_are_those_of_all_in_their_order(work: Work) -> None:
    for draft, _ in work.drafts:
        generation = Generation.open(draft, check=False)
        lists = Categories.open(generation)
        assert lists is not None
        rows, scores = np.load(draft / "popular/rows.npy"), np.load(draft / "popular/scores.npy")
        codes = generation.items.codes("category")
        assert len(lists.tops) == len(generation.items.values("category")) > 1
        for code in range(len(lists.tops)):
            _, own, counts = lists.entries(np.array([code]))
            inside = codes[rows] == code
            assert own.tolist() == rows[inside].tolist()
            np.testing.assert_allclose(counts, scores[inside], rtol=1e-6)
        assert lists.everything == pytest.approx(scores.sum(), rel=1e-6)


def test_without_events_old_counters_are_removed(
    opened: Callable[..., Work], data_set: Callable[..., Path], goods: object
) -> None:
    work = opened(data_set(items=goods))
    (work.draft / "counters").mkdir()
    assert item_stats.run(work) == {}
    assert not (work.draft / "counters").exists()
