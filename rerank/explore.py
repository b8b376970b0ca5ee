"""
Exploration: chance among the best, by known probabilities, so that the log can be used to tell what
another order would have done.

Each place that is explored is drawn from the best `pool` items that may stand there; what is logged
is the probability of the item that was drawn, given the items above it. The product over the places
is that of the whole page. The draws depend on the request id alone, so a replay repeats them.

    epsilon         the best with 1 − ε + ε/m, each other one of the m with ε/m
    plackett_luce   softmax(score / temperature): Plackett 1975, "The analysis of permutations"
    thompson        the probability of having the highest click rate: Thompson 1933; Chapelle and
                    Li 2011, "An empirical evaluation of Thompson sampling"
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, log_ndtr, ndtr, polygamma

from funnel.types import Array, Query

PRIOR = (1.0, 20.0)  # clicks, and impressions without one, that every item begins with
GRID = 129  # places at which click rates are compared
SPREAD = 4.0  # standard deviations that the grid goes beyond the outermost means

Chances = Callable[[Array], NDArray[np.float64]]  # places in the list (m,) -> (m,), sum 1
# the query and rows (n,) -> clicks (n,) and impressions (n,)
Counted = Callable[[Query, Array], tuple[Array, Array]]


@dataclass(frozen=True)
class Epsilon:
    epsilon: float

    def chances(self, query: Query, rows: Array, scores: Array) -> Chances:
        def of(pool: Array) -> NDArray[np.float64]:
            found = np.full(len(pool), self.epsilon / len(pool))
            found[0] += 1 - self.epsilon
            return found

        return of


@dataclass(frozen=True)
class PlackettLuce:
    """`scores` are relevances in [0, 1]."""

    temperature: float

    def chances(self, query: Query, rows: Array, scores: Array) -> Chances:
        weight = np.nan_to_num(np.asarray(scores, np.float64), posinf=0.0, neginf=0.0)

        def of(pool: Array) -> NDArray[np.float64]:
            up = np.exp((weight[pool] - weight[pool].max()) / self.temperature)
            found: NDArray[np.float64] = up / up.sum()
            return found

        return of


@dataclass(frozen=True)
class Thompson:
    """Click rates have Beta posteriors, compared by their log-odds: normal, with the Beta's mean
    ψ(a) − ψ(b) and variance ψ'(a) + ψ'(b). The probability of being the highest is integrated on a
    grid, and the draw is by exactly these probabilities."""

    counted: Counted

    def chances(self, query: Query, rows: Array, scores: Array) -> Chances:
        clicks, shown = (np.maximum(np.nan_to_num(c), 0) for c in self.counted(query, rows))
        a = PRIOR[0] + clicks
        b = PRIOR[1] + np.maximum(shown - clicks, 0)
        mean = digamma(a) - digamma(b)
        deviation = np.sqrt(polygamma(1, a) + polygamma(1, b))
        if not len(rows):
            return lambda pool: np.empty(0)
        low, high = (mean - SPREAD * deviation).min(), (mean + SPREAD * deviation).max()
        edges = np.linspace(low, high, GRID)
        middle = (edges[1:] + edges[:-1]) / 2
        below = log_ndtr((middle - mean[:, None]) / deviation[:, None])  # (n, G)
        here = np.diff(ndtr((edges - mean[:, None]) / deviation[:, None]), axis=1)

        def of(pool: Array) -> NDArray[np.float64]:
            logs = below[pool]
            highest = here[pool] * np.exp(logs.sum(0) - logs)
            found = np.maximum(highest.sum(1), 1e-12)
            whole: NDArray[np.float64] = found / found.sum()
            return whole

        return of


@dataclass(frozen=True)
class Explore:
    """`slots` are the places that are drawn, from 1; empty: all. Each of a pool has a chance of at
    least `least`, so that no weight of the log is above its inverse."""

    by: Epsilon | PlackettLuce | Thompson
    pool: int
    slots: frozenset[int] = frozenset()
    least: float = 0.0

    def chances(self, query: Query, rows: Array, scores: Array) -> Chances:
        own = self.by.chances(query, rows, scores)

        def of(pool: Array) -> NDArray[np.float64]:
            least = min(self.least, 1 / len(pool))
            return least + (1 - len(pool) * least) * own(pool)

        return of

    def explores(self, place: int) -> bool:
        return not self.slots or place in self.slots


def draws(query: Query) -> np.random.Generator:
    """The request's own random numbers."""
    digest = blake2b(query.request_id.encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def share(query: Query, name: str) -> float:
    """The request's own number in [0, 1) for a name."""
    digest = blake2b(f"{query.request_id}\n{name}".encode(), digest_size=8).digest()
    return float(int.from_bytes(digest, "little") / 2.0**64)


def drawn(chances: Array, random: float) -> int:
    """The place in `chances` that a number in [0, 1) falls on."""
    total = np.cumsum(chances)
    return int(min(np.searchsorted(total, random * total[-1], "right"), len(total) - 1))
