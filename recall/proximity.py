"""
More for rows in which words of the query stand together, in the order in which they were typed.

    bonus(row) = weight · Σ_(a, b)  min(idf_a, idf_b) · (k1 + 1)·c / (c + norm[row])
    c = Σ count / distance     over places of b at most `window` words after an a, in one column

a, b: neighbours in the query; count: what a word counts in the column. After Büttcher, Clarke and
Lushman 2006, "Term proximity scoring for ad-hoc retrieval on very large text collections", with
1 / distance for 1 / distance².
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from funnel.types import Array
from recall.lexicon import Segment


@dataclass(frozen=True, eq=False)
class Proximity:
    """The bonus of one query."""

    pairs: Array  # (p, 2) int32, terms
    worth: Array  # (p,) float32
    window: int

    def __call__(self, segment: Segment, places: Array, scores: Array) -> Array:
        more: Array = _bonus(
            segment.forward.ends,
            segment.forward.terms,
            places,
            self.pairs,
            self.worth,
            segment.scan.norms,
            np.float32(segment.scan.k1),
            self.window,
        )
        return scores + more


@numba.njit(nogil=True, cache=True)
def _bonus(ends, terms, places, pairs, worth, norms, k1, window):  # type: ignore[no-untyped-def]  # pragma: no cover
    more = np.zeros(len(places), np.float32)
    for n in range(len(places)):
        first, last = ends[places[n]], ends[places[n] + 1]
        for p in range(len(pairs)):
            close = np.float32(0)
            weight, at = np.float32(0), -1  # of the column; the last place of a
            for place in range(first, last):
                term = terms[place]
                if term < 0:
                    weight, at = np.float32(-term), -1
                    continue
                if term == pairs[p, 1] and at >= 0 and place - at <= window:
                    close += weight / np.float32(place - at)
                if term == pairs[p, 0]:
                    at = place
            if close > 0:
                saturated = (k1 + np.float32(1)) * close / (close + norms[places[n]])
                more[n] += worth[p] * saturated
    return more
