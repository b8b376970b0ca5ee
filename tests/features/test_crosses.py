from __future__ import annotations

import numpy as np
import pytest

from features.crosses import near


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
