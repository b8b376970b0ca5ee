"""
The best rows of weighted terms, out of postings: term by term, the highest bounds first.

    score(row) = Σ_t  weight(t) · impact(tf(t, row), row)
    impact = (k1 + 1)·tf / (tf + norm[row])       BM25, norm = k1·(1 − b + b·length / mean length)
    impact = (1 + ln tf) · norm[row]              cosine, norm = 1 / |row|

Once what the terms to come can add at most is below what the last of the best rows already has, no
other row can come in: from there on only rows that still can are looked up (Turtle and Flood 1995,
"Query evaluation: strategies and optimizations", max-score).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numba
import numpy as np

from funnel.types import Array, Rows
from recall.masks import Mask
from recall.postings import Postings

BINS = 2048  # of scores, to find the last of the best rows
SLACK = 1e-5  # share of a bound that rounding may have taken
NO_MASK = np.ones(1, bool)


class Lines(threading.local):
    """Zeros, one a row, that each thread adds up in and leaves as zeros."""

    def __init__(self) -> None:
        self.scores = np.zeros(0, np.float32)
        self.seen = np.zeros(0, np.uint64)

    def of(self, n: int, counted: bool) -> tuple[Array, Array]:
        if len(self.scores) < n:
            self.scores = np.zeros(n, np.float32)
        if counted and len(self.seen) < n:
            self.seen = np.zeros(n, np.uint64)
        return self.scores, self.seen


LINES = Lines()


@dataclass(frozen=True, eq=False)
class Asked:
    """The terms of a query, their weights, and the word of the query (0 to 63) each stands for."""

    terms: Array  # (q,) int64
    weights: Array  # (q,) float32
    groups: Array  # (q,) uint64

    def __len__(self) -> int:
        return len(self.terms)

    def take(self, index: Array) -> Asked:
        return Asked(self.terms[index], self.weights[index], self.groups[index])


@dataclass(frozen=True, eq=False)
class Scan:
    """Postings with what an impact takes beside tf."""

    postings: Postings
    norms: Array  # (n,) float32
    k1: float  # 0: cosine
    tops: Array = field(init=False)  # (v,) float32, the highest impact of each term

    def __post_init__(self) -> None:
        p = self.postings
        object.__setattr__(self, "tops", _tops(p.starts, p.rows, p.tf, self.norms, self.k1))

    def find(
        self, asked: Asked, allowed: Mask | None, limit: int, least: int = 1
    ) -> tuple[Rows, Array]:
        """The best `limit` of the allowed rows with at least `least` words of the query, in no
        order; of equal ones the first rows."""
        n = len(self.norms)
        if not len(asked) or not n or limit <= 0:
            return np.empty(0, np.int32), np.empty(0, np.float32)
        bounds = asked.weights * self.tops[asked.terms]
        order = np.lexsort((asked.terms, -bounds))
        asked, bounds = asked.take(order), bounds[order]
        scores, seen = LINES.of(n, least > 1)
        p = self.postings
        found: tuple[Rows, Array] = _find(
            p.starts,
            p.rows,
            p.tf,
            self.norms,
            np.float32(self.k1),
            asked.terms,
            asked.weights,
            bounds.astype(np.float32),
            asked.groups,
            NO_MASK if allowed is None else allowed,
            allowed is not None,
            min(limit, n),
            least,
            scores,
            seen,
        )
        return found


@numba.njit(nogil=True, cache=True, inline="always")
def _impact(tf, norm, k1):  # type: ignore[no-untyped-def]  # pragma: no cover
    if k1 > 0:
        return (k1 + np.float32(1)) * tf / (tf + norm)
    return np.float32(1 + np.log(tf)) * norm


@numba.njit(nogil=True, cache=True)
def _tops(starts, rows, tf, norms, k1):  # type: ignore[no-untyped-def]  # pragma: no cover
    tops = np.zeros(len(starts) - 1, np.float32)
    for term in range(len(tops)):
        for place in range(starts[term], starts[term + 1]):
            impact = _impact(np.float32(tf[place]), norms[rows[place]], np.float32(k1))
            tops[term] = max(tops[term], impact)
    return tops


@numba.njit(nogil=True, cache=True)
def _floor(scores, touched, count, high, limit):  # type: ignore[no-untyped-def]  # pragma: no cover
    """A score that at least `limit` rows reach, not much below that of the last of the best."""
    bins = np.zeros(BINS + 1, np.int64)
    scale = np.float32(BINS) / high
    for n in range(count):
        bins[min(int(scores[touched[n]] * scale), BINS)] += 1
    above = 0
    for place in range(BINS, 0, -1):
        above += bins[place]
        if above >= limit:
            return np.float32((place - 1e-3) / scale)
    return np.float32(0)


@numba.njit(nogil=True, cache=True)
def _probe(rows, low, high, row):  # type: ignore[no-untyped-def]  # pragma: no cover
    """The first place in [low, high) whose row is not below `row`: in leaps, then by halves."""
    leap = 1
    while low + leap < high and rows[low + leap] < row:
        low += leap
        leap *= 2
    high = min(low + leap + 1, high)
    while low < high:
        middle = (low + high) >> 1
        if rows[middle] < row:
            low = middle + 1
        else:
            high = middle
    return low


@numba.njit(nogil=True, cache=True)
def _words(bits):  # type: ignore[no-untyped-def]  # pragma: no cover
    count = 0
    while bits:
        bits &= bits - np.uint64(1)
        count += 1
    return count


@numba.njit(nogil=True, cache=True)
def _find(  # type: ignore[no-untyped-def]  # pragma: no cover
    starts,
    rows,
    tf,
    norms,
    k1,
    terms,
    weights,
    bounds,
    groups,
    allowed,
    masked,
    limit,
    least,
    scores,
    seen,
):
    most = 0
    for term in terms:
        most += starts[term + 1] - starts[term]
    most = min(most, len(norms))
    touched = np.empty(most, np.int32)
    count = 0
    high = np.float32(0)
    rest = np.zeros(len(terms) + 1, np.float32)  # what the terms from here on add at most
    for n in range(len(terms) - 1, -1, -1):
        rest[n] = rest[n + 1] + bounds[n]
    high = rest[0] * np.float32(1 + SLACK) + np.float32(1e-30)
    closed = False  # whether any other row can come in
    for n in range(len(terms)):
        first, last = starts[terms[n]], starts[terms[n] + 1]
        weight = weights[n]
        if weight <= 0:
            continue
        if not closed and least <= 1 and count >= limit and last - first > limit:
            floor = _floor(scores, touched, count, high, limit)
            if rest[n] * np.float32(1 + SLACK) < floor:
                closed = True
                kept = 0
                for m in range(count):
                    row = touched[m]
                    if (scores[row] + rest[n]) * np.float32(1 + SLACK) >= floor:
                        touched[kept] = row
                        kept += 1
                    else:
                        scores[row] = 0
                count = kept
                touched[:count].sort()
        if closed:
            at = first
            for m in range(count):
                row = touched[m]
                at = _probe(rows, at, last, row)
                if at == last:
                    break
                if rows[at] == row:
                    scores[row] += weight * _impact(np.float32(tf[at]), norms[row], k1)
        else:
            for place in range(first, last):
                row = rows[place]
                if masked and not allowed[row]:
                    continue
                if scores[row] == 0:
                    touched[count] = row
                    count += 1
                scores[row] += weight * _impact(np.float32(tf[place]), norms[row], k1)
                if least > 1:
                    seen[row] |= np.uint64(1) << groups[n]
    kept = 0  # rows that may be among the best
    floor = np.float32(0)
    if count > limit and least <= 1:
        floor = _floor(scores, touched, count, high, limit)
    found = np.empty(count, np.int32)
    values = np.empty(count, np.float32)
    for m in range(count):
        row = touched[m]
        score = scores[row]
        scores[row] = 0
        enough = True
        if least > 1:
            enough = _words(seen[row]) >= least
            seen[row] = 0
        if enough and score >= floor:
            found[kept] = row
            values[kept] = score
            kept += 1
    found, values = found[:kept], values[:kept]
    if kept <= limit:
        return found, values
    bar = np.partition(values, kept - limit)[kept - limit]  # of the last of the best
    above = 0
    for m in range(kept):
        if values[m] > bar:
            above += 1
    tied = np.sort(found[values == bar])
    edge = tied[limit - above - 1]  # of equal ones the first rows
    best = np.empty(limit, np.int32)
    reached = np.empty(limit, np.float32)
    at = 0
    for m in range(kept):
        if values[m] > bar or (values[m] == bar and found[m] <= edge):
            best[at] = found[m]
            reached[at] = values[m]
            at += 1
    return best, reached
