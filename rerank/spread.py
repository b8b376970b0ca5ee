"""
What selectors that spread alike items have in common: which candidates they choose among, and what
follows those they choose.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from funnel.types import Array, Candidates, Query, best

Vectors = Callable[[Array], Array]  # rows (n,) -> (n, d) of length 1, zero where there is none
Pick = Callable[[Array, Array, int], Array]  # relevance (n,) falling, vectors (n, d), k -> k places


def spread(query: Query, candidates: Candidates, vectors: Vectors, pick: Pick) -> Array:
    """Indices: `pick` chooses a page out of the candidates with sound scores, best first; what it
    left follows, and what has broken scores. The order that a caller asks for stays as it is."""
    n = len(candidates)
    order = best(candidates.scores, candidates.rows, n)
    if n < 2 or query.sort:
        return order
    sound = order[np.isfinite(candidates.scores)[order]]
    keep = min(query.limit, len(sound))
    found = np.asarray(vectors(candidates.rows[sound]), np.float64)
    picked = pick(relevance(candidates.scores[sound]), found, keep)
    rest = np.setdiff1d(np.arange(n), sound[picked])
    return np.concatenate([sound[picked], order[np.isin(order, rest)]])


def relevance(scores: Array) -> Array:
    """Min-max to [0, 1]; equal scores are all 1."""
    scores = np.asarray(scores, np.float64)
    low, high = scores.min(initial=np.inf), scores.max(initial=-np.inf)
    return (scores - low) / (high - low) if high > low else np.ones(len(scores))
