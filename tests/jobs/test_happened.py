"""The archive of the live log joins the data set: every event once, nobody who was forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from features.embedded import Embedded
from features.event import Event
from features.store import Store
from funnel.config import parse
from funnel.forgotten import ForgottenArchive
from funnel.log import EventArchive, merge_hours
from jobs import events, items
from jobs.happened import state
from jobs.work import Work

START, DAY = 1_700_000_000_000, 86_400_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    config = parse({"store": {"timeout_ms": 5000}})
    with Embedded(tmp_path / "valkey") as url, Store(url, config) as store:
        yield store


def log(count: int) -> list[dict[str, Any]]:
    return [
        {
            "event_id": f"e{n:03d}",
            "user_id": f"u{n % 3}",
            "item_id": f"i{n % 5:02d}",
            "action": "click",
            "timestamp": START + n * DAY // 10,
        }
        for n in range(count)
    ]


def live(n: int, user: str = "u9", event: str = "") -> Event:
    return Event(user, "i01", "click", START + 5 * DAY + n, event_id=event or f"live{n}")


def archived(place: Path, store: Store) -> None:
    EventArchive(place, store, 60.0).close()
    ForgottenArchive(place, store, 60.0).close()


def ids(work: Work) -> list[str]:
    events.run(work)
    return sorted(row["event_id"] for row in events.read(work).select("event_id").collect())


def test_every_event_counts_once_wherever_it_is_from(
    opened: Callable[..., Work],
    data_set: Callable[..., Path],
    goods: object,
    store: Store,
    tmp_path: Path,
) -> None:
    place = tmp_path / "log"
    data = data_set(items=goods, events=log(20))
    own = {"log": {"dir": str(place)}, "build": {"day_events": 3}}
    work = opened(data, own)
    items.run(work)
    first = [event["event_id"] for event in log(20)]
    assert ids(work) == first
    assert state(work.config) == ""

    store.track([live(0), live(1), live(2, event="e003")])
    archived(place, store)
    before = state(work.config)
    assert before
    assert ids(work) == [*first, "live0", "live1"]  # e003 is the data set's
    partition = work.tables / "events"
    files = {file: file.stat().st_mtime_ns for file in partition.rglob("*.parquet")}
    store.track([live(3), live(4, user="eve")])
    archived(place, store)
    assert state(work.config) != before
    assert ids(work) == [*first, "live0", "live1", "live3", "live4"]
    assert all(file.stat().st_mtime_ns == at for file, at in files.items())  # only added to

    # The hour is over: its files become one, and nothing comes in again.
    folder = place / "events"
    assert merge_hours(folder, 1 << 40) == 1
    assert len(list(folder.glob("*.parquet"))) == 1
    assert ids(work) == [*first, "live0", "live1", "live3", "live4"]
    assert all(file.stat().st_mtime_ns == at for file, at in files.items())

    store.delete_user("eve")
    store.delete_user("u1")
    archived(place, store)
    left = [event["event_id"] for event in log(20) if event["user_id"] != "u1"]
    assert ids(work) == [*left, "live0", "live1", "live3"]
    off = opened(data, {**own, "build": {"archive": False}})
    items.run(off)
    assert ids(off) == first


def test_an_archive_is_enough_where_the_data_set_has_no_events(
    opened: Callable[..., Work],
    data_set: Callable[..., Path],
    goods: object,
    store: Store,
    tmp_path: Path,
) -> None:
    place = tmp_path / "log"
    store.track([live(n) for n in range(10)])
    archived(place, store)
    work = opened(data_set(items=goods), {"log": {"dir": str(place)}})
    items.run(work)
    assert work.has("events")
    assert len(ids(work)) == 10
    assert START < work.past < work.until
