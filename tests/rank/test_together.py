"""Requests scored together have the scores that each has by itself."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from funnel.types import Floats
from rank.batch import Encoded
from rank.models import MODELS
from rank.together import Together, joined
from rank.train import predict
from tests.rank.rankers import encoded, model


@pytest.mark.parametrize("name", sorted(MODELS))
def test_scores_are_those_of_one_by_one(name: str) -> None:
    ranker = model(name)
    asked = [encoded(n, (n % 5,), seed=n) for n in range(1, 33)]
    together = Together(lambda one: predict(ranker, one), most=8, wait_ms=20)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(together, asked))
    for one, scores in zip(asked, found, strict=True):
        assert scores == pytest.approx(predict(ranker, one), abs=2e-5, rel=1e-5)
    assert max(together.batches) > 1
    assert max(together.batches) <= 8
    assert sum(together.batches) == 32


def test_an_error_is_each_requests_and_the_next_batch_goes_on() -> None:
    def forward(one: Encoded) -> Floats:
        if len(one.owner) == 3:
            raise ValueError("three")
        return np.zeros((len(one.owner), 1), np.float32)

    together = Together(forward, most=1, wait_ms=1)
    with pytest.raises(ValueError, match="three"):
        together(encoded(3, (1,)))
    assert together(encoded(4, (1,))).shape == (4, 1)


def test_what_is_joined_keeps_its_histories() -> None:
    one, two = encoded(5, (3, 2), seed=1), encoded(4, (0, 1, 4), seed=2)
    both = joined([one, two])
    assert both.history.offsets.tolist() == [0, 3, 5, 5, 6, 10]
    assert both.owner.tolist() == [*one.owner, *(two.owner + 2)]
    assert joined([one]) is one
