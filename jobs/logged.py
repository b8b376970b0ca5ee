"""
Samples out of the request log: what was scored is what is trained on.

A logged request and its candidates go into the samples as they are, with all that was known of them
when they were scored. A label is that of the highest weight (`data.positive`) among the events of
the log's archive that name the request and the item. Rows of another generation become those of the
one that is being built; items that it lacks are left out, and so are requests of users who were
forgotten and pages that were degraded.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from funnel.config import Config
from funnel.errors import BadData
from funnel.forgotten import marks, remaining
from funnel.generation import Generation
from funnel.log import Logged, read, write
from funnel.replay import Side, moved
from funnel.timeline import Events, groups, read_events
from funnel.types import NO_ITEM, Array, Floats, Rows
from jobs.fresh import removed
from jobs.requests import label_of
from jobs.work import Work


class Labels:
    """What came of logged requests, by the log's own events."""

    def __init__(self, log: Path, config: Config):
        self._log, self._positive = log, config.data.positive
        self._opened: dict[str, tuple[Events, dict[str, Array], Array]] = {}
        folder = log / "events"
        if not (folder.is_dir() and any(folder.rglob("*.parquet"))):
            raise BadData(
                f"no events in {folder}: requests have no labels without the archive, which the "
                "features service writes where log.dir is set"
            )

    def of(self, entry: Logged, origin: Generation) -> Floats:
        """(n,) the label of every candidate; the request's rows are those of `origin`."""
        if origin.id not in self._opened:
            events = read_events(self._log / "events", origin, marks=marks(self._log))
            names = origin.manifest.actions
            labels = np.array(
                [label_of(self._positive.get(name, 0.0)) for name in names], np.float32
            )
            self._opened[origin.id] = events, dict(groups(events.requests)), labels
        events, of_request, labels = self._opened[origin.id]
        own = of_request.get(entry.query.request_id, np.empty(0, np.int64))
        # Request ids may be used again: only the user who asked can answer.
        own = own[events.users[own] == entry.query.user_id] if entry.query.user_id else own
        return _best(entry.candidates.rows, events.rows[own], labels[events.actions[own]])


def _best(rows: Rows, done: Rows, each: Floats) -> Floats:
    """(n,) the largest label of each row, 0 where nothing was done."""
    labels = np.zeros(len(rows), np.float32)
    order = np.argsort(rows, kind="stable")
    place = np.searchsorted(rows[order], done)
    there = place < len(rows)
    there[there] = rows[order][place[there]] == done[there]
    np.maximum.at(labels, order[place[there]], each[there])
    return labels


def carried(entry: Logged, origin: Generation, target: Generation) -> Logged:
    """The request in the target's rows, without what it does not have."""
    if origin.id == target.id:
        return entry
    rows = target.items.rows(origin.items.item_ids(entry.candidates.rows))
    kept = np.flatnonzero(rows != NO_ITEM)
    candidates = replace(entry.candidates.take(kept), rows=rows[kept].astype(np.int32))
    return replace(
        entry,
        query=moved(entry.query, origin, target),
        candidates=candidates,
        labels=entry.labels[kept],
        positions=entry.positions[kept],
    )


def run(work: Work, log: Path) -> dict[str, Any]:
    """Writes samples/<scene>/ of the requests in [past, until); what there is of each scene."""
    config, side = work.config, Side("log", work.config, log)
    target, labels = Generation.open(work.past_draft, check=False), Labels(log, work.config)
    gone, found, left = marks(log), dict[str, list[Logged]](), Counter[str]()
    for entry in read(log):
        query = entry.query
        if query.scene not in config.scenes or not work.past <= query.at < work.until:
            left["others"] += 1
        elif entry.degraded:
            left["degraded"] += 1
        elif gone and not _stays(entry, gone):
            left["forgotten"] += 1
        else:
            origin = side.origin(query.generation)
            labelled = replace(entry, labels=labels.of(entry, origin))
            found.setdefault(query.scene, []).append(carried(labelled, origin, target))
    removed(work.root / "samples")
    metrics: dict[str, Any] = {}
    for scene, entries in sorted(found.items()):
        write(work.samples / scene, entries, "part-0")
        metrics[scene] = {
            "requests": len(entries),
            "candidates": sum(len(entry.candidates) for entry in entries),
            "positives": int(sum(np.count_nonzero(entry.labels > 0) for entry in entries)),
        }
    return metrics | ({"left_out": dict(left)} if left else {})


def _stays(entry: Logged, gone: dict[str, int]) -> bool:
    users = pa.chunked_array([pa.array([entry.query.user_id])])
    kept = remaining(users, pa.chunked_array([pa.array([entry.query.at])]), gone)
    return bool(kept[0])
