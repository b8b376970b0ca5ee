"""
The live state as of any moment, offline: a data set's or a log's events swept in time order.

Evaluation and replay ask it what the store and the counters would have said at each request, so
no request sees an event of its future.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from features.counts import Counts, text_of
from features.users import UserCounts
from funnel.config import Config
from funnel.errors import BadData
from funnel.forgotten import remaining
from funnel.generation import Generation
from funnel.types import Array, History, Rows

COLUMNS = ("user_id", "item_id", "action", "timestamp", "request_id", "scene", "query", "event_id")


@dataclass(frozen=True, eq=False)
class Events:
    """Events as columns, in the order of their timestamps; items that are unknown are left out.

    `actions` are codes of the generation's actions. `seen_at` is when an event reached the store,
    its timestamp where nothing else is known.
    """

    users: Array  # (m,) str
    rows: Rows  # (m,) int32
    actions: NDArray[np.int8]  # (m,)
    times: NDArray[np.int64]  # (m,) epoch ms
    seen_at: NDArray[np.int64]  # (m,) epoch ms
    arrival: NDArray[np.int64]  # (m,) order among those that were seen in the same ms
    requests: Array  # (m,) str, '' where unknown
    scenes: Array  # (m,) str
    texts: Array  # (m,) str

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: Array) -> Events:
        return Events(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


def read_events(
    paths: Path | Sequence[Path],
    generation: Generation,
    since: int = 0,
    before: int = 2**62,
    marks: Mapping[str, int] | None = None,
) -> Events:
    """The events of a data set, of a log, or of both, with since <= timestamp < before.

    Repeated event ids count once. `marks` are the users who were forgotten (funnel.forgotten).
    Raises `BadData` where there is no events table.
    """
    tables = [
        _read(path, since, before) for path in ([paths] if isinstance(paths, Path) else paths)
    ]
    table = pa.concat_tables(tables, promote_options="permissive")
    if marks:
        kept = remaining(table.column("user_id"), table.column("timestamp"), dict(marks))
        table = table.filter(pa.array(kept))
    # An archive's files and rows lie in the order of arrival.
    table = table.append_column("arrival", pa.array(np.arange(len(table))))
    table = _once(table.combine_chunks())
    rows = generation.items.rows(table.column("item_id").to_pylist())
    codes = {name: code for code, name in enumerate(generation.manifest.actions)}
    actions = np.array([codes.get(a, -1) for a in table.column("action").to_pylist()], np.int8)
    times = table.column("timestamp").to_numpy().astype(np.int64)
    seen_at = times
    if "received_at" in table.column_names:
        seen_at = pc.coalesce(table.column("received_at"), table.column("timestamp")).to_numpy()
        seen_at = seen_at.astype(np.int64)
    known = np.flatnonzero((rows >= 0) & (actions >= 0))
    order = known[np.argsort(times[known], kind="stable")]
    events = Events(
        _strings(table, "user_id"),
        rows,
        actions,
        times,
        seen_at,
        table.column("arrival").to_numpy().astype(np.int64),
        _strings(table, "request_id"),
        _strings(table, "scene"),
        _strings(table, "query"),
    )
    return events.take(order)


def _read(path: Path, since: int, before: int) -> pa.Table:
    if not path.is_dir() or not any(path.rglob("*.parquet")):
        raise BadData(f"no events in {path}")
    source = ds.dataset(path, format="parquet")
    names = [name for name in (*COLUMNS, "received_at") if name in source.schema.names]
    at = pc.field("timestamp")
    return source.to_table(columns=names, filter=(at >= since) & (at < before))


def _once(table: pa.Table) -> pa.Table:
    """Ordered by timestamp, then event id; a repeated event id counts once."""
    keys = [("timestamp", "ascending")]
    if "event_id" not in table.column_names:
        return table.take(pc.sort_indices(table, sort_keys=keys))
    table = table.take(pc.sort_indices(table, sort_keys=[*keys, ("event_id", "ascending")]))
    ids = table.column("event_id").to_numpy(zero_copy_only=False).astype(object)
    named = np.array([bool(i) for i in ids], bool)
    first = np.zeros(len(ids), bool)
    first[np.unique(np.where(named, ids, "").astype(str), return_index=True)[1]] = True
    return table.filter(pa.array(first | ~named))


def _strings(table: pa.Table, name: str) -> Array:
    if name not in table.column_names:
        return np.full(len(table), "", object)
    column = pc.fill_null(table.column(name).cast(pa.string()), "")
    array: Array = column.to_numpy(zero_copy_only=False).astype(object)
    return array


class Timeline:
    """Histories and item counters, from the generation's state forward through `events`.

    `advance(at)` must be called with rising times. Histories then hold what happened before `at`;
    counters are a `Hydrator` that reads as of `at - settle_ms` by arrival, as the replica does.
    """

    def __init__(self, generation: Generation, config: Config, events: Events):
        self.events, self.config = events, config
        self.counters = Counts.open(generation)
        self._settle = config.features.settle_ms
        self._generation = generation
        self._impression = generation.manifest.actions.index("impression")
        self._by_arrival = np.lexsort((events.arrival, events.seen_at))
        self._arrived = events.seen_at[self._by_arrival]
        self._known = self._folded = 0
        self._recent: dict[str, list[int]] = {}  # user -> places in `events`
        self._users = UserCounts(generation, config) if config.features.users else None

    def advance(self, at: int) -> None:
        """Folds every event that was known at `at`."""
        events = self.events
        known = int(np.searchsorted(events.times, at, "left"))
        for place in range(self._known, known):
            if events.actions[place] != self._impression:
                self._recent.setdefault(events.users[place], []).append(place)
            if self._users:
                code, time = int(events.actions[place]), int(events.times[place])
                self._users.add(events.users[place], code, time)
        self._known = max(known, self._known)
        folded = int(np.searchsorted(self._arrived, at - self._settle, "right"))
        if folded > self._folded:
            new = self._by_arrival[self._folded : folded]
            texts = np.array([text_of(text) for text in events.texts[new]], np.uint64)
            self.counters.apply(events.rows[new], events.actions[new], events.times[new], texts)
            self._folded = folded

    def history(self, user_id: str) -> History:
        """The user's newest actions before the last `advance`."""
        before = self._before(user_id)
        places = np.array(self._recent.get(user_id, []), np.int64)
        events = self.events
        return History(
            np.concatenate([before.rows, events.rows[places]]).astype(np.int32),
            np.concatenate([before.actions, events.actions[places]]).astype(np.int8),
            np.concatenate([before.times, events.times[places]]).astype(np.int64),
        ).last(self.config.features.history)

    def user(self, user_id: str, at: int) -> dict[str, Array]:
        """What is counted of the user as of the last `advance`, decayed to `at`, as columns of the
        query."""
        return self._users.columns(user_id, at) if self._users and user_id else {}

    def _before(self, user_id: str) -> History:
        if not self._generation.has("users"):
            return History()
        users = self._generation.users
        row = users.row(user_id)
        if row < 0 or "item_rows" not in users.table.column_names:
            return History()
        one = users.table.slice(row, 1)
        return History(
            np.asarray(one.column("item_rows")[0].as_py() or [], np.int32),
            np.asarray(one.column("actions")[0].as_py() or [], np.int8),
            np.asarray(one.column("times")[0].as_py() or [], np.int64),
        )


def groups(keys: Sequence[str] | Array) -> Iterator[tuple[str, Array]]:
    """The places of each key, in order of its first place; empty keys are left out."""
    keys = np.asarray(keys, object).astype(str)
    order = np.argsort(keys, kind="stable")
    edges = np.flatnonzero(keys[order][1:] != keys[order][:-1]) + 1
    parts = np.split(order, edges) if len(keys) else []
    for part in sorted(parts, key=lambda part: int(part[0])):
        if keys[part[0]]:
            yield str(keys[part[0]]), part
