"""The page, place by place: quotas, pins and chance, by hand and in many random cases."""

from __future__ import annotations

from collections import Counter
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from benchmarks.rerank_slates import run
from funnel.types import Candidates, Query
from rerank.explore import Epsilon, Explore, PlackettLuce, Thompson, share
from rerank.layout import Layout
from rerank.quotas import Quota


def listed(n: int) -> Candidates:
    return Candidates(np.arange(n, dtype=np.int32), np.linspace(1, 0, n).astype(np.float32))


@pytest.mark.parametrize("seed", [1, 2])
def test_no_hard_rule_is_broken_on_random_pages(tmp_path: Path, seed: int) -> None:
    assert run(1500, seed, tmp_path) == []  # python -m benchmarks.rerank_slates runs 100,000


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 2)), max_size=7),
    st.integers(1, 3),
    st.integers(1, 6),
    st.integers(1, 12),
)
def test_no_quota_is_broken_and_no_longer_page_keeps_them(
    items: list[tuple[int, int]], most: int, among: int, limit: int
) -> None:
    codes = np.array(items, np.int64).reshape(-1, 2)
    quotas = {
        "brand": Quota(lambda r: codes[r, 0], most, among),
        "kind": Quota(lambda r: codes[r, 1], 2, 4),
    }
    page = Layout(quotas).place(Query(limit=limit), listed(len(items)), {}).index

    def broken(places: list[int] | tuple[int, ...]) -> bool:
        return any(
            sum(codes[i, axis] == value for i in places[start : start + wide]) > k
            for axis, k, wide in ((0, most, among), (1, 2, 4))
            for start in range(len(places))
            for value in range(4)
        )

    assert not broken(page)
    assert len(set(page)) == len(page) <= limit
    if len(page) < min(limit, len(items)):
        longer = permutations(range(len(items)), len(page) + 1)
        assert all(broken(other) for other in longer)


def test_the_next_place_goes_to_the_best_that_keeps_the_quotas() -> None:
    brand = np.array([1, 1, 1, 2, 1, 3])
    quotas = {"brand": Quota(brand.__getitem__, 1, 2)}
    assert Layout(quotas).place(Query(limit=4), listed(6), {}).index == [0, 3, 1, 5]


def test_a_page_that_the_best_choice_would_cut_short_is_made_longer() -> None:
    brand = np.array([2, 1, 1])  # best first: 2 1 and then nothing; 1 2 1 is full
    quotas = {"brand": Quota(brand.__getitem__, 1, 2)}
    assert Layout(quotas).place(Query(limit=3), listed(3), {}).index == [1, 0, 2]


def test_pins_count_for_quotas_and_others_keep_clear_of_them() -> None:
    brand = np.array([1, 2, 1, 3, 1])
    quotas = {"brand": Quota(brand.__getitem__, 1, 3)}
    found = Layout(quotas).place(Query(limit=4), listed(5), {3: 4})  # 4 is of brand 1
    assert found.index == [1, 3, 4]  # neither 0 nor 2 may stand within two places of it


def test_where_a_page_ends_above_a_pin_it_stands_last() -> None:
    assert Layout().place(Query(limit=10), listed(3), {7: 0}).index == [1, 2, 0]


@pytest.mark.parametrize(
    "by",
    [
        Epsilon(0.3),
        PlackettLuce(0.4),
        Thompson(lambda query, rows: (np.array([3.0, 9, 1, 0, 5])[rows], np.full(len(rows), 60.0))),
    ],
    ids=lambda by: type(by).__name__,
)
@pytest.mark.parametrize("slots", [frozenset[int](), frozenset({2})])
def test_pages_come_as_often_as_their_propensities_say(
    by: Epsilon | PlackettLuce | Thompson, slots: frozenset[int]
) -> None:
    layout, found = Layout(explore=Explore(by, 4, slots)), listed(5)
    seen: Counter[tuple[int, ...]] = Counter()
    logged: dict[tuple[int, ...], float] = {}
    times = 4000
    for number in range(times):
        placed = layout.place(Query(limit=2, request_id=str(number)), found, {})
        page = tuple(placed.index)
        seen[page] += 1
        assert logged.setdefault(page, float(placed.chances.prod())) == placed.chances.prod()
    assert sum(logged.values()) == pytest.approx(1.0, abs=0.02)  # but for pages never drawn
    often = [page for page in logged if logged[page] * times >= 5]
    expected = np.array([logged[page] * times for page in often])
    counts = np.array([seen[page] for page in often])
    assert chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-3


def test_plackett_luce_is_the_softmax_of_what_is_left() -> None:
    weights = np.exp(np.linspace(1, 0, 4) / 0.5)
    chances = PlackettLuce(0.5).chances(Query(), np.arange(4), np.linspace(1, 0, 4))
    for pool in product(range(4), repeat=2):
        if pool[0] != pool[1]:
            some = weights[list(pool)]
            np.testing.assert_allclose(chances(np.array(pool)), some / some.sum())


def test_thompson_draws_the_item_of_the_highest_rate_as_often_as_it_is_the_highest() -> None:
    clicks, shown = np.array([30.0, 20, 3]), np.array([200.0, 200, 10])
    chances = Thompson(lambda query, rows: (clicks, shown)).chances(
        Query(), np.arange(3), np.zeros(3)
    )(np.arange(3))
    draw = np.random.default_rng(1)
    beta = draw.beta(1 + clicks, 20 + shown - clicks, (200_000, 3))
    often = np.bincount(beta.argmax(1), minlength=3) / len(beta)
    np.testing.assert_allclose(chances, often, atol=0.02)


def test_the_same_request_draws_the_same_page() -> None:
    layout = Layout(explore=Explore(PlackettLuce(1.0), 20))
    pages = {
        tuple(layout.place(Query(request_id=name, limit=5), listed(20), {}).index)
        for name in ("a", "a", "b", "c")
    }
    assert len(pages) == 3
    assert share(Query(request_id="a"), "x") == share(Query(request_id="a"), "x") != 0


def test_items_with_broken_scores_can_be_drawn_but_not_break_a_page() -> None:
    found = Candidates(np.arange(3, dtype=np.int32), np.array([1, np.nan, np.inf], np.float32))
    placed = Layout(explore=Explore(PlackettLuce(0.1), 3)).place(Query(limit=3), found, {})
    assert sorted(placed.index) == [0, 1, 2]
    assert np.isfinite(placed.chances).all()
