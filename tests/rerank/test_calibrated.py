"""Calibration against its formula written naively, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funnel.types import Candidates, History, Query
from rerank.calibrated import ALPHA, LEAST, Calibrated
from rerank.spread import relevance

CODES = np.random.default_rng(3).integers(-1, 6, 1000)
WANTED = np.array([False, True, True])  # by action; the last for unknown ones


def selector(weight: float) -> Calibrated:
    return Calibrated(CODES.__getitem__, WANTED.__getitem__, weight)


def history(rows: list[int], action: int = 1) -> History:
    n = len(rows)
    return History(np.array(rows, np.int32), np.full(n, action, np.int8), np.arange(n))


def divergence(p: dict[int, float], page: list[int]) -> float:
    known = [CODES[row] for row in page if CODES[row] >= 0]
    total = 0.0
    for code, share in p.items():
        q = known.count(code) / len(known) if known else 0.0
        total += share * np.log(share / ((1 - ALPHA) * q + ALPHA * share))
    return total


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 25), st.integers(0, 500), st.floats(0.05, 0.95), st.integers(1, 12))
def test_it_equals_its_formula(n: int, seed: int, weight: float, limit: int) -> None:
    draw = np.random.default_rng(seed)
    past = draw.integers(0, 1000, 12).tolist()
    rows = draw.choice(1000, n, replace=False).astype(np.int32)
    found = Candidates(rows, draw.normal(size=n).astype(np.float32)).top(n)
    codes = [CODES[row] for row in past if CODES[row] >= 0]
    p = {code: codes.count(code) / len(codes) for code in set(codes)}
    scores, chosen = relevance(found.scores), list[int]()
    query = Query(limit=limit, history=history(past))
    picked = selector(weight).select(query, found).tolist()
    for place in range(min(limit, n)):
        values = {
            i: (1 - weight) * scores[i]
            - weight * divergence(p, [int(found.rows[j]) for j in (*chosen, i)])
            for i in range(n)
            if i not in chosen
        }
        assert values[picked[place]] == pytest.approx(max(values.values()), abs=1e-9)
        chosen.append(picked[place])
    assert sorted(picked) == list(range(n))


def page(weight: float, past: History, limit: int = 10) -> list[int]:
    """The categories of a page whose best items are all of category 0."""
    rows = np.concatenate([np.flatnonzero(code == CODES)[:30] for code in (0, 1)]).astype(np.int32)
    scores = np.linspace(1, 0, len(rows)).astype(np.float32)
    found = Candidates(rows, scores)
    index = selector(weight).select(Query(limit=limit, history=past), found)[:limit]
    return CODES[rows[index]].tolist()


def test_a_page_mixes_as_the_history_did_where_the_weight_is_high() -> None:
    of = [int(np.flatnonzero(code == CODES)[0]) for code in (0, 1)]
    past = history([of[0]] * 7 + [of[1]] * 3)
    assert page(0.0, past).count(1) == 0
    assert page(0.99, past).count(1) == 3
    assert page(0.99, past, limit=20).count(1) == 6


@pytest.mark.parametrize(
    "past",
    [
        history([]),
        history([0] * (LEAST - 1)),
        history([1, 2, 3, 4, 5] * 3, action=0),
        history([-1] * 9),
    ],
)
def test_who_is_hardly_known_gets_the_order_of_the_scores(past: History) -> None:
    assert page(0.9, past) == [0] * 10


def test_an_order_that_was_asked_for_stays_and_broken_scores_come_last() -> None:
    draw = np.random.default_rng(0)
    rows = draw.choice(1000, 30, replace=False).astype(np.int32)
    scores = draw.normal(size=30).astype(np.float32)
    scores[[3, 9]] = [np.nan, np.inf]
    found, past = Candidates(rows, scores), history(list(range(40)))
    query = Query(limit=10, history=past)
    assert set(selector(0.9).select(query, found)[-2:].tolist()) == {3, 9}
    ordered = selector(0.9).select(replace(query, sort="price"), found)
    assert found.rows[ordered].tolist() == found.top(30).rows.tolist()
