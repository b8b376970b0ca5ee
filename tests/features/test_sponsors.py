"""Sponsors' budgets in a real store, their pacing by its formula, and prices that are paid once."""

from __future__ import annotations

import numpy as np
import pytest

from features.sponsors import SLACK, Sponsor, Sponsors
from features.store import Store
from funnel.errors import BadQuery, NotFound

DAY = 86_400_000


def test_a_budget_that_ends_is_spent_evenly() -> None:
    paced = Sponsor("s", budget=100.0, since=DAY, until=2 * DAY)
    assert paced.rate(DAY - 1) == 0.0
    assert paced.rate(2 * DAY) == 0.0
    half = DAY + DAY // 2  # half of it is due
    rates = [Sponsor("s", 100.0, spent, DAY, 2 * DAY).rate(half) for spent in (0, 50, 51, 52, 100)]
    assert rates == [1.0, 1.0, pytest.approx(0.5), 0.0, 0.0]
    assert Sponsor("s", 100.0, 99.0).rate(half) == 1.0  # without an end: until it is gone
    assert Sponsor("s", 100.0, 100.0).rate(half) == 0.0


def test_pacing_follows_the_clock_however_much_traffic_there_is() -> None:
    """A day of requests, most of them in the evening, that would spend the budget by noon."""
    draw, spent = np.random.default_rng(1), 0.0
    hours = np.sort(24 * draw.beta(4, 2, 20_000))
    gone = []
    for hour in hours:
        now = DAY + int(hour * 3_600_000)
        if draw.random() < Sponsor("s", 100.0, spent, DAY, 2 * DAY).rate(now):
            spent = min(spent + 0.05 * (draw.random() < 0.5), 100.0)
        gone.append(spent / 100)
    due = hours / 24
    late = hours > 13  # before there is too little traffic to spend that much
    assert np.abs(np.array(gone) - due)[late].max() < SLACK + 0.02


def test_budgets_are_kept_changed_and_removed(store: Store) -> None:
    sponsors = Sponsors(store)
    sponsors.put(Sponsor("b", 5.0))
    sponsors.put(Sponsor("a", 10.0, since=1, until=9))
    assert sponsors.all() == [Sponsor("a", 10.0, 0.0, 1, 9), Sponsor("b", 5.0)]
    sponsors.offer("r", {"i": ("b", 2.0)})
    sponsors.charge([("r", "i")])
    sponsors.put(Sponsor("b", 7.0))  # what was spent stays
    assert sponsors.all()[1] == Sponsor("b", 7.0, 2.0)
    sponsors.remove("a")
    assert [one.sponsor_id for one in sponsors.all()] == ["b"]
    with pytest.raises(NotFound, match="no sponsor 'a'"):
        sponsors.remove("a")


def test_a_click_costs_what_was_offered_and_once(store: Store) -> None:
    sponsors = Sponsors(store)
    sponsors.put(Sponsor("s", 1.0))
    sponsors.offer("r1", {"i": ("s", 0.3), "j": ("free", 0.4)})
    assert sponsors.charge([("r1", "other"), ("r0", "i")]) == []
    assert sponsors.charge([("r1", "i"), ("r1", "i"), ("r1", "j")]) == [("s", 0.3), ("free", 0.4)]
    assert sponsors.charge([("r1", "i")]) == []
    assert sponsors.all() == [Sponsor("s", 1.0, 0.3)]


def test_nobody_pays_more_than_the_budget(store: Store) -> None:
    sponsors = Sponsors(store)
    sponsors.put(Sponsor("s", 1.0))
    for number in range(3):
        sponsors.offer(str(number), {"i": ("s", 0.6)})
    paid = sponsors.charge([(str(number), "i") for number in range(3)])
    assert [money for _, money in paid] == [0.6, pytest.approx(0.4), 0.0]
    assert sponsors.all()[0].spent == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("sponsor", "said"),
    [
        (Sponsor("", 1.0), "the sponsor id is empty"),
        (Sponsor("s", -1.0), "budget = -1.0"),
        (Sponsor("s", float("nan")), "budget = nan"),
        (Sponsor("s", 1.0, since=9, until=5), "since = 9"),
        (Sponsor("s", 1.0, until=5), "since = 0"),
    ],
)
def test_what_is_no_budget_is_refused(store: Store, sponsor: Sponsor, said: str) -> None:
    with pytest.raises(BadQuery, match=said):
        Sponsors(store).put(sponsor)
    assert Sponsors(store).all() == []


def test_the_pages_of_a_user_are_kept_oldest_first_and_go_with_the_user(store: Store) -> None:
    for at in range(1, 6):
        store.show("ann", at, [f"i{at}", "j"], pages=3)
    store.show("bob", 1, ["x"], pages=3)
    assert store.shown("ann") == [(at, [f"i{at}", "j"]) for at in (3, 4, 5)]
    store.delete_user("ann")
    assert store.shown("ann") == []
    assert store.shown("bob") == [(1, ["x"])]
    assert store.shown("nobody") == []
