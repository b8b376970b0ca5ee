"""item2vec beside its formula, and over two groups of users that never meet."""

from __future__ import annotations

import numpy as np
import pytest

from funnel.types import Array
from jobs.item2vec import Item2Vec, vectors
from jobs.wants import Wants, of


@pytest.fixture(scope="module")
def tastes() -> Wants:
    """Items 0 to 29 and 30 to 59, each wanted by 60 users of their own; item 60 by one user."""
    draw = np.random.default_rng(4)
    users, rows = [], []
    for user in range(120):
        chosen = draw.choice(30, 12, replace=False) + 30 * (user % 2)
        users += [user] * len(chosen)
        rows += chosen.tolist()
    users.append(0)
    rows.append(60)
    return of(np.array(users), np.array(rows), np.arange(len(rows)), 61)


def test_items_that_the_same_users_want_are_near(tastes: Wants) -> None:
    made = vectors(tastes, Item2Vec(width=16, rounds=30), seed=7)
    group = np.arange(60) // 30
    near = made[:60] @ made[:60].T
    same = group[:, None] == group
    assert near[same].min() > near[~same].max()


def test_vectors_have_length_1_and_items_hardly_seen_have_none(tastes: Wants) -> None:
    made = vectors(tastes, Item2Vec(width=8, rounds=2), seed=7)
    assert made.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), [1.0] * 60 + [0.0], atol=1e-6)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tastes: Wants) -> None:
    model = Item2Vec(width=8, rounds=3)
    made = [vectors(tastes, model, seed).tobytes() for seed in (1, 1, 2)]
    assert made[0] == made[1]
    assert made[0] != made[2]


def test_a_pair_is_pulled_together_as_written_naively() -> None:
    """Two items always beside each other, no negatives and nothing left to chance."""
    found = of(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), np.arange(4), 2)
    model = Item2Vec(width=4, window=1, negatives=0, rounds=3)
    start = (np.random.default_rng(5).random((2, 4)) - 0.5) / 4
    v: Array = start.astype(np.float32).astype(float)
    c = np.zeros((2, 4))
    for done in range(3):
        first, last = (model.rate * max(1 - at / 3, 0.01) for at in (done, done + 1))
        for user in range(2):
            rate = first + (last - first) * user / 2
            for i, j in ((0, 1), (1, 0)):
                pull = rate * (1 - 1 / (1 + np.exp(-v[i] @ c[j])))
                v[i], c[j] = v[i] + pull * c[j], c[j] + pull * v[i]
    expected = v / np.linalg.norm(v, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors(found, model, seed=5), expected, rtol=1e-5, atol=1e-7)


def test_without_wants_there_are_no_vectors() -> None:
    none = np.empty(0, np.int64)
    assert not vectors(of(none, none, none, 3), Item2Vec(width=4), seed=1).any()
