"""The behaviour benchmark: its splits by hand, its metrics on lists whose answer is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import behaviour, cf
from funnel.types import Candidates, Query
from recall.masks import Mask


def test_the_last_item_is_asked_for_and_the_last_two_are_not_learned(tmp_path: Path) -> None:
    sequences = pa.table({"user": [1, 2, 3], "items": [[5, 6, 7, 8], [1, 2, 3], [4, 9]]})
    pq.write_table(sequences, tmp_path / "sequences.parquet")
    task = cf.read(tmp_path, cut=False)
    assert task.goals.tolist() == [8, 3]
    assert task.history.tolist() == [5, 6, 7, 1, 2]
    assert sorted(task.train.rows.tolist()) == [1, 5, 6]
    cut = cf.read(tmp_path, cut=True)  # one place earlier
    assert cut.goals.tolist() == [7]
    assert cut.history.tolist() == [5, 6]
    assert cut.train.rows.tolist() == [5]


def test_sequences_may_come_as_rows_with_places(tmp_path: Path) -> None:
    table = pa.table({"user": [2, 1, 1, 1, 2, 2], "item": [4, 9, 7, 8, 5, 6]})
    table = table.append_column("pos", pa.array([0, 2, 0, 1, 1, 2]))
    pq.write_table(table, tmp_path / "sequences.parquet")
    assert cf.read(tmp_path, cut=False).goals.tolist() == [9, 6]


class Fixed:
    """Always the same rows, of those allowed."""

    def find(self, query: Query, allowed: Mask | None, limit: int) -> Candidates:
        assert allowed is not None
        rows = np.flatnonzero(allowed)[:limit].astype(np.int32)
        return Candidates(rows, np.linspace(1, 0, len(rows)).astype(np.float32))


def test_the_metrics_are_means_over_those_who_ask() -> None:
    users, rows = np.array([0, 0, 1, 2]), np.array([0, 1, 2, 3])
    task = cf.pairs(users, rows, np.array([1, 0, 0]), np.array([1, 2, 39]), 40)
    found = cf.alone(Fixed(), task, behaviour.config(["popular"])).row("fixed", 0.0)
    # User 0 sees 2, 3, … and wants 2 and 39; user 1 sees 0, 1, 3, … and wants 1.
    assert found["Recall@20"] == pytest.approx((0.5 + 1) / 2)
    second = 1 / np.log2(3)
    assert found["NDCG@20"] == pytest.approx((1 / (1 + second) + second) / 2)
    assert found["HR@10"] == 1


def test_every_channel_beats_popularity_on_a_real_set(shared_data: Callable[[str], Path]) -> None:
    task = cf.read(shared_data("amazon-beauty-s3rec"), cut=False)
    fewer = cf.Task(
        task.train,
        task.starts[:2001],
        task.history,
        task.times,
        task.goal_starts[:2001],
        task.goals,
    )
    channels = ("popular", "swing", "graph", "user_cf", "live")
    popular, *others = cf.measure(fewer, channels, lambda text: None)
    fusion = {"graph": 0.5, "user_cf": 0.5}
    *single, fused = cf.measure(fewer, list(fusion), lambda text: None, fusion)
    assert fused["method"] == "0.5 graph + 0.5 user_cf"
    assert all(row["NDCG@10"] > 2 * popular["NDCG@10"] for row in (*others, *single, fused))
    by_name = {row["method"]: row["NDCG@10"] for row in others}
    assert all(row["NDCG@10"] == by_name[row["method"]] for row in single)
