"""
What a user did, held against many items at once. n candidates, h actions.

Every value of an item depends on that item and the user alone, never on the other candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from features.attributes import Lists
from features.fold import DAY_MS
from features.spec import AFFINITY_DAYS, AGE_DAYS
from funnel.types import Array, Floats, Query, Rows

HOUR_MS = 3_600_000
FEW = 16  # words that are faster compared one by one


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """A history as columns, oldest first; rows that the generation does not have are left out."""

    rows: Rows  # (h,)
    ages: NDArray[np.int64]  # (h,) ms before the query
    weights: NDArray[np.float64]  # (h,) decayed, 0 for actions that are not positive

    @staticmethod
    def of(query: Query, items: int, positive: NDArray[np.float64]) -> Past:
        """`positive` has the weight of every action code; -1 is the last."""
        history = query.history
        ages = np.maximum(query.at - history.times, 0)
        keep = (history.rows >= 0) & (history.rows < items) & (ages <= AGE_DAYS * DAY_MS)
        rows, ages, actions = history.rows[keep], ages[keep], history.actions[keep]
        weights = positive[actions] * np.exp2(-ages / (AFFINITY_DAYS * DAY_MS))
        return Past(rows, ages, weights)

    def liked(self) -> Past:
        """The positive part."""
        keep = self.weights > 0
        return Past(self.rows[keep], self.ages[keep], self.weights[keep])


def affinity(codes: Array, rows: Rows, liked: Past) -> Floats:
    """(n,) share of the liked weight with the item's code; NaN without a code or any weight."""
    own, theirs = codes[rows], codes[liked.rows]
    known = theirs >= 0
    shares = _Shares.of(theirs[known], liked.weights[known])
    found: Floats = np.where(own >= 0, shares.at(own), np.nan).astype(np.float32)
    return found


def affinity_multi(table: Lists, rows: Rows, liked: Past) -> Floats:
    """(n,) mean over an item's codes of the share of the liked weight that has the code."""
    place, theirs, lengths = table.gathered(liked.rows)
    total = liked.weights[lengths > 0].sum()
    shares = _Shares.of(theirs, liked.weights[place], total)
    place, own, lengths = table.gathered(rows)
    sums = np.bincount(place, shares.at(own), len(rows))
    return _over(sums, lengths)


def gap(numbers: Array, rows: Rows, liked: Past) -> Floats:
    """(n,) s(x) minus the weighted mean of s over the liked items."""
    theirs, own = squashed(numbers[liked.rows]), squashed(numbers[rows])
    known = ~np.isnan(theirs)
    total = liked.weights[known].sum()
    if total <= 0:
        return np.full(len(rows), np.nan, np.float32)
    mean = (theirs[known] * liked.weights[known]).sum() / total
    return np.asarray(own - mean, np.float32)


def squashed(x: Array) -> Array:
    """s(x) = sign(x) log1p(|x|)"""
    return np.sign(x) * np.log1p(np.abs(x))


def touched(rows: Rows, past: Past) -> tuple[Floats, Floats]:
    """How often the user acted on each item (n,), and the hours since the last time (n,)."""
    if not len(past.rows):
        return np.zeros(len(rows), np.float32), np.full(len(rows), np.nan, np.float32)
    distinct, place = np.unique(past.rows, return_inverse=True)
    ages = np.full(len(distinct), np.inf)
    np.minimum.at(ages, place, past.ages)
    found = np.minimum(np.searchsorted(distinct, rows), len(distinct) - 1)
    hit = distinct[found] == rows
    count = np.where(hit, np.bincount(place)[found], 0).astype(np.float32)
    hours = np.where(hit, ages[found] / HOUR_MS, np.nan).astype(np.float32)
    return count, hours


def near(vectors: Array, rows: Rows, liked: Rows, item: int) -> Mapping[str, Floats]:
    """(n,) cosines: `last`, `max`, `mean` over the liked items, oldest first, and to `item`.

    NaN for items without a vector (all zero, or later than `vectors`), and where nothing is there
    to compare with.
    """
    n, missing = len(rows), np.full(len(rows), np.nan, np.float32)
    others = np.append(liked, item) if item >= 0 else liked
    if not n or not len(others):
        return dict.fromkeys(("last", "max", "mean", "item"), missing)
    own, theirs = _at(vectors, rows), _at(vectors, others)
    cosines = _cosines(theirs / norms(theirs)[:, None], own)  # (len(others), n)
    asked = cosines[len(liked)] if item >= 0 else missing
    known = cosines[: len(liked)][theirs[: len(liked)].any(axis=1)]
    if not len(known):
        return {"last": missing, "max": missing, "mean": missing, "item": asked}
    mean = sum(known) / np.float32(len(known))  # one after the other, however many items there are
    return {"last": known[-1], "max": known.max(0), "mean": mean, "item": asked}


# Not BLAS: its sums differ in the last bit by where in a matrix a row is, and a split of a tree
# can hang on that bit. Here the same two vectors always have the same cosine.
@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _cosines(few, many):  # type: ignore[no-untyped-def]  # pragma: no cover
    """(h, n) cosines of vectors of length 1 with any; NaN for zero vectors."""
    found = np.empty((len(few), len(many)), np.float32)
    for n in range(len(many)):
        length = np.float32(0)
        for d in range(many.shape[1]):
            length += many[n, d] * many[n, d]
        length = np.sqrt(length) if length > 0 else np.float32(np.nan)
        for h in range(len(few)):
            total = np.float32(0)
            for d in range(few.shape[1]):
                total += few[h, d] * many[n, d]
            found[h, n] = total / length
    return found


def _at(vectors: Array, rows: Rows) -> Floats:
    found = np.asarray(vectors[np.minimum(rows, len(vectors) - 1)], np.float32)
    found[rows >= len(vectors)] = 0
    return found


def norms(vectors: Floats) -> Floats:
    """(n,) lengths of the rows, NaN instead of 0."""
    lengths: Floats = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    lengths[lengths == 0] = np.nan
    return lengths


def matched(table: Lists, rows: Rows, asked: Array) -> tuple[Floats, Floats]:
    """The share of `asked` (rising codes) that each item has, and the share of its codes asked."""
    place, own, lengths = table.gathered(rows)
    if not len(asked):
        missing = np.full(len(rows), np.nan, np.float32)
        return missing, missing
    if len(asked) <= FEW:
        hit = np.zeros(len(own), bool)
        for code in asked:
            hit |= own == code
    else:
        hit = asked[np.minimum(np.searchsorted(asked, own), len(asked) - 1)] == own
    hits = np.bincount(place[hit], minlength=len(rows))
    return (hits / len(asked)).astype(np.float32), _over(hits, lengths)


def _over(sums: Array, counts: Array) -> Floats:
    """sums / counts, NaN where there is nothing."""
    result = np.full(len(sums), np.nan, np.float32)
    np.divide(sums, counts, out=result, where=counts > 0, casting="unsafe")
    return result


@dataclass(frozen=True, slots=True, eq=False)
class _Shares:
    """Weight by code, as a share of the total; NaN when there is no weight at all."""

    codes: Array  # distinct, rising
    shares: NDArray[np.float64]

    @staticmethod
    def of(codes: Array, weights: Array, total: float | None = None) -> _Shares:
        distinct, place = np.unique(codes, return_inverse=True)
        total = weights.sum() if total is None else total
        return _Shares(distinct, np.bincount(place, weights, len(distinct)) / (total or np.nan))

    def at(self, codes: Array) -> NDArray[np.float64]:
        if not len(self.codes):
            return np.full(len(codes), np.nan)
        found = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        return np.where(self.codes[found] == codes, self.shares[found], 0.0)
