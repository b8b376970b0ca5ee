"""
Several channels' candidates as one list: a weighted sum of normalised scores.

    fused(i) = Σ_c  w_c · norm_c(i),   norm_c(i) = (s_c(i) − min_c) / (max_c − min_c)

over the channels c that returned anything, with Σ w_c = 1 over all channels of the scene. An item
that a channel did not return gets 0 from it; a channel whose scores are all equal gives 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from funnel.config import Scene
from funnel.generation import Generation
from funnel.metrics import ndcg_at_k
from funnel.types import NO_ROWS, Array, Candidates, Query, best

STEPS = 10  # of the simplex of weights


def normalised(scores: Array) -> Array:
    """Min-max to [0, 1]; equal scores are all 1."""
    scores = np.asarray(scores, np.float64)
    if not len(scores):
        return scores
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low) if high > low else np.ones(len(scores))


@dataclass(frozen=True)
class WeightedSum:
    """`weights` by channel; those of channels that are not asked do not matter."""

    weights: Mapping[str, float]

    def __call__(self, query: Query, found: Mapping[str, Candidates], keep: int) -> Candidates:
        shares = self._shares(found)
        rows = np.unique(np.concatenate([NO_ROWS, *(c.rows for c in found.values())]))
        fused = np.zeros(len(rows))
        columns: dict[str, Array] = {}
        for name, candidates in found.items():
            place = np.searchsorted(rows, candidates.rows)
            fused[place] += shares[name] * normalised(candidates.scores)
            column = np.full(len(rows), np.nan, np.float32)
            column[place] = candidates.scores
            columns[f"recall.{name}"] = column
        scores = fused.astype(np.float32)
        order = best(scores, rows, keep)
        kept = Candidates(rows[order], scores[order], {k: v[order] for k, v in columns.items()})
        return kept.scored(kept.scores, "recall")

    def _shares(self, names: Mapping[str, Candidates]) -> dict[str, float]:
        own = {name: max(self.weights.get(name, 0.0), 0.0) for name in names}
        total = sum(own.values())
        return {name: weight / total if total else 1.0 / len(own) for name, weight in own.items()}


def weights_of(generation: Generation, scene: str, settings: Scene) -> dict[str, float]:
    """The weights fitted by the build where there are any and the scene wants them."""
    channels = settings.recall.channels
    configured: dict[str, float] = {name: channel.weight for name, channel in channels.items()}
    file = f"fusion/{scene}.json"
    if not settings.recall.fit or not generation.has(file):
        return configured
    fitted = generation.json(file)["weights"]
    return {name: float(fitted.get(name, weight)) for name, weight in configured.items()}


@dataclass(frozen=True, slots=True)
class Fitted:
    """Weights chosen on training requests, and what they reach on validation requests."""

    weights: Mapping[str, float]
    metrics: Mapping[str, float]  # nDCG@10 of the fusion and of each channel, on validation


def fit_weights(
    train: Sequence[tuple[Mapping[str, Candidates], Mapping[int, float]]],
    valid: Sequence[tuple[Mapping[str, Candidates], Mapping[int, float]]],
    names: Sequence[str],
) -> Fitted:
    """The best weights on a grid, by mean nDCG@10 over (candidates by channel, grades by row).

    A fusion that loses to its best single channel on the validation requests is refused: then that
    channel has all the weight, and the others only fill in behind it.
    """
    grid = [
        dict(zip(names, np.array(point) / STEPS, strict=True))
        for point in product(range(STEPS + 1), repeat=len(names))
        if sum(point) == STEPS
    ]
    chosen = max(grid, key=lambda weights: (quality(train, weights), _even(weights)))
    singles = {name: quality(valid, _alone(name, names)) for name in names}
    reached = quality(valid, chosen)
    single = max(singles, key=lambda name: singles[name])
    if singles[single] > reached:
        chosen, reached = _alone(single, names), singles[single]
    return Fitted(chosen, {"fusion": reached, **singles})


def _alone(name: str, names: Sequence[str]) -> dict[str, float]:
    return {other: 1.0 if other == name else 1e-6 for other in names}


def _even(weights: Mapping[str, float]) -> float:
    """Of equally good weights the more even ones: they lean less on one channel."""
    return -float(np.square(list(weights.values())).sum())


def quality(
    requests: Sequence[tuple[Mapping[str, Candidates], Mapping[int, float]]],
    weights: Mapping[str, float],
) -> float:
    """Mean nDCG@10 of the fused lists."""
    fuse, query = WeightedSum(weights), Query()
    values = []
    for found, grades in requests:
        rows = fuse(query, found, 10).rows
        gains = np.array([grades.get(int(row), 0.0) for row in rows])
        values.append(ndcg_at_k(gains, np.array(list(grades.values())), 10))
    return float(np.mean(values)) if values else 0.0
