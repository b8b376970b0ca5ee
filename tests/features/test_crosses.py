from __future__ import annotations

import numpy as np
import pytest

from features.crosses import near, usual


@pytest.mark.parametrize("width", [3, 32, 64, 100])
def test_cosines_are_the_same_to_the_bit_wherever_a_row_is(width):
    # A split of a tree can hang on the last bit: a logged request must score the same again.
    draw = np.random.default_rng(width)
    vectors = draw.normal(size=(500, width)).astype(np.float32)
    rows, liked = (draw.permutation(500)[:n].astype(np.int32) for n in (300, 20))
    whole = near(vectors, rows, liked, 7)
    lengths = np.linalg.norm(vectors, axis=1)
    cosines = (vectors[rows] @ vectors[liked].T) / np.outer(lengths[rows], lengths[liked])
    np.testing.assert_allclose(whole["last"], cosines[:, -1], atol=1e-6)
    np.testing.assert_allclose(whole["max"], cosines.max(axis=1), atol=1e-6)
    np.testing.assert_allclose(whole["mean"], cosines.mean(axis=1), atol=1e-6)
    for some in (draw.permutation(300), np.arange(5, 42), np.array([299])):
        part = near(vectors, rows[some], liked, 7)
        for name, column in whole.items():
            np.testing.assert_array_equal(part[name], column[some])


def test_what_is_usual_is_the_mean_of_each_code_and_unknown_where_there_is_none():
    prices = np.array([1.0, 3.0, np.nan, 7.0, 5.0, 9.0])
    codes = np.array([0, 0, 0, 2, -1, 2], np.int32)
    means = usual(prices, codes, 4)
    expected = [(np.log1p(1) + np.log1p(3)) / 2, np.nan, (np.log1p(7) + np.log1p(9)) / 2]
    np.testing.assert_allclose(means, [*expected, np.nan, np.nan])


def test_of_very_many_items_evenly_spaced_ones_say_what_is_usual(monkeypatch):
    monkeypatch.setattr("features.crosses.MOST", 5)
    prices, codes = np.arange(10.0), np.zeros(10, np.int32)
    assert usual(prices, codes, 1)[0] == pytest.approx(np.log1p(prices[::2]).mean())
