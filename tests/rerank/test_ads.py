"""Sponsored items among the others, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from funnel.config import Ads as Settings
from funnel.types import Candidates, Query
from rerank.ads import Ads
from rerank.layout import Layout, Placed

CLICKS = np.array([0.5, 0.4, 0.3, 0.2, 0.1, 0.3, 0.2])
SPONSORS = np.array([-1, -1, -1, -1, -1, 4, 6])
BIDS = np.array([np.nan, np.nan, np.nan, np.nan, np.nan, 1.0, 2.0])
FOUND = Candidates(
    np.arange(7, dtype=np.int32),
    np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.2, 0.1], np.float32),
    {"p.click": CLICKS.astype(np.float32)},
)


def page(query: Query | None = None, **settings: Any) -> Placed:
    ads = Ads(SPONSORS.__getitem__, BIDS.__getitem__, Settings(**settings))
    return Layout(ads=ads).place(query or Query(limit=5), FOUND, {})


def test_fixed_slots_get_the_highest_bid_times_click() -> None:
    # 6 is worth 2.0 * 0.2 = 0.4, 5 is worth 0.3: 6 pays for a click what makes it 0.3
    placed = page(method="fixed", slots=(2, 4), load=1.0, gap=0, floor=0.0)
    assert placed.index == [0, 6, 1, 5, 2]
    assert placed.prices == {1: pytest.approx(1.5), 3: 0.01}  # nobody bids against the second


def test_dynamic_places_go_to_what_is_worth_more_than_what_stands_there() -> None:
    # With clicks worth 1: item 0 is worth 0.5; ad 5 is worth 0.3 + 0.3, ad 6 0.4 + 0.2
    placed = page(method="dynamic", load=0.4, gap=1, floor=0.0, first=1)
    assert placed.index == [5, 0, 6, 1, 2]
    # 5 and 6 are equal: the winner pays all it bid. Ad 6 against item 1 (0.4): (0.4 − 0.2) / 0.2.
    assert placed.prices == {0: pytest.approx(1.0), 2: pytest.approx(1.0)}
    # Clicks worth 10: nothing displaces items 0 and 1, and ad 5 is clicked as often as item 2.
    placed = page(method="dynamic", load=0.4, gap=2, worth=10.0, floor=0.0)
    assert (placed.index[:3], placed.prices) == ([0, 1, 5], {2: 0.01})


def test_an_ad_that_is_clicked_too_little_stays_out() -> None:
    assert page(method="fixed", slots=(1,), first=1, load=1.0, floor=0.7).prices == {}
    placed = page(method="fixed", slots=(1,), first=1, load=1.0, floor=0.5)
    assert placed.index[0] == 5  # 0.3 is at least half of 0.5, 0.2 is not


def test_load_gap_and_first_place_hold() -> None:
    one = page(method="dynamic", worth=0.01, load=0.2, gap=0, first=3, floor=0.0)
    assert [*one.prices] == [2]
    two = page(method="dynamic", worth=0.01, load=0.4, gap=1, first=2, floor=0.0)
    assert [*two.prices] == [1, 3]


def test_a_sponsor_without_money_takes_no_part_and_one_with_little_in_its_share() -> None:
    none = {"sponsor.codes": np.array([6], np.int32), "sponsor.rates": np.array([0.0])}
    placed = page(Query(limit=5, live=none), method="fixed", slots=(2,), load=1.0, floor=0.0)
    assert placed.index[1] == 5
    some = {"sponsor.codes": np.array([6], np.int32), "sponsor.rates": np.array([0.3])}
    took = [
        page(
            Query(limit=5, live=some, request_id=str(n)),
            method="fixed", slots=(2,), load=1.0, floor=0.0,
        ).index[1] == 6
        for n in range(1000)
    ]  # fmt: skip
    assert np.mean(took) == pytest.approx(0.3, abs=0.05)


def first(sponsors: np.ndarray, bids: np.ndarray, found: Candidates) -> Placed:
    known = Settings(method="dynamic", first=1, load=0.2, floor=0.0, worth=0.5, reserve=0.001)
    ads = Ads(sponsors.__getitem__, bids.__getitem__, known)
    return Layout(ads=ads).place(Query(limit=5), found, {})


def test_a_price_is_the_least_bid_that_keeps_the_place() -> None:
    """Slightly less than the price loses it, slightly more keeps it."""
    draw = np.random.default_rng(2)
    checked = 0
    for _ in range(300):
        clicks, bids = draw.random(8), draw.random(8)
        sponsors = np.where(draw.random(8) < 0.5, np.arange(8), -1)
        found = Candidates(
            np.arange(8, dtype=np.int32),
            np.linspace(1, 0, 8).astype(np.float32),
            {"p.click": clicks.astype(np.float32)},
        )
        placed = first(sponsors, bids, found)
        if 0 not in placed.prices or placed.prices[0] <= 0.002:
            continue
        winner, checked = placed.index[0], checked + 1
        for change, keeps in ((1e-4, True), (-1e-4, False)):
            other = bids.copy()
            other[winner] = placed.prices[0] + change
            again = first(sponsors, other, found)
            assert (0 in again.prices and again.index[0] == winner) == keeps
    assert checked > 50


def test_without_a_model_the_scores_stand_for_clicks() -> None:
    found = Candidates(FOUND.rows, FOUND.scores)
    ads = Ads(SPONSORS.__getitem__, BIDS.__getitem__, Settings(method="dynamic", floor=0.0))
    assert Layout(ads=ads).place(Query(limit=5), found, {}).index[:2] == [0, 1]
