"""The likeliest sum of columns, against the formula written request by request."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from funnel.choice import STEEP, likeliest, log_likelihood


def likely(at, columns, labels, sizes, weights):
    """The log-likelihood, a request at a time."""
    total, begin = 0.0, 0
    for size, weight in zip(sizes, weights, strict=True):
        own = slice(begin, begin + size)
        begin += size
        gains = 2.0 ** labels[own] - 1
        if gains.sum() > 0:
            odds = np.exp(columns[own] @ at)
            total += weight * (gains / gains.sum() * np.log(odds / odds.sum())).sum()
    return total


def world(seed, requests=60, noise=1.0):
    """Two columns that tell what is wanted, the second twice as much, and one that does not."""
    draw = np.random.default_rng(seed)
    sizes = draw.integers(0, 9, requests)
    n = int(sizes.sum())
    columns = draw.normal(size=(n, 3)) * [1, 5, 2]
    wish = columns[:, 0] + 2 * columns[:, 1] / 5 + noise * draw.gumbel(size=n)
    labels = np.where(wish > 2.5, draw.integers(1, 4, n), 0).astype(np.float32)
    return columns, labels, sizes, draw.random(requests) + 0.5


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_likeliest_of_the_formula_written_request_by_request(seed):
    given = world(seed)
    found = likeliest(*given)

    def loss(at):
        return -likely(np.maximum(at, 0), *given)

    best = minimize(loss, [0.5, 0.1, 0.2], method="Nelder-Mead", options={"xatol": 1e-6}).x
    assert likely(found, *given) >= likely(np.maximum(best, 0), *given) - 1e-5
    assert found == pytest.approx(np.maximum(best, 0), abs=2e-3)


def test_a_sample_says_what_the_whole_would():
    """Candidates that nobody wanted, once as they are and once as one that stands for all."""
    columns, labels, sizes, weights = world(1, 30)
    many = np.where(labels > 0, 1, np.random.default_rng(1).integers(1, 5, len(labels)))
    owner = np.repeat(np.arange(30), sizes)
    often = np.repeat(np.arange(len(labels)), many)
    whole = likeliest(
        columns[often], labels[often], np.bincount(owner[often], minlength=30), weights
    )
    found = likeliest(columns, labels, sizes, weights, many)
    assert found == pytest.approx(whole, abs=2e-3, rel=2e-3)
    assert found != pytest.approx(likeliest(columns, labels, sizes, weights), rel=0.01)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100))
def test_it_follows_the_unit_of_a_column_and_no_order_of_requests(seed, unit):
    columns, labels, sizes, weights = world(seed, 30)
    found = likeliest(columns, labels, sizes, weights)
    scaled = likeliest(columns * [1, unit, 1], labels, sizes, 7 * weights)
    assert scaled * [1, unit, 1] == pytest.approx(found, abs=2e-3, rel=2e-3)
    order = np.random.default_rng(seed).permutation(len(sizes))
    starts = np.cumsum(sizes) - sizes
    rows = np.concatenate([np.arange(starts[k], starts[k] + sizes[k]) for k in order])
    moved = likeliest(columns[rows], labels[rows], sizes[order], weights[order])
    assert moved == pytest.approx(found, abs=2e-3, rel=2e-3)


def test_a_column_against_what_is_wanted_or_without_anything_to_say_gets_nothing():
    columns, labels, sizes, weights = world(1)
    columns[:, 0] *= -1
    columns[:, 2] = 3.0
    first, second, third = likeliest(columns, labels, sizes, weights)
    assert (first, third) == (0, 0)
    assert second > 0


def test_choices_without_noise_are_bounded_and_no_choice_is_none():
    columns = np.array([[0.0], [1.0], [0.0], [1.0]])
    sizes, weights = np.array([2, 2]), np.ones(2)
    (found,) = likeliest(columns, np.array([0.0, 1.0, 0.0, 1.0]), sizes, weights)
    assert 5 < found <= STEEP / columns.std()
    assert likeliest(columns, np.zeros(4), sizes, weights).tolist() == [0]
    assert likeliest(columns, np.ones(4), sizes, 0 * weights).tolist() == [0]
    assert likeliest(columns[:0], np.zeros(0), np.zeros(0, int), np.zeros(0)).tolist() == [0]


@pytest.mark.parametrize("seed", range(3))
def test_the_likelihood_of_each_request_is_the_formula_written_for_it(seed):
    columns, labels, sizes, _ = world(seed)
    sizes = sizes[sizes > 0]
    at = np.array([1.0, 0.3, -0.2])
    found = log_likelihood(columns @ at, labels, sizes)
    one = [np.arange(len(sizes)) == k for k in range(len(sizes))]
    assert found == pytest.approx([likely(at, columns, labels, sizes, own) for own in one])
    assert log_likelihood(1e4 + columns @ at, labels, sizes) == pytest.approx(found)
