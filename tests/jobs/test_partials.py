"""Days that are kept: another one costs itself, and what comes out is what a fresh build makes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from features.event import Event
from features.fold import Histories, ItemCounters
from features.users import UserCounts
from funnel.generation import Generation
from jobs import events, item_stats, items, user_stats, users
from jobs.events import wide
from jobs.validate import validate
from jobs.work import Work

DAY = 86_400_000
START = 19_700 * DAY
ACTIONS = ("impression", "click", "cart", "dislike")
CONFIG: dict[str, Any] = {
    "data": {"positive": {"click": 1.0, "cart": 3.0}},
    "features": {
        "half_lives": [0.5, 4.0],
        "history": 4,
        "users": True,
        "windows": ["1h", "1d", "3d"],
        "pairs": 30,
    },
    "build": {"day_events": 1},
}


def day(number: int, count: int = 60) -> list[dict[str, Any]]:
    draw = np.random.default_rng(number)
    return [
        {
            "event_id": f"e{number}-{n}",
            "user_id": f"u{draw.integers(5)}",
            "item_id": f"i{draw.integers(9):02d}",
            "action": str(draw.choice(ACTIONS)),
            "timestamp": START + number * DAY + int(draw.integers(DAY)),
            "query": str(draw.choice(["red tea", " RED  tea", "lamp", ""])),
        }
        for n in range(count)
    ]


def put(data: Path, number: int) -> list[dict[str, Any]]:
    """One more file of the data set's events."""
    rows = day(number)
    pq.write_table(pa.Table.from_pylist(rows), data / f"events/day-{number}.parquet")
    return rows


def made(work: Work) -> None:
    for job in (items, events, users, item_stats, user_stats):
        job.run(work)


def at(work: Work, until: int) -> Work:
    return Work(work.data, work.config, until, until - 2 * DAY)


def files(work: Work) -> dict[str, int]:
    """What lies in the tables, and which file it is."""
    return {
        str(path.relative_to(work.tables)): path.stat().st_ino
        for name in ("events", "partials")
        for path in (work.tables / name).rglob("*.parquet")
    }


def parts(draft: Path) -> dict[str, Any]:
    """All numbers of a draft."""
    found: dict[str, Any] = {}
    for name in ("counters", "popular", "windows", "pairs"):
        for path in (draft / name).rglob("*.npy"):
            found[str(path.relative_to(draft))] = np.load(path)
    table = Generation.open(draft, check=False).users.table
    for name in ("user_id", "item_rows", "actions", "times"):
        found[name] = table.column(name).to_pylist()
    found["counts"] = np.array([row or [0.0] * 3 for row in table.column("counts").to_pylist()])
    return found


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert set(ours) == set(theirs)
    for name, values in ours.items():
        if isinstance(values, np.ndarray) and values.dtype.kind == "f":
            np.testing.assert_allclose(values, theirs[name], rtol=1e-9, err_msg=name)
        else:
            np.testing.assert_array_equal(values, theirs[name], err_msg=name)


@pytest.fixture(scope="module")
def data(data_set: Callable[..., Path], goods: object) -> Path:
    return data_set(items=goods, events=day(0))


def test_one_more_day_touches_its_own_partition_only(
    opened: Callable[..., Work], data: Path, spark: SparkSession
) -> None:
    (data / "events/part-0.parquet").unlink()
    for number in range(6):
        put(data, number)
    validate(spark, data)
    work = at(opened(data, CONFIG, START + 5 * DAY), START + 5 * DAY)
    made(work)
    assert [entry.begin for entry in events.days(work)] == [START + n * DAY for n in range(6)]
    before = files(work)
    assert sum(name.startswith("partials/") for name in before) == 4 * 5

    made(work)
    assert files(work) == before  # nothing is made again of what is the same

    put(data, 6)
    validate(spark, data)
    later = at(work, START + 6 * DAY)
    made(later)
    after = files(later)
    assert {name: after[name] for name in before} == before
    fresh = sorted({name.split("/")[-1][:10] for name in set(after) - set(before)} - {""})
    names = [name for name in set(after) - set(before) if name.startswith("partials/")]
    assert len(names) == 4  # the day that the cut has passed now, once for each kind
    assert fresh

    again = opened(data, CONFIG, START + 6 * DAY)
    again = at(again, START + 6 * DAY)
    made(again)
    for ours, theirs in zip(later.drafts, again.drafts, strict=True):
        if ours[0].name == "draft":
            same(parts(ours[0]), parts(theirs[0]))

    # A late event comes with a file of its own: its day is summed up again, and no other.
    late = [{**row, "event_id": f"late{n}"} for n, row in enumerate(day(2, 3))]
    pq.write_table(pa.Table.from_pylist(late), data / "events/late.parquet")
    validate(spark, data)
    made(later)
    touched = {name for name in files(later).items() if name not in after.items()}
    assert all("2023-12-11" in name for name, _ in touched), touched


@pytest.mark.parametrize("until", [START + 3 * DAY, START + 3 * DAY + 12_345_678, START + 9 * DAY])
def test_statistics_as_of_any_date_are_those_of_the_fold(
    opened: Callable[..., Work], data_set: Callable[..., Path], goods: object, until: int
) -> None:
    log = [event for number in range(5) for event in day(number)]
    work = at(opened(data_set(items=goods, events=log), CONFIG, until), until)
    made(work)
    generation = Generation.open(work.draft, check=False)
    known = sorted(
        (event for event in log if event["timestamp"] < until),
        key=lambda event: (event["timestamp"], event["event_id"]),
    )
    counters = ItemCounters.empty(work.config, 12, until)
    counters.apply(
        np.array([int(event["item_id"][1:]) for event in known]),
        counters.codes([event["action"] for event in known]),
        np.array([event["timestamp"] for event in known]),
    )
    names = json.loads((work.draft / "counters/names.json").read_text())
    assert tuple(names) == counters.names
    state = np.load(work.draft / "counters/state.npy")
    np.testing.assert_allclose(state, counters.state, rtol=1e-9, atol=1e-300)

    histories, codes = Histories(4), work.config.all_actions
    counted = UserCounts.empty(work.config, START)
    for event in known:
        fields = ("user_id", "item_id", "action", "timestamp", "event_id")
        histories.add(Event(*(event[name] for name in fields)))
        counted.add(event["user_id"], codes.index(event["action"]), event["timestamp"])
    held = UserCounts(generation, work.config)
    for user in generation.users.table.to_pylist():
        ours = histories.user(user["user_id"])
        assert [f"i{row:02d}" for row in user["item_rows"]] == list(ours.item_ids)
        assert [codes[code] for code in user["actions"]] == list(ours.actions)
        assert user["times"] == list(ours.times)
        for moment in (until, until + DAY):
            expected = counted.columns(user["user_id"], moment)
            found = held.columns(user["user_id"], moment)
            assert set(found) == set(expected)
            for name, value in expected.items():
                np.testing.assert_allclose(found[name], value, rtol=1e-6)


def test_partitions_are_days_and_no_more_of_them_than_are_of_use() -> None:
    assert wide(10**7, START, START + 60 * DAY - 1, 50_000) == DAY
    assert wide(10**6, START, START + 60 * DAY - 1, 50_000) == 4 * DAY
    assert wide(100, START, START + 60 * DAY - 1, 50_000) == 64 * DAY
    assert wide(10**9, START, START + 3650 * DAY, 50_000) == 32 * DAY
    assert wide(1, START, START, 50_000) == DAY
