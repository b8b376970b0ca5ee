"""Sessions cut by pauses and ids, and their index, against hand-made cases and plain loops."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from jobs import events, items, live
from jobs.live import cut, index
from jobs.work import Work

START, MINUTE = 1_700_000_000_000, 60_000


def test_the_index_lists_each_items_sessions_newest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = [[1, 2], [3], [2, 1, 2], [4, 4, 4, 4, 4], [0, 2]]
    starts = np.cumsum([0] + [len(session) for session in sessions])
    monkeypatch.setattr(live, "CLICKS", 3)
    found = index(starts, np.concatenate(sessions), 6)
    assert found.session_ptr.tolist() == [0, 2, 5, 8, 10]  # the one of one click is not there
    assert found.session_rows.tolist() == [1, 2, 2, 1, 2, 4, 4, 4, 0, 2]

    def of(item: int) -> list[tuple[int, int]]:
        span = slice(found.item_ptr[item], found.item_ptr[item + 1])
        places = found.item_places[span].tolist()
        return list(zip(found.item_sessions[span].tolist(), places, strict=True))

    assert of(2) == [(3, 1), (1, 2), (0, 1)]  # the last place where it occurs twice
    assert of(1) == [(1, 1), (0, 0)]
    assert of(3) == of(5) == []
    monkeypatch.setattr(live, "OCCURRENCES", 2)
    monkeypatch.setattr(live, "SESSIONS", 3)
    found = index(starts, np.concatenate(sessions), 6)
    assert of(2) == [(2, 1), (0, 2)]  # the newest two of the newest three
    assert of(0) == [(2, 0)]


def test_a_pause_cuts_a_user_and_not_a_named_session() -> None:
    owners = np.array([0, 0, 0, 1, 1, 1])
    times = np.array([0, 5, 30, 1, 2, 28])
    named = owners == 1
    order, starts = cut(owners, times, named, 10)
    assert order.tolist() == [0, 1, 3, 4, 5, 2]  # by the sessions' ends: 5, 28, 30
    assert starts.tolist() == [0, 2, 5, 6]
    assert cut(owners, times, named, 0)[1].tolist() == [0, 3, 6]
    assert cut(owners[:0], times[:0], named[:0], 10)[1].tolist() == [0]


def test_the_job_reads_sessions_before_the_cut(
    opened: Callable[..., Work], data_set: Callable[..., Path], goods: object
) -> None:
    def event(user: str, item: int, minute: int, session: str | None = None) -> dict[str, object]:
        return {
            "user_id": user,
            "item_id": f"i{item:02d}",
            "action": "click",
            "timestamp": START + minute * MINUTE,
            "session_id": session,
        }

    log = [event("a", 1, 0), event("a", 2, 5), event("a", 3, 90), event("a", 4, 95)]
    log += [event("b", 5, 10, "x"), event("b", 6, 80, "x"), event("b", 7, 20, "y")]
    log += [event("c", n % 3, 1000 + n) for n in range(20)]
    work = opened(
        data_set(items=goods, events=log),
        {"behaviour": {"session_minutes": 30}},
        START + 500 * MINUTE,
    )
    items.run(work)
    events.run(work)
    assert live.run(work) == {"sessions": 3}
    pointer = np.load(work.draft / "live/session_ptr.npy")
    rows = np.load(work.draft / "live/session_rows.npy")
    assert [rows[a:b].tolist() for a, b in pairwise(pointer)] == [
        [1, 2],
        [5, 6],
        [3, 4],
    ]
