"""
Scores of one channel's list on a common scale, so that those of several channels can be added.

    min_max    (s − min) / (max − min); equal scores are all 1
    z_score    (s − mean) / deviation; equal scores are all 0
    dbsf       (s − mean + 3·deviation) / (6·deviation), cut to [0, 1]; equal scores are all ½
    rank       1 − place / n, places from 0: only the order counts

What a list lacks lies at the floor of the scale: 0, and for z_score the lowest of the list or -1;
so the one item of a short list stands above what was not found.

dbsf is distribution-based score fusion: one far outlier does not press all others together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from funnel.types import Array

Floats = NDArray[np.float64]


def min_max(scores: Floats) -> Floats:
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low) if high > low else np.ones(len(scores))


def z_score(scores: Floats) -> Floats:
    deviation = scores.std()
    centred: Floats = scores - scores.mean()
    return centred / deviation if deviation > 0 else np.zeros(len(scores))


def dbsf(scores: Floats) -> Floats:
    wide = 6 * scores.std()
    if wide == 0:
        return np.full(len(scores), 0.5)
    centred: Floats = (scores - scores.mean()) / wide + 0.5
    return np.clip(centred, 0.0, 1.0)


def rank(scores: Floats) -> Floats:
    return 1 - np.arange(len(scores)) / len(scores)


NORMS: Mapping[str, Callable[[Floats], Floats]] = {
    "min_max": min_max,
    "z_score": z_score,
    "dbsf": dbsf,
    "rank": rank,
}


def floor(values: Floats, norm: str) -> float:
    """What an item counts that is not among those of these normalised scores."""
    return min(float(values.min(initial=0.0)), -1.0) if norm == "z_score" else 0.0


def normalised(scores: Array, norm: str) -> Floats:
    """(n,) float64 of scores that are best first."""
    values = np.asarray(scores, np.float64)
    return NORMS[norm](values) if len(values) else values
