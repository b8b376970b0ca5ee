"""
A channel finds items among those a request may return; bound to one request it is a `Source`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from funnel.types import NO_ITEM, Array, Candidates, History, Query, Rows, best, taken
from recall.masks import Mask

NO_ROW = np.iinfo(np.int32).max  # beyond any row


class Channel(Protocol):
    """At most `limit` items of those `allowed` (all if None), best first, no row twice."""

    def find(self, query: Query, allowed: Mask | None, limit: int) -> Candidates: ...


@runtime_checkable
class Living(Protocol):
    """A channel that finds items by what they are follows the live catalogue."""

    def upsert(self, rows: Rows, items: pa.Table) -> None:
        """Row rows[i] is now items[i] (the columns of items/), whatever it was before; rows may lie
        beyond the generation's last. One thread calls this, while others call `find`: a request
        sees all of the batch or none. What was deleted needs no call: no request allows it."""


@dataclass(frozen=True, eq=False)
class Bound:
    """A channel with what one request allows. The generation has `base` rows: a channel that does
    not follow the live catalogue is not asked about later ones."""

    channel: Channel
    allowed: Mask | None
    limit: int
    base: int = NO_ROW

    def retrieve(self, query: Query) -> Candidates:
        if not isinstance(self.channel, Living):
            query = before(query, self.base)
        return self.channel.find(query, self.allowed, self.limit)


def before(query: Query, base: int) -> Query:
    """The query as if rows from `base` on did not exist; about one of these it asks nothing."""
    rows = query.history.rows
    if query.item >= base:
        return replace(query, item=NO_ITEM, history=History())
    if len(rows) and rows.max() >= base:
        history = query.history
        old = rows < base
        history = History(rows[old], history.actions[old], history.times[old])
        return replace(query, history=history)
    return query


def ranked(rows: Array, scores: Array, allowed: Mask | None, limit: int) -> Candidates:
    """The best `limit` of the allowed rows; ties by row."""
    rows, scores = np.asarray(rows, np.int32), np.asarray(scores, np.float32)
    if allowed is not None:
        kept = taken(allowed, rows, False)  # what is newer than the mask is not in it
        rows, scores = rows[kept], scores[kept]
    order = best(scores, rows, limit)
    return Candidates(rows[order], scores[order])
