"""
The index of recent sessions that the channel `live` searches.

A session is what a user wanted under one session id, or between two pauses of more than
`behaviour.session_minutes`. Sessions of one click say nothing about what comes next.

Writes live/ into both drafts: session_ptr.npy int64 (s + 1) and session_rows.npy int32, the newest
clicks of each session in order, the oldest session first; item_ptr.npy int64 (n + 1),
item_sessions.npy int32 and item_places.npy int32: the newest sessions that have an item, newest
first, and the last place of the item in each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import functions as F

from funnel.catalogue import Catalogue
from funnel.types import Array
from jobs import events
from jobs.command import command
from jobs.fresh import fresh, removed
from jobs.work import Work

CLICKS = 50  # newest of a session
SESSIONS = 2_000_000  # newest
OCCURRENCES = 5_000  # newest sessions of an item


@dataclass(frozen=True, eq=False)
class Index:
    """The arrays as `recall.live` reads them."""

    session_ptr: Array
    session_rows: Array
    item_ptr: Array
    item_sessions: Array
    item_places: Array

    def write(self, target: Path) -> int:
        """Writes the new directory `target`; how many sessions there are."""
        removed(target)
        count = len(self.session_ptr) - 1
        if count:
            fresh(target)
            for field in fields(self):
                np.save(target / f"{field.name}.npy", getattr(self, field.name))
        return count


def index(starts: Array, rows: Array, items: int) -> Index:
    """Of sessions in the order of time: session s clicked `rows[starts[s]:starts[s + 1]]`."""
    starts, rows = np.asarray(starts, np.int64), np.asarray(rows, np.int32)
    ends, sizes = starts[1:], np.diff(starts)
    kept = np.flatnonzero(sizes > 1)[-SESSIONS:]
    sizes = np.minimum(sizes[kept], CLICKS)
    pointer = np.concatenate([[0], np.cumsum(sizes)])
    sessions = np.repeat(np.arange(len(kept), dtype=np.int32), sizes)
    places = (np.arange(pointer[-1]) - pointer[sessions]).astype(np.int32)
    rows = rows[np.repeat(ends[kept] - sizes, sizes) + places]
    order = np.lexsort((-places, -sessions, rows))  # by item, newest first
    held = rows[order]
    first = np.ones(len(held), bool)
    first[1:] = (held[1:] != held[:-1]) | (sessions[order][1:] != sessions[order][:-1])
    order, held = order[first], held[first]
    begin = np.concatenate([[0], np.cumsum(np.bincount(held, minlength=items))])
    new = np.arange(len(held)) - begin[held] < OCCURRENCES
    order, held = order[new], held[new]
    counts = np.bincount(held, minlength=items)
    return Index(
        pointer,
        rows,
        np.concatenate([[0], np.cumsum(counts)]),
        sessions[order],
        places[order],
    )


def cut(owners: Array, times: Array, named: Array, pause_ms: int) -> tuple[Array, Array]:
    """Sessions of clicks that lie owner by owner, each in time order.

    `owners` (m,) are numbers of users or, where `named`, of sessions, which no pause cuts. Returns
    the order that puts the clicks session by session, the session that ended first to the front,
    and the sessions' starts in it: (m,), (s + 1,).
    """
    if not len(owners):
        return np.empty(0, np.int64), np.zeros(1, np.int64)
    paused = (np.diff(times) > pause_ms) & ~named[1:] if pause_ms else False
    head = np.concatenate([[True], (owners[1:] != owners[:-1]) | paused])
    starts = np.append(np.flatnonzero(head), len(owners))
    sizes, last = np.diff(starts), times[starts[1:] - 1]
    by_end = np.argsort(last, kind="stable")
    shift = np.concatenate([[0], np.cumsum(sizes[by_end])])
    order = np.repeat(starts[:-1][by_end] - shift[:-1], sizes[by_end]) + np.arange(len(owners))
    return order, shift


def build(work: Work, before: int, items: int) -> Index:
    """The index of what the events before the cut say."""
    weight = events.positives(work.config.data.positive, work.config.all_actions)
    found = events.read(work).where((F.col("timestamp") < before) & (weight > 0))
    own = F.coalesce(F.concat(F.lit("s"), "session_id"), F.concat(F.lit("u"), "user_id"))
    table = (
        found.select(own.alias("owner"), "row", "timestamp", "event_id")
        .orderBy("owner", "timestamp", "event_id", "row")
        .drop("event_id")
        .toArrow()
        .combine_chunks()
    )
    owner = table.column("owner")
    named = pc.starts_with(owner, "s").to_numpy()
    owners = owner.combine_chunks().dictionary_encode().indices.to_numpy()
    times = table.column("timestamp").cast(pa.int64()).to_numpy()
    order, starts = cut(owners, times, named, work.config.behaviour.session_minutes * 60_000)
    return index(starts, table.column("row").to_numpy()[order], items)


def run(work: Work) -> Mapping[str, Any]:
    total = 0
    for draft, before in work.drafts:
        removed(draft / "live")
        if work.has("events"):
            total = build(work, before, len(Catalogue(draft / "items"))).write(draft / "live")
    return {"sessions": total}


if __name__ == "__main__":
    command(run, __doc__)
