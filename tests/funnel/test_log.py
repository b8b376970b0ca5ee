import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from features.event import Event
from funnel.errors import BadData
from funnel.log import HOUR_MS, EventArchive, Logged, RequestLog, first_of, merge_hours, read
from funnel.types import Candidates, Filter, History, Query


def logged(at: int, n: int = 4, **columns: np.ndarray) -> Logged:
    rows = np.arange(n, dtype=np.int32)[::-1].copy()
    query = Query(
        request_id=f"r{at}",
        scene="home",
        user_id="u1",
        at=at,
        history=History(
            np.array([3, 4], np.int32), np.array([1, 2], np.int8), np.array([5, 6], np.int64)
        ),
        user={"age": np.array(31.0), "tags": np.array([1, 2])},
        filters=(Filter("brand", ("a", "b")), Filter("price", low=1.0, exclude=True)),
        excluded=np.array([9], np.int32),
        variants={"x": "b"},
    )
    candidates = Candidates(rows, np.linspace(1, 0, n).astype(np.float32), columns)
    labels = np.zeros(n, np.float32)
    positions = np.arange(n, dtype=np.int32)
    return Logged(query, candidates, labels, positions, ("rank: late",), 12.5)


def test_what_is_logged_is_read_back_in_time_order(tmp_path: Path) -> None:
    log = RequestLog(tmp_path, rows=2, seconds=0.1)
    evidence = np.array([0.1, np.nan, 0.3, 0.4], np.float32)
    for at in (30, 10, 20):
        log.append(logged(at, prerank=evidence))
    log.append(logged(40, n=0))
    log.close()
    found = list(read(tmp_path))
    assert [entry.query.at for entry in found] == [10, 20, 30, 40]
    entry = found[0]
    assert entry.query.filters == (
        Filter("brand", ("a", "b")),
        Filter("price", low=1.0, exclude=True),
    )
    assert entry.query.history.rows.tolist() == [3, 4]
    assert entry.query.user["age"] == 31.0
    assert entry.query.variants == {"x": "b"}
    assert entry.query.excluded.tolist() == [9]
    assert entry.candidates.rows.tolist() == [3, 2, 1, 0]
    np.testing.assert_array_equal(entry.candidates.columns["prerank"], evidence)
    assert entry.page.tolist() == [2, 1, 0]  # positions 1, 2, 3; the first was not shown
    assert entry.degraded == ("rank: late",)
    assert len(found[3].candidates) == 0
    assert not list(tmp_path.rglob(".*"))


def test_reading_nothing_says_where(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="was anything logged"):
        list(read(tmp_path))


@dataclass(frozen=True)
class Told:
    """An event of a live log, without a store."""

    position: str
    event: Event

    @property
    def at(self) -> int:
        return int(self.position.split("-")[0])


class Source:
    """A live log that is read as a store's is: what comes after a position, `most` at a time."""

    def __init__(self, told: list[Told], most: int = 3):
        self.told, self.most = told, most

    def events(self, after: str = "0", count: int = 5000, block_ms: int = 0) -> list[Told]:
        seen = tuple(map(int, after.split("-")))
        later = [one for one in self.told if tuple(map(int, one.position.split("-"))) > seen]
        return later[: self.most]


def told(hours: int, each: int) -> list[Told]:
    return [
        Told(f"{hour * HOUR_MS + n}-0", Event("u", "i", "click", n, event_id=f"e{hour}-{n}"))
        for hour in range(100, 100 + hours)
        for n in range(each)
    ]


def ids(path: Path) -> list[str]:
    files = sorted((path / "events").glob("*.parquet"))
    return [event for file in files for event in pq.read_table(file)["event_id"].to_pylist()]


def test_the_files_of_an_hour_become_one_and_every_event_stays_once(tmp_path: Path) -> None:
    log = told(3, 10)
    source = Source(log[:15])
    EventArchive(tmp_path, source, 60.0).close()
    source.told = log  # the archive was down meanwhile
    EventArchive(tmp_path, source, 60.0).close()
    assert ids(tmp_path) == [one.event.event_id for one in log]
    files = [file.name for file in sorted((tmp_path / "events").glob("*.parquet"))]
    assert [bool(first_of(tmp_path / "events" / name)) for name in files[:2]] == [True, True]
    assert len(files) == 2 + 4  # the last hour is not over: three at a time


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_crash_amid_a_merge_loses_nothing_and_the_next_one_clears_up(
    tmp_path: Path, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = told(1, 10)
    EventArchive(tmp_path, Source(log), 60.0).close()
    folder = tmp_path / "events"
    before = set(ids(tmp_path))
    done = 0

    def killed(self: Path, **_: object) -> None:
        nonlocal done
        done += 1
        if done >= steps:
            raise KeyboardInterrupt
        os.unlink(self)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            merge_hours(folder, 1 << 40)
    assert set(ids(tmp_path)) == before
    merge_hours(folder, 1 << 40)
    assert ids(tmp_path) == [one.event.event_id for one in log]
    assert merge_hours(folder, 1 << 40) == 0
