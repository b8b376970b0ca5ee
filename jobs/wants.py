"""
What users wanted before a cut, as columns in memory: what the trainers of behaviour models read.

16 bytes a pair of user and item: a hundred million pairs are 1.6 GB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from funnel.types import Array
from jobs import events
from jobs.item_cf import wanted
from jobs.products import incidence
from jobs.work import Work


@dataclass(frozen=True, eq=False)
class Wants:
    """One entry a user and item, by user, then time, then row."""

    users: Array  # (m,) int32, from 0
    rows: Array  # (m,) int32
    weights: Array  # (m,) float32, the best action's as a label
    times: Array  # (m,) int64 epoch ms of the last such action
    items: int  # rows of the catalogue

    def matrix(self, weighted: bool = False) -> Any:
        """(users, items) float32 CSR of ones, or of the weights."""
        return incidence(self.users, self.rows, self.items, self.weights if weighted else None)


def of(users: Array, rows: Array, times: Array, items: int, weights: Array | None = None) -> Wants:
    """The columns in order, each pair once (its last time, its best weight)."""
    weights = np.ones(len(users), np.float32) if weights is None else weights
    order = np.lexsort((rows, times, users))
    users, rows, times, weights = users[order], rows[order], times[order], weights[order]
    pairs = users.astype(np.int64) * items + rows
    _, first, place = np.unique(pairs[::-1], return_index=True, return_inverse=True)
    best = np.zeros(len(first), np.float32)
    np.maximum.at(best, place, weights[::-1].astype(np.float32))
    last = len(users) - 1 - first
    kept = np.argsort(last)
    last = last[kept]
    return Wants(
        users[last].astype(np.int32),
        rows[last].astype(np.int32),
        best[kept],
        times[last].astype(np.int64),
        items,
    )


def read(work: Work, cut: int, items: int) -> Wants:
    """What the events before `cut` say; users are numbered in the order of their ids."""
    table = wanted(events.read(work), work.config, cut).toArrow().combine_chunks()
    names = table.column("user_id").combine_chunks()
    ids = pc.unique(names).sort()
    users = pc.index_in(names, value_set=ids).to_numpy(zero_copy_only=False)
    rows, times = (table.column(name).cast(pa.int64()).to_numpy() for name in ("row", "time"))
    weights = table.column("weight").cast(pa.float32()).to_numpy()
    return of(users, rows, times, items, weights)
