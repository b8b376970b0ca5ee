"""What the benchmarks of rerank call wrong is wrong, and their figures are those of small cases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.near_duplicates import Exact, found
from benchmarks.rerank_quality import gini
from benchmarks.rerank_slates import Case, Shop, wrong
from benchmarks.rerank_truth import clicked
from funnel.types import AD, PINNED, PRICE, Candidates
from funnel.world_truth import examined
from rerank.signatures import signatures


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop.made(tmp_path_factory.mktemp("shop"))


def page(rows: list[int], **columns: list[float]) -> Candidates:
    n = len(rows)
    made = {name: np.array(column, np.float32) for name, column in columns.items()}
    return Candidates(np.array(rows, np.int32), np.zeros(n, np.float32), made)


def test_broken_pages_are_found_out(shop: Shop) -> None:
    plain = Case({"near_duplicates": False}, (), 3)
    came = page([3, 5, 7, 9])
    assert wrong(shop, plain, came, page([3, 5, 7])) == ""
    assert "twice" in wrong(shop, plain, came, page([3, 3, 7]))
    assert "nowhere" in wrong(shop, plain, came, page([3, 5, 8]))
    assert "too many" in wrong(shop, plain, came, page([3, 5, 7, 9]))
    assert "items where 3 could be" in wrong(shop, plain, came, page([3, 5]))
    block = replace(plain, rules=({"name": "b", "do": "block", "items": ["i005"]},))
    assert "blocked" in wrong(shop, block, came, page([3, 5, 7]))
    pin = replace(plain, rules=({"name": "p", "do": "pin", "items": ["i009"], "place": 1},))
    marked = {PINNED: [0.0, 1.0, 0.0]}
    assert wrong(shop, pin, came, page([9, 3, 5], **{PINNED: [1.0, 0.0, 0.0]})) == ""
    assert "is not at 1" in wrong(shop, pin, came, page([3, 9, 5], **marked))
    quota = replace(plain, settings={"near_duplicates": False, "quotas": {"brand": [1, 3]}})
    same = np.flatnonzero(shop.brand == shop.brand[3])[:3].tolist()
    assert "quota" in wrong(shop, quota, page(same), page(same))
    twins = np.flatnonzero(shop.model == np.argmax(np.bincount(shop.model)))[:2].tolist()
    strict = Case({"near_duplicates": True}, (), 2)
    assert "product twice" in wrong(shop, strict, page(twins), page(twins))


def test_broken_ads_are_found_out(shop: Shop) -> None:
    known = {"method": "fixed", "slots": [2, 3], "load": 0.5, "gap": 1, "first": 2, "reserve": 0.1}
    made = Case({"near_duplicates": False, "ads": known}, (), 4)
    paid = np.flatnonzero((shop.sponsor >= 0) & (shop.bid > 0.3))[:2].tolist()
    free = np.flatnonzero(shop.sponsor < 0)[:2].tolist()
    nan = float("nan")

    def said(rows: list[int], prices: list[float]) -> str:
        ads = [float(np.isfinite(price)) for price in prices]
        return wrong(shop, made, page(rows), page(rows, **{AD: ads, PRICE: prices}))

    assert said([*free, *paid], [nan, nan, 0.2, nan]) == ""
    assert "too close" in said([free[0], *paid, free[1]], [nan, 0.2, 0.2, nan])
    assert "too high" in said([paid[0], *free, paid[1]], [0.2, nan, nan, nan])
    assert "outside its slots" in said([*free, *paid], [nan, nan, nan, 0.2])
    assert "nobody pays" in said([paid[0], *free, paid[1]], [nan, 0.2, nan, nan])
    assert "a price of" in said([*free, *paid], [nan, nan, 0.9 + shop.bid[paid[0]], nan])


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_gini_is_half_the_mean_difference_over_the_mean(counts: list[int]) -> None:
    values = np.array(counts, float)
    naive = np.abs(values[:, None] - values[None]).mean() / (2 * values.mean())
    assert gini(values) == pytest.approx(naive)


def test_clicks_are_drawn_as_often_as_the_world_expects() -> None:
    chance = np.tile([0.3, 0.1, 0.5, 0.2], (100_000, 1))
    drawn = clicked(chance, np.random.default_rng(1)).mean(0)
    np.testing.assert_allclose(drawn, (examined(chance) * chance)[0], atol=0.005)


def test_pairs_by_signatures_are_those_that_are_alike(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    words = [f"w{n}" for n in range(400)]
    texts = [" ".join(draw.choice(words, 12)) for _ in range(100)]
    texts += [f"{texts[n]} more" for n in range(10)]
    exact = Exact(texts)
    pairs = {tuple(pair) for pair in found(signatures(texts)).tolist()}
    assert {(n, 100 + n) for n in range(10)} == pairs
    assert all(exact(a, b) > 0.7 for a, b in pairs)
    assert exact(0, 1) < 0.1
