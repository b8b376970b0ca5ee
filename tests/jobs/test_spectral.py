"""The smoothest directions against a full singular value decomposition."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jobs import wants
from jobs.spectral import Spectral, directions, train, write


def some() -> wants.Wants:
    draw = np.random.default_rng(6)
    users, rows = draw.integers(60, size=500), draw.integers(24, size=500) ** 2 // 24
    return wants.of(users, rows, np.zeros(500), 26)


def test_the_filter_is_that_of_the_first_singular_vectors() -> None:
    matrix = some().matrix()
    r = matrix.toarray()
    du, di = np.maximum(r.sum(1), 1), np.maximum(r.sum(0), 1)
    _, _, right = np.linalg.svd(r / np.sqrt(du)[:, None] / np.sqrt(di)[None, :])
    found = directions(matrix, Spectral(width=5, spare=2.0, rounds=12))
    np.testing.assert_allclose(found.items @ found.items.T, right[:5].T @ right[:5], atol=1e-3)
    np.testing.assert_array_equal(found.fame, di)
    np.testing.assert_allclose(
        found.graph.toarray(), r / np.sqrt(du)[:, None] / np.sqrt(di)[None, :], rtol=1e-6
    )


def test_items_that_nobody_wanted_have_no_direction(tmp_path: Path) -> None:
    trained = train(some(), Spectral(width=5))
    assert not trained.items[24:].any()
    assert trained.items[0].any()
    assert write(tmp_path / "spectral", trained) <= 24
    nothing = wants.of(*(np.empty(0, np.int64) for _ in range(3)), 4)
    assert write(tmp_path / "spectral", train(nothing)) == 0
    assert not (tmp_path / "spectral").exists()
