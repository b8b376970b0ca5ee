"""
Calibration: a page mixes categories about as the user's history does. Who read seven crime novels
and three travel guides gets some travel guides, though crime scores higher.

    next = argmax_i  (1 − λ) · r_i − λ · KL(p ‖ q̃ with i),   q̃ = (1 − α) q + α p

Steck 2018, "Calibrated recommendations", with its greedy choice, place by place; p is the history's
mix, q the page's so far, r the scores brought to [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from funnel.types import Array, Candidates, History, Query, best
from rerank.quotas import Codes
from rerank.spread import relevance

ALPHA = 0.01  # of p in q̃, so that a category that the page lacks costs no infinity
LEAST = 3  # positive actions with a category; fewer say nothing about a mix


@dataclass(frozen=True)
class Calibrated:
    """`weight` λ in [0, 1]; 0 keeps the order. `positive(actions)` (h,) says which actions count.

    Users with too short a history, pages in an order that the caller asks for, and items without a
    category are left where they are: such an item adds to no category. Broken scores come last.
    """

    codes: Codes
    positive: Callable[[Array], Array]
    weight: float

    def select(self, query: Query, candidates: Candidates) -> Array:
        n = len(candidates)
        order = best(candidates.scores, candidates.rows, n)
        mix = self.mix(query.history)
        if n < 2 or query.sort or not self.weight or mix is None:
            return order
        sound = order[np.isfinite(candidates.scores)[order]]
        keep = min(query.limit, len(sound))
        values, wanted = mix
        codes = np.asarray(self.codes(candidates.rows[sound]))
        at = np.minimum(np.searchsorted(values, codes), len(values) - 1)
        group = np.where(codes < 0, -2, np.where(values[at] == codes, at, -1))
        picked = self._greedy(relevance(candidates.scores[sound]), group, wanted, keep)
        rest = np.setdiff1d(np.arange(n), sound[picked])
        return np.concatenate([sound[picked], order[np.isin(order, rest)]])

    def mix(self, history: History) -> tuple[Array, NDArray[np.float64]] | None:
        """The categories of what the user wanted and their shares p; None where too little is
        known."""
        rows = history.rows[(history.rows >= 0) & self.positive(history.actions)]
        codes = np.asarray(self.codes(rows))
        values, counts = np.unique(codes[codes >= 0], return_counts=True)
        if counts.sum() < LEAST:
            return None
        return values, counts / counts.sum()

    def _greedy(self, scores: Array, group: Array, p: NDArray[np.float64], keep: int) -> Array:
        """`group` is a place in p, -1 for another category and -2 for none."""
        left = np.ones(len(scores), bool)
        counts, total = np.zeros(len(p)), 0
        picked = np.empty(keep, np.intp)
        for place in range(keep):
            # Divergences of the page with one item more: of a category of p, another, and none.
            size = total + 1
            terms = _terms(p, counts / size)
            rising = terms.sum() - terms + _terms(p, (counts + 1) / size)
            same = _terms(p, counts / max(total, 1)).sum()
            after = np.append(rising, [same, terms.sum()])  # places -2 and -1 of the end
            value = (1 - self.weight) * scores - self.weight * after[group]
            chosen = int(np.argmax(np.where(left, value, -np.inf)))
            picked[place], left[chosen] = chosen, False
            if group[chosen] >= 0:
                counts[group[chosen]] += 1
            total += group[chosen] > -2
        return picked


def _terms(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """The summands of KL(p ‖ q̃)."""
    found: NDArray[np.float64] = p * np.log(p / ((1 - ALPHA) * q + ALPHA * p))
    return found
