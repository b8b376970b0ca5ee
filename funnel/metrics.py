"""
How good an order is. Gains are the grades of a list's items, best place first, 0 for what is not
relevant; `ideal` has the grades of all that is relevant to the request, in any order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from funnel.types import Array

RESAMPLES = 1000


def dcg(gains: Array) -> float:
    """Σ_i (2^g_i − 1) / log2(i + 1) with i from 1 (Burges et al. 2005)."""
    gains = np.asarray(gains, np.float64)
    return float(((np.exp2(gains) - 1) / np.log2(np.arange(2, len(gains) + 2))).sum())


def ndcg_at_k(gains: Array, ideal: Array, k: int) -> float:
    """DCG of the first k over that of the best order; 0 where nothing is relevant
    (Järvelin and Kekäläinen 2002)."""
    best = dcg(-np.sort(-np.asarray(ideal, np.float64))[:k])
    return dcg(np.asarray(gains)[:k]) / best if best > 0 else 0.0


def grouped_ndcg_at_k(
    labels: Array, scores: Array, ties: Array, owners: Array, k: int
) -> NDArray[np.float64]:
    """nDCG@k of every request at once: (R,), NaN where a request has nothing relevant.

    Each of the N candidates has a label, a score, the number that breaks its ties (its row: the
    lower first) and an owner, the place of its request from 0 to R - 1. Broken scores come last.
    """
    scores = np.where(np.isfinite(scores), scores, -np.inf)
    requests = int(owners.max()) + 1 if len(owners) else 0

    def gained(order: Array) -> NDArray[np.float64]:
        own = owners[order]  # rising
        place = np.arange(len(own)) - np.searchsorted(own, np.arange(requests))[own]
        gains = (np.exp2(labels[order].astype(np.float64)) - 1) / np.log2(place + 2)
        return np.bincount(own, np.where(place < k, gains, 0.0), requests).astype(np.float64)

    best = gained(np.lexsort((-np.asarray(labels), owners)))
    gain = gained(np.lexsort((ties, -scores, owners)))
    found = np.full(requests, np.nan)
    np.divide(gain, best, out=found, where=best > 0)
    return found


def recall_at_k(gains: Array, ideal: Array, k: int) -> float:
    """Share of what is relevant that is among the first k; 0 where nothing is."""
    relevant = int((np.asarray(ideal) > 0).sum())
    return float((np.asarray(gains)[:k] > 0).sum() / relevant) if relevant else 0.0


def mrr_at_k(gains: Array, k: int) -> float:
    """One over the place of the first relevant item, 0 if it is not among the first k."""
    found = np.flatnonzero(np.asarray(gains)[:k] > 0)
    return 1.0 / (int(found[0]) + 1) if len(found) else 0.0


def auc(labels: Array, scores: Array) -> float:
    """The chance that a positive scores above a negative, ties half; NaN without both
    (Mann and Whitney 1947)."""
    positive = np.asarray(labels) > 0
    p, n = int(positive.sum()), int((~positive).sum())
    if not p or not n:
        return float("nan")
    _, inverse, counts = np.unique(np.asarray(scores), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[inverse]  # mean rank of what ties, from 1
    return float((ranks[positive].sum() - p * (p + 1) / 2) / (p * n))


def auc_values(labels: Array, scores: Array, owners: Array, count: int) -> Array:
    """(R,) a value a request, of which the mean is the AUC of all candidates together; how it
    scatters over the `count` requests says how sure that is (Obuchowski 1997, "Nonparametric
    analysis of clustered ROC curve data"). `owners` (N,) says whose each candidate is. NaN without
    a positive or a negative."""
    positive = np.asarray(labels) > 0
    p, n = int(positive.sum()), int((~positive).sum())
    if not p or not n:
        return np.full(count, np.nan)
    values, place = np.unique(np.asarray(scores), return_inverse=True)
    ones = np.bincount(place[positive], minlength=len(values))
    others = np.bincount(place[~positive], minlength=len(values))
    above = (np.cumsum(others) - others / 2) / n  # share of the negatives that a positive beats
    below = 1 - (np.cumsum(ones) - ones / 2) / p  # share of the positives that beat a negative
    mean = float((above * ones).sum() / p)
    found = np.full(count, mean)
    for kind, share, total in ((positive, above, p), (~positive, below, n)):
        off = share[place[kind]] - mean
        found += np.bincount(owners[kind], off, count) * (count / total)
    return found


def gauc(labels: Array, scores: Array, groups: Array) -> float:
    """AUC within each group (a request, a user), weighted by its size; groups with one kind of
    label are left out (Zhou et al. 2018, "Deep interest network"). NaN without any group."""
    order = np.argsort(groups, kind="stable")
    labels, scores, groups = (np.asarray(values)[order] for values in (labels, scores, groups))
    edges = np.flatnonzero(groups[1:] != groups[:-1]) + 1
    values, sizes = [], []
    for part in np.split(np.arange(len(groups)), edges):
        value = auc(labels[part], scores[part]) if len(part) else float("nan")
        if np.isfinite(value):
            values.append(value)
            sizes.append(len(part))
    return float(np.average(values, weights=sizes)) if values else float("nan")


def log_loss(labels: Array, probabilities: Array) -> float:
    """Mean negative log-likelihood of 0/1 labels; probabilities are kept off 0 and 1 by 1e-7."""
    p = np.clip(np.asarray(probabilities, np.float64), 1e-7, 1 - 1e-7)
    y = (np.asarray(labels) > 0).astype(np.float64)
    return float(-(y * np.log(p) + (1 - y) * np.log(1 - p)).mean())


def ece(labels: Array, probabilities: Array, bins: int = 15) -> float:
    """Expected calibration error over bins of equal width (Naeini et al. 2015)."""
    p = np.asarray(probabilities, np.float64)
    y = (np.asarray(labels) > 0).astype(np.float64)
    place = np.minimum((p * bins).astype(np.int64), bins - 1)
    said, was = np.bincount(place, p, bins), np.bincount(place, y, bins)
    return float(np.abs(said - was).sum() / max(len(p), 1))


def bootstrap_interval(
    values: Array, seed: int = 0, resamples: int = RESAMPLES, level: float = 0.95
) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean (Efron 1979); of paired differences, too.

    (NaN, NaN) without values.
    """
    values = np.asarray(values, np.float64)
    if not len(values):
        return float("nan"), float("nan")
    draw = np.random.default_rng(seed)
    means = np.empty(resamples)
    for at in range(resamples):
        means[at] = values[draw.integers(0, len(values), len(values))].mean()
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)
