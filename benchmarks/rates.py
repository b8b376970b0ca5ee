"""
How often what had a code was clicked: a number beside every category.
Micci-Barreca 2001, "A preprocessing scheme for high-cardinality categorical attributes in
classification and prediction problems", https://doi.org/10.1145/507533.507538

In the funnel such numbers are the counters of items and of pairs (features/); tables that come with
categories alone lack them. What is learned from gets those of the other folds, or it would be told
its own label.

N rows, K categories
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from funnel.types import Array, Floats
from rank.batch import Codes

STRENGTH = 10.0  # rows that the mean of all is worth
FOLDS = 10


@dataclass(frozen=True, slots=True, eq=False)
class Rates:
    seen: Sequence[Array]  # by category (codes,)
    clicked: Sequence[Array]
    prior: float

    @staticmethod
    def of(ids: Codes, labels: Floats, sizes: Sequence[int]) -> Rates:
        """ids (N, K), labels (N,) 0 or 1, `sizes` the codes of each category"""
        columns = list(zip(ids.T, sizes, strict=True))
        seen = [np.bincount(codes, minlength=size) for codes, size in columns]
        clicked = [np.bincount(codes, labels, size) for codes, size in columns]
        prior = (labels.sum() + 0.5) / (len(labels) + 1)
        return Rates(seen, clicked, float(prior))

    def __call__(self, ids: Codes) -> Floats:
        """(N, K) smoothed log-odds"""
        found = np.empty(ids.shape, np.float32)
        for place, codes in enumerate(ids.T):
            whole = self.seen[place][codes] + STRENGTH
            rate = (self.clicked[place][codes] + STRENGTH * self.prior) / whole
            found[:, place] = np.log(rate / (1 - rate))
        return found


def apart(ids: Codes, labels: Floats, sizes: Sequence[int], seed: int = 0) -> Floats:
    """(N, K) each row's as the other folds have them."""
    fold = np.random.default_rng(seed).permutation(len(labels)) % FOLDS
    found = np.empty(ids.shape, np.float32)
    for k in range(FOLDS):
        held = fold == k
        found[held] = Rates.of(ids[~held], labels[~held], sizes)(ids[held])
    return found
