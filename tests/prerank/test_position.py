"""Position bias on clicks of a known law."""

from __future__ import annotations

import numpy as np
import pytest

from funnel.config import Prerank
from funnel.metrics import grouped_ndcg_at_k
from prerank.gbdt import Table, fit, predict
from prerank.position import LEAST, boosts, examination

PAGE, FEATURES = 10, 4
LOOKED = 1 / np.arange(1, PAGE + 1)  # chance that a place is looked at


def clicks(pages: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features, true relevance (log-odds of a click), clicks and places of pages that an old order
    made, which looks at another feature than what is relevant."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(pages, PAGE, FEATURES)).astype(np.float32)
    truth = 1.2 * x[..., 0] + 0.6 * x[..., 1] - 2.0
    old = 1.5 * x[..., 2] + 0.5 * x[..., 0] + 0.5 * draw.normal(size=truth.shape)
    places = 1 + np.argsort(np.argsort(-old, axis=1), axis=1)
    chance = LOOKED[places - 1] / (1 + np.exp(-truth))
    happened = draw.random(truth.shape) < chance
    return x.reshape(-1, FEATURES), truth.ravel(), happened.ravel(), places.ravel()


def table(x: np.ndarray, labels: np.ndarray, more: np.ndarray | None = None) -> Table:
    pages = len(x) // PAGE
    sizes = np.full(pages, PAGE, np.int64)
    return Table(x, labels.astype(np.float32), sizes, np.ones(pages, np.float32), more)


def test_the_examination_curve_is_found_where_relevance_is_known() -> None:
    _, truth, happened, places = clicks(30_000, 1)
    found = examination(truth, happened, places)
    np.testing.assert_allclose(found[1:], np.maximum(LOOKED, LEAST), rtol=0.15)
    assert found[0] == 1.0


def test_a_model_of_weighed_clicks_orders_by_relevance_better() -> None:
    x, _, happened, places = clicks(4000, 2)
    other, relevance, later, _ = clicks(1500, 3)
    settings = Prerank(trees=60)
    valid = table(other, later)
    plain = fit(table(x, happened), valid, settings, 1)
    chance = examination(predict(plain, x), happened, places)
    assert chance[2:].max() < 0.8
    fair = fit(table(x, happened, boosts(happened, places, chance)), valid, settings, 1)
    fresh, relevance, _, _ = clicks(1500, 4)
    owners, rows = np.repeat(np.arange(1500), PAGE), np.arange(len(fresh))
    gains = np.digitize(relevance, np.quantile(relevance, [0.5, 0.75, 0.9, 0.97])).astype(float)
    plainly, fairly = (
        grouped_ndcg_at_k(gains, predict(one, fresh), rows, owners, 5) for one in (plain, fair)
    )
    gain = (fairly - plainly)[~np.isnan(plainly)]
    assert gain.mean() > 3 * gain.std() / np.sqrt(len(gain))


def test_what_was_not_shown_counts_as_it_did() -> None:
    labels, places = np.array([1, 1, 0, 0]), np.array([0, 2, 2, 0])
    assert boosts(labels, places, np.array([1.0, 1.0, 0.5])).tolist() == [1, 2, 1, 1]
    assert examination(np.zeros(4), labels > 0, np.zeros(4, int)).tolist() == [1.0]


@pytest.mark.parametrize("shown", [1, 3])
def test_too_little_to_see_leaves_all_alike(shown: int) -> None:
    places = np.tile(np.arange(1, 6), shown)
    found = examination(np.zeros(len(places)), np.ones(len(places)), places)
    assert (found == 1).all()
