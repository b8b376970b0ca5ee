from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.event import Event
from features.fold import Histories
from funnel.generation import Generation
from jobs import events, items, user_stats, users
from jobs.work import Work

START = 1_700_000_000_000
ACTIONS = ("impression", "click", "cart", "dislike", "rating")
KEPT = 7


@pytest.fixture(scope="module")
def log() -> list[dict[str, Any]]:
    """Random events in no order; many at the same moment."""
    draw = np.random.default_rng(11)
    return [
        {
            "event_id": f"e{n}",
            "user_id": f"u{draw.integers(9)}",
            "item_id": f"i{draw.integers(12):02d}",
            "action": str(draw.choice(ACTIONS)),
            "timestamp": START + int(draw.integers(40)) * 1000,
        }
        for n in draw.permutation(300)
    ]


@pytest.fixture(scope="module")
def work(
    opened: Callable[..., Work],
    data_set: Callable[..., Path],
    goods: object,
    log: list[dict[str, Any]],
) -> Work:
    people = [{"user_id": f"u{n}"} for n in [*range(9), "-quiet"]]
    data = data_set(items=goods, events=log, users=people)
    work = opened(data, {"features": {"history": KEPT}}, START + 25_000)
    for job in (items, events, users):
        job.run(work)
    assert user_stats.run(work)["users_with_history"] == 9
    return work


def histories(work: Work) -> dict[str, list[tuple[int, int, int]]]:
    table = Generation.open(work.draft, check=False).users.table.to_pylist()
    columns = ("item_rows", "actions", "times")
    return {
        user["user_id"]: list(zip(*(user[name] for name in columns), strict=True)) for user in table
    }


def test_a_history_is_the_newest_actions_before_the_cut_oldest_first(
    work: Work, log: list[dict[str, Any]]
) -> None:
    found = histories(work)
    known = [e for e in log if e["action"] != "impression" and e["timestamp"] < work.until]
    known.sort(key=lambda event: (event["timestamp"], event["event_id"]))
    for user in (f"u{n}" for n in range(9)):
        expected = [
            (int(e["item_id"][1:]), work.config.all_actions.index(e["action"]), e["timestamp"])
            for e in known
            if e["user_id"] == user
        ]
        assert found[user] == expected[-KEPT:]


def test_it_is_what_the_live_store_would_hold(work: Work, log: list[dict[str, Any]]) -> None:
    live = Histories(KEPT)
    for event in log:
        if event["timestamp"] < work.until:
            live.add(Event(**event))
    for user, done in histories(work).items():
        there = live.user(user)
        assert [f"i{row:02d}" for row, _, _ in done] == list(there.item_ids)
        assert [time for _, _, time in done] == list(there.times)


def test_who_did_nothing_has_an_empty_history(work: Work) -> None:
    assert histories(work)["u-quiet"] == []


def test_running_again_gives_the_same_columns(work: Work) -> None:
    before = histories(work)
    user_stats.run(work)
    assert histories(work) == before
    assert not (work.draft / ".users").exists()
