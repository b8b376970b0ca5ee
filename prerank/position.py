"""
Position bias: what stands higher is looked at more, so a click further down says more.

A click happens where an item is looked at and relevant: P = θ(place) · γ(item). Regression EM
(Wang et al. 2018, "Position bias estimation for unbiased learning to rank in personal search")
tells the two apart: γ is a logistic function of the score of a model that does not know places.
Training weighs a positive by 1/θ (Joachims, Swaminathan, Schnabel 2017, "Unbiased learning-to-rank
with biased feedback").
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from funnel.types import Array

SHOWN = 50  # a place shown less often has the chance of the one above it
LEAST = 0.1  # of a chance: bounds the weights
ROUNDS = 200


def examination(scores: Array, clicked: Array, positions: Array) -> NDArray[np.float64]:
    """(K + 1,) the chance that each place from 1 on is looked at, as a share of the first's, in
    [`LEAST`, 1]; entry 0, of what was not shown, is 1.

    `scores` (N,) on any scale, `clicked` (N,), `positions` (N,) 0 for not shown.
    """
    shown = positions > 0
    deepest = int(positions.max(initial=0))
    chance = np.ones(deepest + 1)
    counts = np.bincount(positions[shown], minlength=deepest + 1)
    if deepest < 2 or counts[1] < SHOWN:
        return chance
    x = _scaled(np.asarray(scores, np.float64)[shown])
    x = np.stack([np.ones(len(x)), x], axis=1)
    places, happened = positions[shown] - 1, np.asarray(clicked, bool)[shown]
    theta = np.linspace(1.0, 0.5, deepest)  # at 1 nothing would ever be unseen
    rate = np.clip(happened.mean(), 1e-6, 1 - 1e-6)
    line = np.array([np.log(rate / (1 - rate)), 1.0])
    seen = np.maximum(counts[1:], 1)
    for _ in range(ROUNDS):
        gamma = 1 / (1 + np.exp(-np.clip(x @ line, -30, 30)))
        looked = theta[places]
        # Where nothing was clicked: was it looked at, would it have been relevant?
        nothing = np.maximum(1 - looked * gamma, 1e-9)
        examined = np.where(happened, 1.0, looked * (1 - gamma) / nothing)
        relevant = np.where(happened, 1.0, gamma * (1 - looked) / nothing)
        theta = np.bincount(places, examined, deepest) / seen
        theta = np.clip(theta / max(theta[0], 1e-9), 1e-3, 1.0)
        weight = np.maximum(gamma * (1 - gamma), 1e-9)
        hessian = (x * weight[:, None]).T @ x + np.eye(2)
        line = line + np.clip(np.linalg.solve(hessian, x.T @ (relevant - gamma)), -1, 1)
    chance[1:] = np.clip(theta, LEAST, 1.0)
    for place in range(2, deepest + 1):
        if counts[place] < SHOWN:
            chance[place] = chance[place - 1]
    return chance


def _scaled(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean 0, deviation 1."""
    spread = scores.std()
    return (scores - scores.mean()) / spread if spread > 0 else np.zeros(len(scores))


def boosts(labels: Array, positions: Array, chance: NDArray[np.float64]) -> NDArray[np.float32]:
    """(N,) weights: of a positive the inverse of its place's chance, 1 of anything else."""
    found = np.where(labels > 0, 1 / chance[np.minimum(positions, len(chance) - 1)], 1.0)
    return found.astype(np.float32)
