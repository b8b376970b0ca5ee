"""
One of each: the same row, the same declared product, or nearly the same text appear once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from funnel.types import Array, Candidates, Query, best
from rerank.signatures import resemblance

THRESHOLD = 0.8


@dataclass(frozen=True)
class Dedup:
    """Of items that are alike the better-scored survives, then the lower row.

    `products` gives rows (n,) their product's code, -1 for none; `signatures` their (n, k) MinHash;
    each may be missing. Likeness goes through survivors only: an item is dropped for one that
    stays. Where less than a page survives, the best of those dropped follow after all, except for
    rows that are there already.
    """

    products: Callable[[Array], Array] | None = None
    signatures: Callable[[Array], Array] | None = None
    threshold: float = THRESHOLD

    def select(self, query: Query, candidates: Candidates) -> Array:
        """Best first, then what fills the page."""
        order = best(candidates.scores, candidates.rows, len(candidates))
        _, first = np.unique(candidates.rows[order], return_index=True)
        order = order[np.sort(first)]
        alike = self._alike(candidates.rows[order])
        kept: list[int] = []
        gone = np.zeros(len(order), bool)
        for place in range(len(order)):  # tens of candidates, in order of their scores
            if not gone[place]:
                kept.append(place)
                gone |= alike[place]
        gone[kept] = False
        missing = max(query.limit - len(kept), 0)
        return np.concatenate([order[kept], order[gone][:missing]])

    def _alike(self, rows: Array) -> Array:
        """(n, n) whether two of the rows are one thing."""
        alike = np.zeros((len(rows), len(rows)), bool)
        if self.products is not None:
            codes = self.products(rows)
            alike |= (codes[:, None] == codes[None, :]) & (codes >= 0)[:, None]
        if self.signatures is not None:
            alike |= resemblance(self.signatures(rows)) >= self.threshold
        found: Array = alike
        return found
