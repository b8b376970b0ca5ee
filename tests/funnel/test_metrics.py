"""Ranking metrics against formulas written naively and against scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sk_log_loss
from sklearn.metrics import ndcg_score, roc_auc_score

from funnel.metrics import (
    auc,
    auc_values,
    bootstrap_interval,
    ece,
    gauc,
    grouped_ndcg_at_k,
    log_loss,
    mrr_at_k,
    ndcg_at_k,
    recall_at_k,
)

GAINS = st.lists(st.integers(0, 3), min_size=2, max_size=30)


@given(GAINS, st.integers(1, 30))
def test_ndcg_equals_scikit_learns_on_exponential_gains(gains: list[int], k: int) -> None:
    graded = np.array(gains, float)
    value = ndcg_at_k(graded, graded, k)
    if not graded.any():
        assert value == 0.0
        return
    falling = -np.arange(len(gains), dtype=float)
    assert value == pytest.approx(ndcg_score([np.exp2(graded) - 1], [falling], k=k))


@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 3), st.sampled_from([0.0, 1.0, 2.0, math.nan])), min_size=1
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 12),
)
def test_ndcg_of_many_requests_at_once_is_that_of_each(
    requests: list[list[tuple[int, float]]], k: int
) -> None:
    labels, scores = (
        np.array(c) for c in zip(*(pair for r in requests for pair in r), strict=True)
    )
    owners = np.repeat(np.arange(len(requests)), [len(request) for request in requests])
    ties = np.arange(len(labels))
    found = grouped_ndcg_at_k(labels, scores, ties, owners, k)
    for value, request in zip(found, requests, strict=True):
        order = sorted(request, key=lambda pair: math.inf if math.isnan(pair[1]) else -pair[1])
        gains = [label for label, _ in order]
        if any(gains):
            assert value == pytest.approx(ndcg_at_k(gains, gains, k))
        else:
            assert math.isnan(value)


def test_what_was_not_found_lowers_ndcg_and_recall() -> None:
    assert ndcg_at_k([1, 0], [1, 1], 2) == pytest.approx(1 / (1 + 1 / math.log2(3)))
    assert recall_at_k([1, 0, 1], [1, 1, 1, 1], 2) == 0.25
    assert mrr_at_k([0, 0, 2], 10) == pytest.approx(1 / 3)
    assert mrr_at_k([0, 0, 2], 2) == 0.0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=50))
def test_auc_equals_scikit_learns_and_counts_ties_half(pairs: list[tuple[bool, int]]) -> None:
    labels, scores = (np.array(values) for values in zip(*pairs, strict=True))
    if labels.all() or not labels.any():
        assert math.isnan(auc(labels, scores))
    else:
        assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))


def test_values_of_auc_are_its_mean_and_scatter_as_it_does() -> None:
    draw = np.random.default_rng(2)
    sizes = draw.integers(2, 40, 300)
    owners = np.repeat(np.arange(300), sizes)
    ease = np.repeat(draw.normal(size=300), sizes)  # candidates of a request resemble each other
    scores = np.round(draw.normal(size=len(owners)) + ease, 1)
    labels = (scores + draw.normal(size=len(owners)) + ease > 1.5).astype(int)
    values = auc_values(labels, scores, owners, 300)
    assert values.mean() == pytest.approx(roc_auc_score(labels, scores))
    parts = np.split(np.arange(len(owners)), np.cumsum(sizes)[:-1])
    again = []
    for _ in range(400):  # the bootstrap that draws whole requests
        rows = np.concatenate([parts[at] for at in draw.integers(0, 300, 300)])
        again.append(roc_auc_score(labels[rows], scores[rows]))
    assert values.std() / math.sqrt(300) == pytest.approx(np.std(again), rel=0.15)
    assert np.isnan(auc_values(np.ones(3), np.ones(3), np.zeros(3, int), 1)).all()


def test_gauc_weighs_groups_by_size_and_skips_those_of_one_kind() -> None:
    labels = [1, 0, 1, 0, 0, 1, 1]
    scores = [2, 1, 0, 1, 2, 5, 6]
    groups = ["a", "a", "b", "b", "b", "c", "c"]
    assert gauc(labels, scores, np.array(groups)) == pytest.approx((2 * 1.0 + 3 * 0.0) / 5)


def test_log_loss_and_calibration() -> None:
    labels, p = np.array([1, 0, 0, 1]), np.array([0.9, 0.2, 0.4, 0.6])
    assert log_loss(labels, p) == pytest.approx(sk_log_loss(labels, p))
    assert ece([1, 0] * 50, np.full(100, 0.5)) == pytest.approx(0)
    assert ece([1] * 100, np.full(100, 0.25)) == pytest.approx(0.75)


def test_the_interval_is_seeded_and_covers_about_what_it_says() -> None:
    draw = np.random.default_rng(1)
    assert bootstrap_interval([1.0, 2.0, 3.0]) == bootstrap_interval([1.0, 2.0, 3.0])
    hits = 0
    for _ in range(100):
        low, high = bootstrap_interval(draw.normal(size=60), resamples=300)
        hits += low <= 0 <= high
    assert 88 <= hits <= 99
    assert all(map(math.isnan, bootstrap_interval([])))
