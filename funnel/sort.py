"""
The caller's order: by a numeric attribute, among what recall found.

Of a search only what has its words is ordered, where anything has: the nearest by vector are near
by degrees, and the cheapest of them is hardly what was meant. Ties go by relevance, then by row;
items without the attribute come last. Prerank and rank are skipped, rerank drops what repeats and
leaves the order. A next page asks for what comes at or after the last item shown, so that the pages
together are in order too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from funnel.catalogue import Catalogue
from funnel.config import Config
from funnel.errors import BadQuery
from funnel.types import AnyOf, Candidates, Filter, Not, Predicate, Query, Rows, taken

WORDS = ("recall.bm25", "recall.tfidf")
RELEVANCE = "relevance"  # column: the score that the order has taken the place of


def sortable(items: Catalogue, config: Config) -> tuple[str, ...]:
    """The numeric attributes that requests may filter on."""
    return tuple(name for name in config.data.filterable if items.has("number", name))


def checked(sort: str, items: Catalogue, config: Config) -> str:
    """`sort`, or `BadQuery` naming what can be sorted by."""
    known = sortable(items, config)
    if sort and sort.removeprefix("-") not in known:
        shown = ", ".join(known) or "nothing"
        raise BadQuery(
            f"cannot sort by '{sort[:80]}'; here one can by {shown}, with `-` before it for the "
            "highest first"
        )
    return sort


def onwards(sort: str, last: int, items: Catalogue) -> Predicate:
    """What may come after the item `last` in the order: it and its equals included."""
    name = sort.removeprefix("-")
    value = float(taken(items.numbers(name), np.array([last]), np.nan)[0])
    missing = Not(Filter(name, low=-math.inf))
    if math.isnan(value):
        return missing
    bound = Filter(name, high=value) if sort.startswith("-") else Filter(name, low=value)
    return AnyOf((bound, missing))


@dataclass(frozen=True, eq=False)
class Sorted:
    """Candidates in the order that the query asks for, their scores falling from n to 1; what the
    scores were before is the column `relevance`."""

    items: Catalogue

    def run(self, query: Query, candidates: Candidates) -> Candidates:
        candidates = worded(candidates) if query.text else candidates
        values = self.values(query.sort.removeprefix("-"), candidates.rows)
        keys = -values if query.sort.startswith("-") else values  # NaN is last either way
        order = np.lexsort((candidates.rows, -candidates.scores, keys))
        scores = np.arange(len(order), 0, -1, dtype=np.float32)
        placed = candidates.take(order)
        columns = {**placed.columns, RELEVANCE: placed.scores}
        return replace(placed, scores=scores, columns=columns)

    def values(self, name: str, rows: Rows) -> np.ndarray:
        with self.items.still():
            found: np.ndarray = taken(self.items.numbers(name), rows, np.nan).astype(np.float64)
        return found


def worded(candidates: Candidates) -> Candidates:
    """Those that a channel of words found; all where none did, or none was asked."""
    found = np.zeros(len(candidates), bool)
    for name in WORDS:
        if name in candidates.columns:
            found |= np.isfinite(candidates.columns[name])
    return candidates.take(np.flatnonzero(found)) if found.any() else candidates


def restored(candidates: Candidates) -> Candidates:
    """The same in the same order, scored by relevance again."""
    columns = dict(candidates.columns)
    scores = columns.pop(RELEVANCE, candidates.scores)
    return replace(candidates, scores=scores, columns=columns)
