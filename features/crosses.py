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
from features.spec import AFFINITY_DAYS, AGE_DAYS, RECENT_DAYS
from funnel.types import Array, Floats, Query, Rows

HOUR_MS = 3_600_000
FEW = 16  # words that are faster compared one by one
MOST = 1_000_000  # items that a mean over a catalogue is taken of


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """A history as columns, oldest first; rows that the generation does not have are left out."""

    rows: Rows  # (h,)
    ages: NDArray[np.int64]  # (h,) ms before the query
    weights: NDArray[np.float64]  # (h,) decayed, 0 for actions that are not positive
    recent: NDArray[np.float64]  # (h,) the same, decayed faster

    @staticmethod
    def of(query: Query, items: int, positive: NDArray[np.float64]) -> Past:
        """`positive` has the weight of every action code; -1 is the last."""
        history = query.history
        ages = np.maximum(query.at - history.times, 0)
        keep = (history.rows >= 0) & (history.rows < items) & (ages <= AGE_DAYS * DAY_MS)
        rows, ages, actions = history.rows[keep], ages[keep], history.actions[keep]
        weights, recent = (
            positive[actions] * np.exp2(-ages / (days * DAY_MS))
            for days in (AFFINITY_DAYS, RECENT_DAYS)
        )
        return Past(rows, ages, weights, recent)

    def liked(self) -> Past:
        """The positive part."""
        keep = self.weights > 0
        return Past(self.rows[keep], self.ages[keep], self.weights[keep], self.recent[keep])


def interest(codes: Array, rows: Rows, liked: Past) -> Mapping[str, Floats]:
    """(n,) each, of what was liked with the item's code: its share of the liked weight
    (`affinity`) and of the recent weight (`recent`), log1p of its weight (`liked`), the hours since
    the newest (`since`). NaN without a code; shares without any weight, hours without an action."""
    own, theirs = codes[rows], codes[liked.rows]
    known = theirs >= 0
    distinct, place = np.unique(theirs[known], return_inverse=True)
    count = len(distinct)
    weights, recent = (
        np.bincount(place, of[known], count + 1) for of in (liked.weights, liked.recent)
    )
    hours = np.full(count + 1, np.inf)
    np.minimum.at(hours, place, liked.ages[known] / HOUR_MS)
    hours[count] = np.nan  # the last place is that of codes that were not met
    at = np.searchsorted(distinct, own)
    at[at == count] = count - 1
    at = np.where(distinct[at] == own, at, count) if count else np.zeros(len(own), np.intp)
    columns = {
        "affinity": weights / (weights.sum() or np.nan),
        "recent": recent / (recent.sum() or np.nan),
        "liked": np.log1p(weights),
        "since": hours,
    }
    missing = own < 0
    found: dict[str, Floats] = {}
    for name, column in columns.items():
        values = column.astype(np.float32)[at]
        values[missing] = np.nan
        found[name] = values
    return found


def affinity_multi(table: Lists, rows: Rows, liked: Past, weights: Array) -> Floats:
    """(n,) mean over an item's codes of the share of the liked `weights` that has the code."""
    place, theirs, lengths = table.gathered(liked.rows)
    total = weights[lengths > 0].sum()
    shares = _Shares.of(theirs, weights[place], total)
    place, own, lengths = table.gathered(rows)
    sums = np.bincount(place, shares.at(own), len(rows))
    return _over(sums, lengths)


def gap(own: Array, theirs: Array, liked: Past) -> Floats:
    """(n,) an item's value minus the weighted mean of `theirs`, those of the liked items."""
    known = ~np.isnan(theirs)
    total = liked.weights[known].sum()
    if total <= 0:
        return np.full(len(own), np.nan, np.float32)
    mean = (theirs[known] * liked.weights[known]).sum() / total
    return np.asarray(own - mean, np.float32)


def squashed(x: Array) -> Array:
    """s(x) = sign(x) log1p(|x|)"""
    return np.sign(x) * np.log1p(np.abs(x))


def usual(numbers: Array, codes: Array, values: int) -> Array:
    """(values + 1,) the mean of s(x) over the items of each code; NaN where there is none, and for
    the code -1, the last. Of very many items evenly spaced ones are looked at."""
    step = max(len(numbers) // MOST, 1)
    own, code = squashed(np.asarray(numbers[::step], np.float64)), np.asarray(codes[::step])
    known = (code >= 0) & ~np.isnan(own)
    sums = np.bincount(code[known], own[known], minlength=values + 1)
    counts = np.bincount(code[known], minlength=values + 1)
    return sums / np.where(counts > 0, counts, np.nan)


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
    def of(codes: Array, weights: Array, total: float) -> _Shares:
        distinct, place = np.unique(codes, return_inverse=True)
        return _Shares(distinct, np.bincount(place, weights, len(distinct)) / (total or np.nan))

    def at(self, codes: Array) -> NDArray[np.float64]:
        if not len(self.codes):
            return np.full(len(codes), np.nan)
        found = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        return np.where(self.codes[found] == codes, self.shares[found], 0.0)
