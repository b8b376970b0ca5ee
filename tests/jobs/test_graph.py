"""The graph filter's lists against the formula written with dense matrices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from funnel.config import parse
from jobs import build, events, graph, items, wants
from jobs.graph import Graph, neighbours
from jobs.work import Work

START, DAY = 1_700_000_000_000, 86_400_000
ASKED = {"scenes": {"home": {"recall": {"channels": {"graph": {"limit": 100}}}}}}


def some(seed: int, users: int = 30, rows: int = 12) -> wants.Wants:
    draw = np.random.default_rng(seed)
    count = 150
    pairs = draw.integers(users, size=count), draw.integers(rows, size=count)
    return wants.of(*pairs, draw.integers(9, size=count), rows)


@pytest.mark.parametrize("model", [Graph(), Graph(0.5, 0.5, 0.5, 1.0, 0.0, 4)], ids=str)
def test_the_lists_are_those_of_the_formula(model: Graph) -> None:
    found = some(1)
    r = np.zeros((30, found.items))
    r[found.users, found.rows] = 1
    du, di = np.maximum(r.sum(1), 1), np.maximum(r.sum(0), 1)
    w = r.T @ np.diag(du ** (-2 * model.user)) @ r
    w = (np.diag(di**-model.source) @ w @ np.diag(di**-model.target)) ** model.power
    np.fill_diagonal(w, 0)
    lists = neighbours(found, model)
    for row, line in enumerate(w):
        order = np.lexsort((np.arange(len(line)), -line.astype(np.float32)))[: model.keep]
        line = np.where(np.isin(np.arange(len(line)), order), line, 0)
        expected = line / max(line.sum(), 1e-30) ** model.total
        span = slice(lists.indptr[row], lists.indptr[row + 1])
        np.testing.assert_allclose(lists.weights[span], expected[lists.indices[span]], rtol=1e-4)
        assert len(lists.indices[span]) == min(np.count_nonzero(w[row]), model.keep)
        assert np.all(np.diff(lists.weights[span]) <= 0)


def test_a_pair_counts_once_with_its_last_time_and_best_weight() -> None:
    users, rows = np.array([1, 0, 1, 1]), np.array([2, 0, 2, 1])
    times, weights = np.array([5, 3, 9, 7]), np.array([4.0, 1.0, 1.0, 2.0])
    found = wants.of(users, rows, times, 3, weights)
    assert found.users.tolist() == [0, 1, 1]
    assert found.rows.tolist() == [0, 1, 2]
    assert found.times.tolist() == [3, 7, 9]
    assert found.weights.tolist() == [1, 2, 4]


def log() -> list[dict[str, Any]]:
    draw = np.random.default_rng(5)
    return [
        {
            "user_id": f"u{draw.integers(10)}",
            "item_id": f"i{draw.integers(9):02d}",
            "action": str(draw.choice(["click", "impression"])),
            "timestamp": START + n * DAY // 4,
        }
        for n in range(120)
    ]


def test_the_job_reads_what_users_wanted_before_the_cut(
    opened: Callable[..., Work], data_set: Callable[..., Path], goods: object
) -> None:
    work = opened(data_set(items=goods, events=log()))
    items.run(work)
    events.run(work)
    assert graph.run(work)["neighbours"] > 0
    for draft, cut in work.drafts:
        clicks = [e for e in log() if e["action"] == "click" and e["timestamp"] < cut]
        columns = [
            np.array([int(str(event[name])[1:]) for event in clicks])
            for name in ("user_id", "item_id")
        ]
        expected = neighbours(wants.of(*columns, np.zeros(len(clicks)), 12))
        np.testing.assert_array_equal(np.load(draft / "graph/indptr.npy"), expected.indptr)
        np.testing.assert_array_equal(np.load(draft / "graph/indices.npy"), expected.indices)


def test_a_step_is_asked_for_by_a_scene_with_its_channel() -> None:
    step = next(step for step in build.STEPS if step.name == "graph")
    assert not step.asked(parse({}))
    assert step.asked(parse(ASKED))
    off = {"scenes": {"home": {"recall": {"channels": {"graph": {"limit": 0}}}}}}
    assert not step.asked(parse(off))
