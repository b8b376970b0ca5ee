"""Ranges of numbers against the same counted by hand and by properties."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from funnel.facets import BUCKETS, buckets

NUMBERS = st.lists(st.integers(-5, 5).map(float) | st.floats(-1e6, 1e6), min_size=1, max_size=60)


@given(NUMBERS)
def test_every_value_is_in_one_bucket_and_they_rise(values: list[float]) -> None:
    found = buckets(np.sort(np.array(values)))
    assert 1 <= len(found) <= BUCKETS
    for bucket in found:
        assert bucket.count == sum(bucket.low <= value <= bucket.high for value in values)
    assert sum(bucket.count for bucket in found) == len(values)
    assert (found[0].low, found[-1].high) == (min(values), max(values))
    assert all(a.high < b.low for a, b in pairwise(found))


def test_without_ties_buckets_are_alike() -> None:
    found = buckets(np.arange(100.0))
    assert [(b.low, b.high, b.count) for b in found] == [
        (20.0 * n, 20.0 * n + 19, 20) for n in range(5)
    ]
