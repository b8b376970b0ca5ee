"""Users who were deleted leave the logs too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.embedded import Embedded
from features.event import Event
from features.store import Store
from funnel.config import parse
from funnel.forgotten import ForgottenArchive, forget, marks, remaining
from funnel.log import EventArchive, Logged, read, write
from funnel.types import Candidates, Query

T = 1_700_000_000_000


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    config = parse({"store": {"timeout_ms": 5000}})
    with Embedded(tmp_path_factory.mktemp("valkey")) as url, Store(url, config) as store:
        yield store


def logged(user: str, number: int) -> Logged:
    found = Candidates(np.arange(3, dtype=np.int32), np.ones(3, np.float32))
    return Logged(Query(request_id=f"{user}-{number}", user_id=user, at=T + number), found)


def users(path: Path, folder: str) -> set[str]:
    return set(pq.read_table(path / folder).column("user_id").to_pylist())


def test_a_deleted_user_leaves_events_and_requests_and_others_stay(
    store: Store, tmp_path: Path
) -> None:
    people = ("ann", "bob", "")
    store.track([Event(user, "i1", "click", T + n) for n in range(5) for user in people[:2]])
    write(tmp_path, [logged(user, n) for user in people for n in range(4)], "1")
    store.delete_user("ann")
    EventArchive(tmp_path, store, 60.0).close()
    ForgottenArchive(tmp_path, store, 60.0).close()
    ForgottenArchive(tmp_path, store, 60.0).close()  # a restart copies nothing twice
    assert sum(len(pq.read_table(f)) for f in (tmp_path / "forgotten").glob("*.parquet")) == 1
    assert "ann" not in str(pq.read_table(tmp_path / "forgotten").to_pydict())

    assert forget(tmp_path) == {"events": 5, "requests": 4, "candidates": 12}
    assert users(tmp_path, "events") == {"bob"}
    assert {entry.query.user_id for entry in read(tmp_path, "home")} == {"bob", ""}
    assert all(len(entry.candidates) == 3 for entry in read(tmp_path, "home"))
    assert forget(tmp_path) == {"events": 0, "requests": 0, "candidates": 0}


def test_what_a_user_does_after_leaving_stays(store: Store, tmp_path: Path) -> None:
    store.delete_user("eve")
    ForgottenArchive(tmp_path, store, 60.0).close()
    known = marks(tmp_path)
    until = max(known.values())
    events = [("eve", until), ("eve", until + 1), ("dan", until), (None, until)]
    table = pa.table({"u": [user for user, _ in events], "t": [at for _, at in events]})
    kept = remaining(table.column("u"), table.column("t"), known)
    assert kept.tolist() == [False, True, True, True]


def test_a_log_of_nobody_who_left_is_not_touched(tmp_path: Path) -> None:
    write(tmp_path, [logged("ann", 1)], "1")
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.parquet")}
    assert not any(forget(tmp_path).values())
    assert before == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.parquet")}
