"""Selectors: what every one promises, and each against its formula written naively."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funnel.stage import Select, Selector
from funnel.types import Candidates, Query
from rerank.calibrated import Calibrated
from rerank.dedup import PRODUCT, VECTOR, Dedup
from rerank.dispersion import Dispersion
from rerank.dpp import DPP
from rerank.mmr import MMR, relevance
from rerank.signatures import signatures
from rerank.ssd import SSD

DRAW = np.random.default_rng(5)
VECTORS = DRAW.normal(size=(1000, 8))
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)
VECTORS[::7] = 0  # some items have none
CODES = DRAW.integers(-1, 40, 1000)
TEXTS = [f"red shoe number {n // 2} for running and hiking" for n in range(1000)]
SIGNATURES = signatures(TEXTS)

SELECTORS: list[Selector] = [
    Dedup(),
    Dedup(products=CODES.__getitem__),
    Dedup(CODES.__getitem__, SIGNATURES.__getitem__),
    MMR(VECTORS.__getitem__, 0.0),
    MMR(VECTORS.__getitem__, 0.3),
    MMR(VECTORS.__getitem__, 1.0),
    Dispersion(VECTORS.__getitem__, 0.3),
    DPP(VECTORS.__getitem__, 0.3),
    DPP(VECTORS.__getitem__, 1.0, window=20),
    SSD(VECTORS.__getitem__, 0.3),
    SSD(VECTORS.__getitem__, 1.0, window=3),
    Calibrated(CODES.__getitem__, np.array([False, True, False]).__getitem__, 0.5),
]


def candidates(n: int, seed: int = 0, broken: bool = True) -> Candidates:
    draw = np.random.default_rng(seed)
    rows = draw.choice(1000, n, replace=False).astype(np.int32)
    scores = draw.normal(size=n).astype(np.float32).round(1)
    if broken and n > 3:
        scores[draw.choice(n, 2, replace=False)] = [np.nan, np.inf]
    return Candidates(rows, scores)


def distinct(codes: np.ndarray) -> int:
    return len(set(codes[codes >= 0].tolist())) + int((codes < 0).sum())


NAMES = [f"{type(one).__name__}-{place}" for place, one in enumerate(SELECTORS)]


@pytest.mark.parametrize("selector", SELECTORS, ids=NAMES)
@pytest.mark.parametrize("n", [0, 1, 5, 200])
def test_a_selector_returns_distinct_valid_indices_and_repeats_itself(
    selector: Selector, n: int
) -> None:
    found = candidates(n)
    index = selector.select(Query(limit=20), found)
    assert len(set(index.tolist())) == len(index)
    assert all(0 <= i < n for i in index)
    products = getattr(selector, "products", None)
    most = n if products is None else distinct(products(found.rows))
    assert len(index) >= min(most, 20)  # the page is full when the candidates allow it
    np.testing.assert_array_equal(index, selector.select(Query(limit=20), found))


@pytest.mark.parametrize("selector", SELECTORS, ids=NAMES)
def test_a_page_does_not_depend_on_the_order_of_what_came_in(selector: Selector) -> None:
    found = candidates(60)
    shuffled = found.take(np.random.default_rng(1).permutation(60))
    pages = [Select([selector]).run(Query(limit=20), c).rows.tolist() for c in (found, shuffled)]
    assert pages[0] == pages[1]


def test_no_diversity_is_the_order_of_the_scores() -> None:
    found = candidates(50)
    page = found.take(MMR(VECTORS.__getitem__, 0.0).select(Query(limit=20), found))
    np.testing.assert_array_equal(page.rows, found.top(50).rows)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 40), st.integers(0, 1000), st.floats(0.01, 1.0), st.integers(1, 30))
def test_mmr_equals_its_formula(n: int, seed: int, diversity: float, limit: int) -> None:
    found = candidates(n, seed, broken=False).top(n)
    scores, vectors = relevance(found.scores), VECTORS[found.rows]
    chosen: list[int] = []
    while len(chosen) < min(limit, n):
        values = {
            i: (1 - diversity) * scores[i]
            - diversity * max([0.0, *(float(vectors[i] @ vectors[j]) for j in chosen)])
            for i in range(n)
            if i not in chosen
        }
        top = max(values.values())
        chosen.append(min(i for i, value in values.items() if value >= top - 1e-12))
    index = MMR(VECTORS.__getitem__, diversity).select(Query(limit=limit), found)
    assert index[: len(chosen)].tolist() == chosen


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 40), st.integers(0, 1000), st.floats(0.01, 1.0), st.integers(1, 30))
def test_dispersion_equals_its_formula(n: int, seed: int, diversity: float, limit: int) -> None:
    found = candidates(n, seed, broken=False).top(n)
    scores, vectors = relevance(found.scores), VECTORS[found.rows]
    picked = Dispersion(VECTORS.__getitem__, diversity).select(Query(limit=limit), found)
    chosen: list[int] = []
    for place in picked[: min(limit, n)].tolist():
        values = {
            i: (1 - diversity) * scores[i]
            + diversity * float(np.mean([1 - vectors[i] @ vectors[j] for j in chosen] or [1.0]))
            for i in range(n)
            if i not in chosen
        }
        assert values[place] >= max(values.values()) - 1e-9
        chosen.append(place)


def test_the_better_of_two_alike_survives() -> None:
    rows = np.array([10, 11, 12, 500], np.int32)  # 10 and 11 have the same text
    found = Candidates(rows, np.array([0.1, 0.9, 0.5, 0.9], np.float32))
    query = Query(limit=3)
    kept = found.take(Dedup(signatures=SIGNATURES.__getitem__).select(query, found))
    assert kept.rows.tolist() == [11, 500, 12]
    codes = np.full(1000, -1)
    codes[[11, 500]] = 3
    kept = found.take(Dedup(products=codes.__getitem__).select(query, found))
    assert kept.rows.tolist() == [11, 12, 10]  # 500 is the product that 11 is


def test_likeness_goes_through_survivors_only() -> None:
    marks = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 1, 2], [1, 1, 1, 2, 2]], np.uint32)
    found = Candidates(np.arange(3, dtype=np.int32), np.array([3, 2, 1], np.float32))
    kept = Dedup(signatures=marks.__getitem__).select(Query(limit=2), found)
    assert kept.tolist() == [0, 2]  # 2 is like 1, which is gone, and not like 0


def test_a_page_that_would_be_short_takes_the_best_near_duplicates_but_no_product_twice() -> None:
    codes = np.array([[7, 7], [7, 7], [7, 7], [8, 8]], np.uint16)
    found = Candidates(np.arange(4, dtype=np.int32), np.array([4, 3, 2, 1], np.float32))
    dedup = Dedup(signatures=codes.__getitem__)
    assert dedup.select(Query(limit=3), found).tolist() == [0, 3, 1]
    assert dedup.select(Query(limit=2), found).tolist() == [0, 3]
    dedup = Dedup(products=codes[:, 0].astype(int).__getitem__)
    assert dedup.select(Query(limit=3), found).tolist() == [0, 3]


def test_near_vectors_are_duplicates() -> None:
    vectors = np.array([[1.0, 0.0], [0.99, 0.1411], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    found = Candidates(np.arange(5, dtype=np.int32), np.array([5, 4, 3, 2, 1], np.float32))
    kept = Dedup(vectors=vectors.__getitem__, vector=0.98).survivors(Query(), found)
    assert kept.kept.tolist() == [0, 2, 3, 4]  # those without a vector are like nothing
    assert (kept.gone.tolist(), kept.by.tolist(), kept.why.tolist()) == ([1], [0], [VECTOR])


def test_what_a_page_before_showed_displaces_its_twins() -> None:
    codes = np.array([7, 8, 7, 9])
    found = Candidates(np.array([1, 2, 3], np.int32), np.array([1, 9, 2], np.float32))
    query = Query(live={"page.rows": np.array([0], np.int32)})
    kept = Dedup(products=codes.__getitem__).survivors(query, found)
    assert found.rows[kept.kept].tolist() == [3, 1]
    assert (found.rows[kept.gone].tolist(), kept.by.tolist()) == ([2], [0])
    assert kept.why.tolist() == [PRODUCT]


def test_the_same_row_comes_once_with_its_best_score() -> None:
    found = Candidates(np.array([3, 5, 3], np.int32), np.array([0.1, 0.5, 0.9], np.float32))
    assert Dedup().select(Query(limit=20), found).tolist() == [2, 1]


def test_a_broken_score_loses_against_any_other() -> None:
    codes = np.array([7, 7])
    found = Candidates(np.arange(2, dtype=np.int32), np.array([np.nan, -5], np.float32))
    assert Dedup(products=codes.__getitem__).select(Query(limit=1), found).tolist() == [1]


def test_the_second_of_two_alike_gives_way_to_another() -> None:
    vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = Candidates(np.arange(3, dtype=np.int32), np.array([1, 0.9, 0.5], np.float32))
    query = Query(limit=3)
    assert MMR(vectors.__getitem__, 0.5).select(query, found).tolist() == [0, 2, 1]
    assert MMR(vectors.__getitem__, 0.1).select(query, found).tolist() == [0, 1, 2]


@settings(deadline=None, max_examples=40)
@given(
    st.integers(2, 30),
    st.integers(0, 1000),
    st.floats(0.05, 1.0),
    st.integers(1, 25),
    st.integers(2, 12),
)
def test_dpp_is_greedy_for_the_determinant_of_its_window(
    n: int, seed: int, diversity: float, limit: int, window: int
) -> None:
    found = candidates(n, seed, broken=False).top(n)
    vectors, scores = VECTORS[found.rows], relevance(found.scores)
    alike = vectors @ vectors.T
    np.fill_diagonal(alike, 1.0)
    quality = np.exp((1 - diversity) / (2 * diversity) * scores)
    picked = DPP(VECTORS.__getitem__, diversity, window).select(Query(limit=limit), found)
    chosen: list[int] = []
    for place in picked[: min(limit, n)].tolist():
        recent = chosen[max(len(chosen) - window + 1, 0) :]

        def volume(items: list[int]) -> float:
            return float(np.linalg.det(alike[np.ix_(items, items)])) if items else 1.0

        base = volume(recent)
        left = [i for i in range(n) if i not in chosen]
        if base > 1e-6:  # else the window spans all there is, and relevance decides
            gains = {i: quality[i] ** 2 * volume([*recent, i]) / base for i in left}
            best = max(gains.values())
            assert gains[place] >= best * (1 - 1e-5) - 1e-7
        chosen.append(place)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(2, 30),
    st.integers(0, 1000),
    st.floats(0.05, 1.0),
    st.integers(1, 25),
    st.integers(2, 8),
)
def test_ssd_equals_its_formula(
    n: int, seed: int, diversity: float, limit: int, window: int
) -> None:
    found = candidates(n, seed, broken=False).top(n)
    scores, left = relevance(found.scores), VECTORS[found.rows].copy()
    none = ~left.any(axis=1)
    picked = SSD(VECTORS.__getitem__, diversity, window).select(Query(limit=limit), found)
    chosen: list[int] = []
    taken: list[tuple[np.ndarray, np.ndarray]] = []
    for place in picked[: min(limit, n)].tolist():
        lengths = np.where(none, 1.0, np.linalg.norm(left, axis=1))
        value = (1 - diversity) * scores + diversity * lengths
        value[chosen] = -np.inf
        assert value[place] >= value.max() - 1e-9
        chosen.append(place)
        if len(taken) == window - 1:
            axis, shares = taken.pop(0)
            left += shares[:, None] * axis
        axis = left[place].copy()
        shares = left @ axis / (axis @ axis) if axis @ axis > 1e-10 else np.zeros(n)
        left -= shares[:, None] * axis
        taken.append((axis, shares))
