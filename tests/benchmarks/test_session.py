"""The session benchmark on a made-up set whose answer is known, and on a sample of a real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import session


def test_a_next_click_that_always_follows_is_found_first(tmp_path: Path) -> None:
    sessions = [[n % 10, n % 10 + 10] for n in range(100)] + [[20, 21, 22]]
    pq.write_table(
        pa.table({"session": range(101), "items": sessions}), tmp_path / "train_sessions.parquet"
    )
    test = pa.table({"prefix": [[3], [5, 7], [20]], "target": [13, 17, 9]})
    pq.write_table(test, tmp_path / "test.parquet")
    rows = {row["method"]: row for row in session.measure(tmp_path, 0, 1, lambda text: None)}
    assert rows["live"]["requests"] == 3
    assert rows["live"]["P@20"] == pytest.approx(200 / 3)
    assert rows["popular"]["P@20"] > 0


def test_live_finds_half_of_the_next_clicks_of_diginetica(
    shared_data: Callable[[str], Path],
) -> None:
    rows = session.measure(shared_data("diginetica-sessions"), 1500, 1, lambda text: None)
    found = {row["method"]: row for row in rows}
    assert found["live"]["P@20"] > 49
    assert found["live"]["MRR@20"] > 17
    assert found["live"]["P@20"] > found["graph"]["P@20"] > found["popular"]["P@20"]
