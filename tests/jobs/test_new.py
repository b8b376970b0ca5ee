"""Which items are cold, in a data set made by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jobs import events, items, new
from jobs.work import Work

DAY, CUT = 86_400_000, 1_700_000_000_000
GOODS = [
    {"item_id": "old-cold", "title": "a", "created_at": CUT - 90 * DAY},
    {"item_id": "old-warm", "title": "b", "created_at": CUT - 80 * DAY},
    {"item_id": "undated", "title": "c", "created_at": None},
    {"item_id": "week-warm", "title": "d", "created_at": CUT - 7 * DAY},
    {"item_id": "z-tomorrow", "title": "e", "created_at": CUT + DAY},
]
CONFIG = {
    "data": {"categorical": [], "numeric": [], "text": {"title": 1.0}, "filterable": []},
    "new": {"days": 14, "events": 3},
}
ROWS = {item["item_id"]: row for row, item in enumerate(GOODS)}


def log(at: int) -> list[dict[str, object]]:
    """Three clicks on what is warm; many more actions that do not count."""
    counted = [("old-warm", "click", at)] * 3 + [("week-warm", "cart", at)] * 4
    others = [("old-cold", "click", at)] * 2 + [("old-cold", "click", CUT + 1)] * 9
    shown = [("undated", "impression", at)] * 9 + [("undated", "dislike", at)] * 9
    return [
        {"event_id": f"e{n}", "user_id": "u", "item_id": item, "action": action, "timestamp": time}
        for n, (item, action, time) in enumerate([*counted, *others, *shown])
    ]


@pytest.fixture(scope="module")
def work(opened: Callable[..., Work], data_set: Callable[..., Path]) -> Work:
    work = opened(data_set(items=GOODS, events=log(CUT - DAY)), CONFIG, CUT)
    items.run(work)
    events.run(work)
    return work


def test_cold_is_what_is_young_or_hardly_wanted_newest_first(work: Work) -> None:
    assert new.run(work) == {"cold": 4}
    found = np.load(work.draft / "new/rows.npy")
    names = ["z-tomorrow", "week-warm", "old-cold", "undated"]
    assert found.tolist() == [ROWS[name] for name in names]
    assert found.dtype == np.int32


def test_the_past_draft_knows_only_what_was_wanted_before_its_cut(work: Work) -> None:
    new.run(work)
    counts = new.wanted(work, CUT - DAY, len(GOODS))
    assert counts.tolist() == [0] * 5
    assert new.wanted(work, CUT, len(GOODS)).tolist() == [2, 3, 0, 4, 0]
    assert len(np.load(work.past_draft / "new/rows.npy")) == 5 - int(work.past > CUT - DAY)


def test_the_newest_are_kept_where_there_are_too_many(work: Work) -> None:
    settings = work.config.new.model_copy(update={"most": 2})
    made = np.array([3.0, np.nan, 9.0, 9.0, 1.0])
    assert new.cold(np.zeros(5, int), made, CUT, settings).tolist() == [2, 3]


def test_without_events_every_item_is_cold(
    opened: Callable[..., Work], data_set: Callable[..., Path]
) -> None:
    work = opened(data_set(items=GOODS), CONFIG)
    items.run(work)
    assert new.run(work) == {"cold": 5}
