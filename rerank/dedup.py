"""
One of each: the same row, the same declared product, nearly the same text or nearly the same vector
appear once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from funnel.types import Array, Candidates, Query, best
from rerank.signatures import resemblance

REASONS = ("the same item", "the same product", "nearly the same text", "nearly the same vector")
ROW, PRODUCT, TEXT, VECTOR = range(4)


@dataclass(frozen=True, eq=False)
class Survivors:
    """Places in the candidates: what survives, best first; then, best first too, what is nearly the
    same as a survivor. The other three (k,) say which went (`gone`), for which row (`by`), and why
    (places in `REASONS`)."""

    kept: Array
    near: Array
    gone: Array
    by: Array
    why: Array


@dataclass(frozen=True)
class Dedup:
    """Of items that are alike the better-scored survives, then the lower row. What pages before
    showed (`page.rows` of the query) survives everything.

    `products` gives rows (n,) their product's code, -1 for none; `signatures` their (n, k) MinHash,
    alike from `text` on; `vectors` (n, d) of length 1 or 0, alike from the cosine `vector` on. Each
    may be missing. Likeness goes through survivors only: an item is dropped for one that stays.
    """

    products: Callable[[Array], Array] | None = None
    signatures: Callable[[Array], Array] | None = None
    vectors: Callable[[Array], Array] | None = None
    text: float = 0.75
    vector: float = 0.95

    def select(self, query: Query, candidates: Candidates) -> Array:
        """Best first, then as many near-duplicates as the page lacks: a product comes once, but a
        full page of what is nearly the same is better than a short one."""
        found = self.survivors(query, candidates)
        return np.concatenate([found.kept, found.near[: max(query.limit - len(found.kept), 0)]])

    def survivors(self, query: Query, candidates: Candidates) -> Survivors:
        above = np.asarray(query.live.get("page.rows", ()), np.int32)
        order = best(candidates.scores, candidates.rows, len(candidates))
        rows = np.concatenate([above, candidates.rows[order]])
        why = self._alike(rows)
        n, first = len(rows), len(above)
        by = np.full(n, -1)
        for place in range(n):  # tens of candidates, in order of their scores
            if by[place] < 0:
                mine = (why[place] >= 0) & (by < 0)
                mine[: max(place + 1, first)] = False
                by[mine] = place
        gone = np.flatnonzero(by >= 0)
        reasons = why[by[gone], gone]
        kept = np.flatnonzero(by[first:] < 0)
        near = gone[reasons >= TEXT] - first
        return Survivors(order[kept], order[near], order[gone - first], rows[by[gone]], reasons)

    def _alike(self, rows: Array) -> NDArray[np.int8]:
        """(n, n) why two of the rows are one thing, the hardest reason; -1 where they are not."""
        why = np.full((len(rows), len(rows)), -1, np.int8)
        if self.vectors is not None:
            vectors = np.asarray(self.vectors(rows))
            why[vectors @ vectors.T >= self.vector] = VECTOR
        if self.signatures is not None:
            why[resemblance(self.signatures(rows)) >= self.text] = TEXT
        if self.products is not None:
            codes = self.products(rows)
            why[(codes[:, None] == codes[None, :]) & (codes >= 0)[:, None]] = PRODUCT
        why[rows[:, None] == rows[None, :]] = ROW
        return why
