"""Swing against its formula over Python sets."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from jobs import events, items, swing, wants
from jobs.swing import Swing, neighbours
from jobs.work import Work


def some(seed: int) -> wants.Wants:
    draw = np.random.default_rng(seed)
    return wants.of(
        draw.integers(15, size=90), draw.integers(10, size=90), draw.integers(99, size=90), 11
    )


@pytest.mark.parametrize("keep", [3, 200])
def test_the_lists_are_those_of_the_formula(keep: int) -> None:
    found, model = some(3), Swing(keep=keep)
    own: dict[int, set[int]] = {}
    for user, row in zip(found.users.tolist(), found.rows.tolist(), strict=True):
        own.setdefault(user, set()).add(row)
    fame = np.maximum(np.bincount(found.rows, minlength=11), 1)
    lists = neighbours(found, model)
    for item in range(11):
        naive: dict[int, float] = {}
        for u, v in combinations([user for user in own if item in own[user]], 2):
            shared = own[u] & own[v]
            vote = 1 / math.sqrt(len(own[u]) * len(own[v])) / (model.alpha + len(shared))
            for row in shared - {item}:
                naive[row] = naive.get(row, 0.0) + vote * fame[row] ** -model.target
        span = slice(lists.indptr[item], lists.indptr[item + 1])
        kept = dict(zip(lists.indices[span].tolist(), lists.weights[span].tolist(), strict=True))
        assert lists.weights[span].tolist() == pytest.approx(
            sorted(naive.values(), reverse=True)[:keep]
        )
        assert kept == pytest.approx({row: naive[row] for row in kept})


def test_blocks_and_threads_do_not_change_the_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    once = neighbours(some(4))
    monkeypatch.setattr(swing, "BLOCK", 3)
    monkeypatch.setattr(swing, "threads", lambda: 3)
    again = neighbours(some(4))
    for name in ("indptr", "indices", "weights"):
        np.testing.assert_array_equal(getattr(once, name), getattr(again, name))


def test_only_the_newest_users_of_an_item_meet() -> None:
    # Users 0 and 1 share items 0 and 1, but user 2 came later to item 0 and shares nothing.
    users, rows = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 0])
    times = np.array([1, 1, 2, 2, 3])
    lists = neighbours(wants.of(users, rows, times, 2), Swing(users=2))
    assert np.diff(lists.indptr).tolist() == [0, 1]


def test_the_jobs_write_what_the_channels_open(
    opened: Callable[..., Work], data_set: Callable[..., Path], goods: object
) -> None:
    from jobs import als, user_cf

    draw = np.random.default_rng(1)
    log = [
        {
            "user_id": f"u{draw.integers(8)}",
            "item_id": f"i{draw.integers(9):02d}",
            "action": "click",
            "timestamp": 1_700_000_000_000 + n * 1000,
        }
        for n in range(150)
    ]
    work = opened(data_set(items=goods, events=log))
    items.run(work)
    events.run(work)
    assert swing.run(work)["neighbours"] > 0
    assert user_cf.run(work) == {"users": 8}
    assert als.run(work) == {"items": 9}
    looked = opened(data_set(items=goods, events=[{**e, "action": "impression"} for e in log]))
    items.run(looked)
    events.run(looked)
    for job, name in ((swing, "swing"), (user_cf, "user_cf"), (als, "als")):
        assert not any(job.run(looked).values())
        assert not (looked.draft / name).exists()
