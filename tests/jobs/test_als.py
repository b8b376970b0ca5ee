"""ALS against its own optimum conditions and on a set whose answer is obvious."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from jobs import als, wants
from jobs.als import ALS, factors, improve


def some(seed: int) -> wants.Wants:
    draw = np.random.default_rng(seed)
    users, rows = draw.integers(20, size=120), draw.integers(15, size=120)
    return wants.of(users, rows, np.zeros(120), 16, draw.integers(1, 4, 120).astype(np.float32))


def loss(found: wants.Wants, users: np.ndarray, items: np.ndarray, model: ALS) -> float:
    weights = found.matrix(weighted=True).toarray().astype(float)
    scores = users.astype(float) @ items.T
    seen = (weights > 0).astype(float)
    degrees = (seen.sum(axis) ** model.power for axis in (1, 0))
    norms = [
        float(np.sum(degree * np.square(vectors).sum(1)))
        for degree, vectors in zip(degrees, (users, items), strict=True)
    ]
    fit = float(np.sum(weights * np.square(1 - scores)))
    return fit + model.unseen * float(np.square(scores).sum()) + model.ridge * sum(norms)


def side(found: wants.Wants, items: np.ndarray, model: ALS) -> np.ndarray:
    """The users' factors, solved to the end."""
    matrix = found.matrix(weighted=True)
    users = np.zeros((matrix.shape[0], model.width), np.float32)
    improve(users, matrix, items, replace(model, steps=3 * model.width))
    return users


def test_no_step_away_from_what_a_side_solved_is_better() -> None:
    found, model, draw = some(1), ALS(width=6, rounds=3), np.random.default_rng(2)
    items, _ = factors(found, model)
    users = side(found, items, model)
    lowest = loss(found, users, items, model)
    for _ in range(20):
        moved = users + draw.normal(0, 0.02, users.shape) * users.any(axis=1, keepdims=True)
        assert loss(found, moved, items, model) > lowest


def test_rounds_lower_the_loss() -> None:
    found = some(3)
    losses = []
    for rounds in (1, 3, 8):
        model = ALS(width=6, rounds=rounds)
        items, _ = factors(found, model)
        losses.append(loss(found, side(found, items, model), items, model))
    assert losses[0] > losses[1] > losses[2]


def test_blocks_and_threads_do_not_change_the_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    once = factors(some(4), ALS(width=6, rounds=2))
    monkeypatch.setattr(als, "BLOCK", 3)
    monkeypatch.setattr(als, "threads", lambda: 3)
    again = factors(some(4), ALS(width=6, rounds=2))
    for a, b in zip(once, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not once[0][15].any()  # nobody wanted the last item
