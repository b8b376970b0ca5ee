"""The best entries of a product against the product written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import products
from jobs.products import incidence, top_product


def naive(a, b, left, right, keep, power, diagonal):
    """row -> [(column, weight)], best first, ties to the lower column."""
    product = (a.toarray().astype(float) @ b.toarray()) * left[:, None] * right[None, :]
    lists = []
    for row, line in enumerate(product):
        found = [
            (column, value)
            for column, value in enumerate(line)
            if value > 0 and (diagonal or column != row)
        ]
        found.sort(key=lambda entry: (-entry[1], entry[0]))
        lists.append([(column, value**power) for column, value in found[:keep]])
    return lists


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 8),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.booleans(),
)
def test_the_lists_are_the_best_entries_of_the_product(
    seed: int, keep: int, power: float, diagonal: bool
) -> None:
    draw = np.random.default_rng(seed)
    # Small whole numbers: sums are exact, and many are equal.
    a = sp.csr_matrix(draw.integers(0, 2, (7, 5)) * draw.integers(1, 3, (7, 5)))
    b = sp.csr_matrix(draw.integers(0, 2, (5, 9)))
    left, right = draw.integers(0, 3, 7).astype(float), draw.integers(1, 3, 9).astype(float)
    found = top_product(a, b, left, right, keep, power, diagonal)
    for row, wanted in enumerate(naive(a, b, left, right, keep, power, diagonal)):
        span = slice(found.indptr[row], found.indptr[row + 1])
        assert found.indices[span].tolist() == [column for column, _ in wanted]
        np.testing.assert_allclose(found.weights[span], [w for _, w in wanted], rtol=1e-6)


def test_blocks_and_threads_do_not_change_the_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(2)
    a = sp.random(300, 200, 0.05, format="csr", random_state=1, dtype=np.float32)
    ones = np.ones(300)
    once = top_product(a, a.T.tocsr(), ones, ones, 20)
    monkeypatch.setattr(products, "BLOCK", int(draw.integers(3, 40)))
    monkeypatch.setattr(products, "threads", lambda: 3)
    heard: list[int] = []
    again = top_product(a, a.T.tocsr(), ones, ones, 20, progress=heard.append)
    for name in ("indptr", "indices", "weights"):
        np.testing.assert_array_equal(getattr(once, name), getattr(again, name))
    assert heard[-1] == 300


def test_nothing_wanted_gives_empty_lists_and_no_files(tmp_path: Path) -> None:
    empty = incidence(np.empty(0, np.int32), np.empty(0, np.int32), 4)
    found = top_product(empty.T.tocsr(), empty, np.ones(4), np.ones(4), 5)
    assert len(found) == 4
    assert found.indptr.tolist() == [0] * 5
    assert found.write(tmp_path / "lists") == 0
    assert not (tmp_path / "lists").exists()
