"""The filters of the graph against the formula on dense matrices."""

from __future__ import annotations

import numpy as np

from funnel.types import Query
from jobs import wants
from jobs.spectral import Spectral as Settings
from jobs.spectral import train
from recall.spectral import Spectral


def test_the_scores_are_those_of_the_formula() -> None:
    draw = np.random.default_rng(3)
    users, rows = draw.integers(40, size=300), draw.integers(20, size=300)
    found = wants.of(users, rows, np.zeros(300), 20)
    trained = train(found, Settings(width=6, spare=2.0, rounds=12))
    channel = Spectral(trained.items, trained.fame, trained.graph, 0.3, 0.6, np.ones(1))

    matrix = found.matrix().toarray()
    people, fame = matrix.sum(1, keepdims=True), np.maximum(matrix.sum(0), 1)
    graph = matrix / np.sqrt(np.maximum(people, 1)) / np.sqrt(fame)
    step = graph.T @ graph
    _, _, right = np.linalg.svd(graph)
    smooth = right[:6].T @ right[:6]
    for item in range(20):
        start = np.eye(20)[item]
        blurred = step @ start + 0.3 * np.sqrt(fame) * (smooth @ (start / np.sqrt(fame)))
        wanted = blurred - 0.6 * step @ blurred
        query = Query(request_id="r", scene="similar", item=item, at=0, limit=20)
        got = channel.find(query, None, 20)
        np.testing.assert_allclose(got.scores, wanted[got.rows], atol=2e-4)
        assert set(np.flatnonzero(wanted > 1e-3)) <= set(got.rows)
