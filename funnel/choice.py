"""
What makes choices likeliest: the conditional logit of McFadden 1974, "Conditional logit analysis of
qualitative choice behavior", with the gains of nDCG as what was chosen.

N candidates of R requests, C columns
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from funnel.types import Array

# A coefficient's bound, times its column's standard deviation: some choices have no noise.
STEEP = 50.0


def likeliest(
    columns: Array, labels: Array, sizes: Array, weights: Array, stands_for: Array | None = None
) -> NDArray[np.float64]:
    """(C,) coefficients >= 0 of the sum of `columns` (N, C), all finite, that make what was wanted
    likeliest: the softmax over each request's candidates, `sizes` (R,) of them beside each other,
    against their shares of the gains 2^label - 1. `weights` (R,) says how much requests count;
    those without a gain say nothing. Where candidates are a sample of all there were, each is as
    many as it `stands_for` (N,). A column that never varies gets 0, and so do all where there
    is nothing to learn from."""
    x = np.asarray(columns, np.float64)
    spread = x.std(axis=0) if len(x) else np.zeros(x.shape[1])
    some = np.asarray(sizes) > 0
    sizes, weights = np.asarray(sizes)[some], np.asarray(weights, np.float64)[some]
    first = np.cumsum(sizes) - sizes
    owner = np.repeat(np.arange(len(sizes)), sizes)
    gains = np.exp2(np.asarray(labels, np.float64)) - 1
    totals = np.add.reduceat(gains, first) if len(first) else np.zeros(0)
    counts = weights * (totals > 0)
    if not counts.sum() > 0 or not spread.any():
        return np.zeros(x.shape[1])
    counts /= counts.sum()
    offset = 0.0 if stands_for is None else np.log(stands_for)
    share = gains / np.maximum(totals, 1e-12)[owner] * counts[owner]
    x = x / np.where(spread > 0, spread, 1.0)

    def loss(at: Array) -> tuple[float, Array]:
        z = x @ at + offset
        z -= np.maximum.reduceat(z, first)[owner]
        odds = np.exp(z)
        sums = np.add.reduceat(odds, first)
        value = counts @ np.log(sums) - share @ z
        return float(value), x.T @ ((counts / sums)[owner] * odds - share)

    bounds = [(0.0, STEEP if own > 0 else 0.0) for own in spread]
    begin = np.where(spread > 0, 0.5, 0.0)
    found = minimize(loss, begin, jac=True, method="L-BFGS-B", bounds=bounds).x
    return np.asarray(found / np.where(spread > 0, spread, 1.0), np.float64)


def log_likelihood(scores: Array, labels: Array, sizes: Array) -> NDArray[np.float64]:
    """(R,) of what was wanted in each request, by the softmax of its candidates' `scores` (N,), at
    least one a request; 0 where there is no gain."""
    first = np.cumsum(sizes) - sizes
    owner = np.repeat(np.arange(len(sizes)), sizes)
    z = np.asarray(scores, np.float64)
    z = z - np.maximum.reduceat(z, first)[owner]
    gains = np.exp2(np.asarray(labels, np.float64)) - 1
    totals = np.add.reduceat(gains, first)
    said = np.add.reduceat(gains * z, first) / np.where(totals > 0, totals, 1.0)
    found: NDArray[np.float64] = said - np.log(np.add.reduceat(np.exp(z), first)) * (totals > 0)
    return found
