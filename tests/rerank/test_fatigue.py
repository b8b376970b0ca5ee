"""What was shown and not wanted, against its formula by hand; and the controller of new items."""

from __future__ import annotations

import numpy as np
import pytest

from funnel.config import Fatigue as Settings
from funnel.config import Fresh as FreshSettings
from funnel.types import History, Query
from rerank.fatigue import HOUR_MS, Fatigue
from rerank.fresh import DAY_MS, Fresh

AT = 1_000 * HOUR_MS
POSITIVE = np.array([False, True, False]).__getitem__


def query(shown: list[tuple[int, float]], history: History | None = None) -> Query:
    """`shown` are (row, hours ago)."""
    live = {
        "shown.rows": np.array([row for row, _ in shown], np.int32),
        "shown.times": np.array([AT - hours * HOUR_MS for _, hours in shown], np.int64),
    }
    return Query(at=AT, live=live, history=history or History())


def test_a_shown_item_loses_value_and_gets_it_back_with_time() -> None:
    fatigue = Fatigue(Settings(keep=0.5, half_life_hours=24.0), POSITIVE)
    asked = query([(3, 0.0), (3, 24.0), (4, 48.0)])
    np.testing.assert_allclose(
        fatigue.factor(asked, np.array([3, 4, 5])), [0.5 ** (1 + 0.5), 0.5**0.25, 1.0]
    )


def test_what_was_wanted_since_it_was_shown_is_not_tired() -> None:
    fatigue = Fatigue(Settings(keep=0.5, most=1), POSITIVE)
    clicked = History(np.array([3], np.int32), np.array([1], np.int8), np.array([AT - HOUR_MS]))
    seen = History(np.array([3], np.int32), np.array([2], np.int8), np.array([AT - HOUR_MS]))
    asked = query([(3, 2.0)], clicked)
    assert fatigue.factor(asked, np.array([3])).tolist() == [1.0]
    assert fatigue.tired(asked, np.array([3])).tolist() == [False]
    assert fatigue.tired(query([(3, 2.0)], seen), np.array([3])).tolist() == [True]
    assert fatigue.tired(query([(3, 0.5)], clicked), np.array([3])).tolist() == [True]


def test_what_is_shown_later_than_the_moment_does_not_count() -> None:
    fatigue = Fatigue(Settings(keep=0.5), POSITIVE)
    assert fatigue.factor(query([(3, -1.0)]), np.array([3])).tolist() == [1.0]


def test_nobody_is_tired_of_what_is_not_known() -> None:
    fatigue = Fatigue(Settings(keep=0.5, most=2), POSITIVE)
    assert fatigue.factor(Query(at=AT), np.array([1, 2])).tolist() == [1.0, 1.0]
    assert not fatigue.tired(Query(at=AT), np.array([1, 2])).any()


def test_new_items_are_raised_by_the_boost_up_to_its_limit() -> None:
    made = np.array([AT - DAY_MS, AT - 9 * DAY_MS, np.nan, AT + 1.0])
    fresh = Fresh(made.__getitem__, FreshSettings(share=0.1, days=7, most=4.0))
    asked = Query(at=AT, live={"fresh.boost": np.float64(np.log(2.0))})
    np.testing.assert_allclose(fresh.factor(asked, np.arange(4)), [2, 1, 1, 1])
    much = Query(at=AT, live={"fresh.boost": np.float64(50.0)})
    np.testing.assert_allclose(fresh.factor(much, np.arange(4)), [4, 1, 1, 1])


@pytest.mark.parametrize("target", [0.05, 0.2])
def test_the_controller_holds_its_target(target: float) -> None:
    """Items by value, new ones half as good as the others: 1,000 pages of 20."""
    known = FreshSettings(share=target)
    draw, log, shares = np.random.default_rng(4), 0.0, []
    for _ in range(1000):
        value = draw.random(200)
        new = np.arange(200) < 20
        value[new] *= 0.5
        value[new] *= np.exp(np.clip(log, 0, np.log(known.most)))
        page = np.argsort(-value)[:20]
        shares.append(new[page].mean())
        log = float(np.clip(log + known.step(20, int(new[page].sum())), 0, np.log(known.most)))
    assert np.mean(shares[100:]) == pytest.approx(target, abs=0.01)
