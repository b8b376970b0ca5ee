"""
A channel finds items among those a request may return; bound to one request it is a `Source`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from funnel.types import Array, Candidates, Query, Rows, best, taken
from recall.filters import Mask


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
    """A channel with what one request allows."""

    channel: Channel
    allowed: Mask | None
    limit: int

    def retrieve(self, query: Query) -> Candidates:
        return self.channel.find(query, self.allowed, self.limit)


def ranked(rows: Array, scores: Array, allowed: Mask | None, limit: int) -> Candidates:
    """The best `limit` of the allowed rows; ties by row."""
    rows, scores = np.asarray(rows, np.int32), np.asarray(scores, np.float32)
    if allowed is not None:
        kept = taken(allowed, rows, False)  # what is newer than the mask is not in it
        rows, scores = rows[kept], scores[kept]
    order = best(scores, rows, limit)
    return Candidates(rows[order], scores[order])
