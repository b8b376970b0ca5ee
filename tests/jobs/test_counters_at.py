"""What Spark counts against the fold that serves: items, windows, pairs; as of any moment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from features.counts import Counts, text_of
from features.fold import ItemCounters, live_names
from features.pairs import ItemHashes, Pairs
from features.windows import ItemWindows
from funnel.generation import Generation
from funnel.types import Query
from jobs import events, item_stats, items, users
from jobs.counters_at import counters_at, pairs_at
from jobs.work import Work

START, MINUTE, HOUR, DAY = 1_700_000_000_000, 60_000, 3_600_000, 86_400_000
SETTLE = 2000
CONFIG: dict[str, Any] = {
    "features": {
        "half_lives": [1.0, 6.0],
        "settle_ms": SETTLE,
        "windows": ["1h", "6h", "2d"],
        "pairs": 50,
    },
    "data": {"positive": {"click": 1.0, "purchase": 4.0}},
    "build": {"holdout": 0.2, "sample_share": 0.4},
}
TEXTS = ["red tea", " Red  TEA", "红茶", "", "  ", None]


@pytest.fixture(scope="module")
def log() -> list[dict[str, Any]]:
    draw = np.random.default_rng(5)
    moments = np.sort(START + draw.integers(0, 3 * DAY, 600))
    moments[100:140] = moments[100]  # many at once
    moments[200:210] = moments[200] // HOUR * HOUR  # on the edge of buckets
    return [
        {
            "event_id": f"e{n:04d}",
            "user_id": f"u{draw.integers(4)}",
            "item_id": f"i{draw.integers(6):02d}",
            "action": ["impression", "click", "purchase", "dislike"][draw.integers(4)],
            "timestamp": int(at),
            "query": TEXTS[draw.integers(len(TEXTS))],
        }
        for n, at in enumerate(np.sort(moments))
    ]


@pytest.fixture(scope="module")
def work(
    opened: Callable[..., Work],
    data_set: Callable[..., Path],
    goods: object,
    log: list[dict[str, Any]],
) -> Work:
    work = opened(data_set(items=goods, events=log), CONFIG)
    for job in (items, events, users, item_stats):
        job.run(work)
    return work


def fold(work: Work, log: list[dict[str, Any]], generation: Generation) -> Counts:
    """Nothing but these events."""
    config, n = work.config, generation.items.base
    found = Counts(
        ItemCounters.empty(config, n, START),
        ItemWindows(config, n, START),
        Pairs(config, START),
        ItemHashes(generation),
    )
    found.apply(
        np.array([int(event["item_id"][1:]) for event in log], np.int64),
        found.items.codes([event["action"] for event in log]),
        np.array([event["timestamp"] for event in log], np.int64),
        np.array([text_of(event["query"] or "") for event in log], np.uint64),
    )
    return found


def compared(columns: dict[str, Any], expected: Any, place: Any) -> None:
    for name, values in expected.items():
        got = np.array(columns[name], float)[place]
        if ".in" in name:
            np.testing.assert_array_equal(got, values, err_msg=name)
        else:
            np.testing.assert_allclose(got, values, rtol=1e-5, atol=1e-7, err_msg=name)


def test_a_generation_holds_what_the_fold_of_its_events_holds(
    work: Work, log: list[dict[str, Any]]
) -> None:
    for draft, cut in work.drafts:
        generation = Generation.open(draft, check=False)
        found = Counts.open(generation)
        expected = fold(work, [event for event in log if event["timestamp"] < cut], generation)
        rows = np.arange(12, dtype=np.int32)
        for at in (cut, cut + HOUR, cut + DAY + 1):
            for text in ("red TEA", "红茶", "nothing", ""):
                query = Query(text=text, at=at)
                ours = found.hydrate(query, rows)
                assert set(ours) == set(expected.hydrate(query, rows))
                compared(dict(ours), expected.hydrate(query, rows), slice(None))


def test_candidates_know_what_had_settled_before_their_request(
    work: Work, log: list[dict[str, Any]], spark: SparkSession
) -> None:
    draw = np.random.default_rng(6)
    times = [event["timestamp"] for event in log]
    at = [
        int(times[n]) + int(draw.choice([0, 1, SETTLE, HOUR])) for n in draw.integers(600, size=40)
    ]
    asked = [
        {"id": n, "row": row, "at": moment, "text": str(TEXTS[n % 5])}
        for n, moment in enumerate(at)
        for row in (0, 3, 11)
    ]
    frame: DataFrame = spark.createDataFrame(asked, "id int, row int, at long, text string")
    happened = events.read(work)
    counted = counters_at(frame, happened, work.config, START + DAY)
    both = pairs_at(counted, happened, work.config, START + DAY).toPandas()
    assert len(both) == len(asked)
    generation = Generation.open(work.draft, check=False)
    for number, part in both.groupby("id"):
        moment, text = int(part["at"].iloc[0]), str(part["text"].iloc[0])
        known = [
            event
            for event in log
            if event["timestamp"] < moment and event["timestamp"] <= moment - SETTLE
        ]
        query = Query(text=text.strip(), at=moment)
        expected = dict(fold(work, known, generation).hydrate(query, part["row"].to_numpy()))
        names = set(live_names(work.config))
        assert names <= set(both.columns)
        if not text.strip():
            assert part[[name for name in names if name.startswith("pair.")]].isna().all().all()
        compared(dict(part), expected, slice(None))
        assert number >= 0
