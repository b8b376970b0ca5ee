from pathlib import Path

import numpy as np
import pytest

from funnel.errors import BadData
from funnel.log import Logged, RequestLog, read
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
