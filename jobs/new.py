"""
The cold items that the channel `new` searches: made shortly before the cut or after it, or wanted
fewer than `new.events` times.

Writes new/rows.npy int32 into both drafts, the newest `new.most` of them, newest first, ties by
row. When an item was made says its `created_at`; those without it come last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pyspark.sql import functions as F

from funnel.catalogue import Catalogue
from funnel.config import New
from funnel.types import Array
from jobs import events
from jobs.command import command
from jobs.fresh import fresh
from jobs.work import Work

DAY_MS = 86_400_000


def wanted(work: Work, before: int, items: int) -> Array:
    """(items,) int64 positive actions before the cut; impressions and dislikes want nothing."""
    counts = np.zeros(items, np.int64)
    if work.has("events"):
        weight = events.positives(work.config.data.positive, work.config.all_actions)
        found = events.read(work).where((F.col("timestamp") < before) & (weight > 0))
        table = found.groupBy("row").count().toArrow()
        counts[table.column("row").to_numpy()] = table.column("count").to_numpy()
    return counts


def cold(counts: Array, made: Array, cut: int, settings: New) -> Array:
    """(c,) int32 the rows that are cold, newest first. `made` (n,) epoch ms, NaN where unknown."""
    made = np.nan_to_num(made, nan=-np.inf)
    rows = np.flatnonzero((counts < settings.events) | (made >= cut - settings.days * DAY_MS))
    order = np.argsort(-made[rows], kind="stable")[: settings.most]
    return rows[order].astype(np.int32)


def run(work: Work) -> Mapping[str, Any]:
    items = Catalogue(work.draft / "items")
    made = np.full(len(items), np.nan)
    if items.has("number", "created_at"):
        made = items.numbers("created_at")
    rows = np.empty(0, np.int32)
    for draft, cut in work.drafts:
        rows = cold(wanted(work, cut, len(items)), made, cut, work.config.new)
        np.save(fresh(draft / "new") / "rows.npy", rows)
    return {"cold": len(rows)}


if __name__ == "__main__":
    command(run, __doc__)
