"""
The request log: what was asked and what was scored, as Parquet, in three tables of one directory.

    requests/*.parquet    one row a request: the whole query, history and user columns included
    candidates/*.parquet  one row a candidate: its request, row, labels, position and every column
    events/*.parquet      what the live store took meanwhile, with the time of its arrival

The samples that prerank and rank are trained on have the same form, so what reads one reads both.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, time_ns
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from funnel.errors import BadData, Unavailable
from funnel.predicate import plain, read_plain
from funnel.types import Array, Candidates, History, Query

log = logging.getLogger(__name__)
REQUESTS = pa.schema(
    [
        ("request_id", pa.string()),
        ("scene", pa.string()),
        ("user_id", pa.string()),
        ("text", pa.string()),
        ("item", pa.int32()),
        ("at", pa.int64()),
        ("limit", pa.int32()),
        ("history_rows", pa.list_(pa.int32())),
        ("history_actions", pa.list_(pa.int8())),
        ("history_times", pa.list_(pa.int64())),
        ("user", pa.string()),  # JSON: name -> number or list of numbers
        ("live", pa.string()),  # the same form: what was shown to the user, sponsors' rates …
        ("filters", pa.string()),  # JSON: list of conditions
        ("sort", pa.string()),
        ("excluded", pa.list_(pa.int32())),
        ("generation", pa.string()),
        ("variants", pa.string()),  # JSON: experiment -> variant
        ("degraded", pa.string()),  # what the page did without, one a line
        ("ms", pa.float32()),
    ]
)
STREAMED = 1 << 16  # candidates read at a time, where not all are
FIXED = ("request_id", "row", "score", "label", "position")  # of candidates; the rest are columns


@dataclass(frozen=True, slots=True, eq=False)
class Logged:
    """One request and the candidates that reached rerank (or were sampled for training).

    `labels` (n,) float32: what the user did, as the weight of the action, 0 for nothing or not
    known; `positions` (n,) int32 from 1, 0 for candidates that were not shown.
    """

    query: Query
    candidates: Candidates
    labels: Array = field(default_factory=lambda: np.empty(0, np.float32))
    positions: Array = field(default_factory=lambda: np.empty(0, np.int32))
    degraded: tuple[str, ...] = ()
    ms: float = 0.0

    @property
    def page(self) -> Array:
        """The rows that were shown, first position first."""
        shown = np.flatnonzero(self.positions > 0)
        order = shown[np.argsort(self.positions[shown], kind="stable")]
        rows: Array = self.candidates.rows[order]
        return rows


def tables(logged: Sequence[Logged]) -> tuple[pa.Table, pa.Table]:
    """The two tables. A column that a request does not have is null there."""
    requests = pa.Table.from_pylist([_request(entry) for entry in logged], schema=REQUESTS)
    parts = [_candidates(entry) for entry in logged]
    both = pa.concat_tables(parts, promote_options="default") if parts else pa.table({})
    return requests, both.combine_chunks()


def write(path: Path, logged: Sequence[Logged], name: str) -> None:
    """One file `name` in each table; a reader never sees half of one."""
    requests, candidates = tables(logged)
    # Candidates first: a request that can be read has its candidates.
    for table, rows in (("candidates", candidates), ("requests", requests)):
        target = path / table / f"{name}.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(f".{target.name}")
        pq.write_table(rows, fresh, compression="zstd", row_group_size=STREAMED)
        os.replace(fresh, target)


def read(path: str | Path, scene: str | None = None) -> Iterator[Logged]:
    """Every logged request (of one scene), oldest first; ties by request id."""
    path = Path(path)
    requests = _table(path / "requests").sort_by([("at", "ascending"), ("request_id", "ascending")])
    if scene is not None:
        requests = requests.filter(pa.compute.equal(requests.column("scene"), scene))
    candidates = _table(path / "candidates").combine_chunks()
    owners = candidates.column("request_id").to_numpy(zero_copy_only=False).astype(object)
    order = np.argsort(owners, kind="stable") if len(owners) else np.empty(0, np.intp)
    owners = owners[order]
    columns = {
        name: _column(candidates.column(name))[order]
        for name in candidates.column_names
        if name != "request_id"
    }
    for request in requests.to_pylist():
        low = np.searchsorted(owners, request["request_id"], "left")
        high = np.searchsorted(owners, request["request_id"], "right")
        part = {name: column[low:high] for name, column in columns.items()}
        yield _logged(request, part)


def stream(path: str | Path, rows: int = STREAMED) -> Iterator[list[Logged]]:
    """Every logged request that has candidates, about `rows` candidates at a time, in the order of
    the candidates' files; never all of them in memory.

    Raises `BadData` where the candidates of a request are not beside each other.
    """
    path = Path(path)
    requests = _table(path / "requests")
    place = {name: at for at, name in enumerate(requests.column("request_id").to_pylist())}
    done: set[str] = set()
    rest: pa.Table | None = None
    for file in sorted((path / "candidates").glob("*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(rows):
            table = pa.Table.from_batches([batch])
            if rest is not None:
                table = pa.concat_tables([rest, table], promote_options="permissive")
            owners = table.column("request_id").to_pylist()
            cut = next((i for i in reversed(range(len(owners))) if owners[i] != owners[-1]), -1)
            yield _entries(requests, place, table.slice(0, cut + 1), done)
            rest = table.slice(cut + 1)
    if rest is not None and len(rest):
        yield _entries(requests, place, rest, done)


def _entries(
    requests: pa.Table, place: Mapping[str, int], table: pa.Table, done: set[str]
) -> list[Logged]:
    owners = np.array(table.column("request_id").to_pylist(), object)
    if not len(owners):
        return []
    starts = np.flatnonzero(np.append(True, owners[1:] != owners[:-1]))
    names = [str(owners[start]) for start in starts]
    for name in names:
        if name in done:
            raise BadData(
                f"the candidates of request '{name}' are not beside each other: sort candidates/ "
                "by request_id"
            )
        done.add(name)
    asked = requests.take(pa.array([place[name] for name in names])).to_pylist()
    table = table.combine_chunks()
    columns = {n: _column(table.column(n)) for n in table.column_names if n != "request_id"}
    ends = np.append(starts[1:], len(owners))
    return [
        _logged(one, {name: column[low:high] for name, column in columns.items()})
        for one, low, high in zip(asked, starts, ends, strict=True)
    ]


def _table(path: Path) -> pa.Table:
    files = sorted(path.glob("*.parquet"))
    if not files:
        raise BadData(f"no Parquet files in {path}: was anything logged, and is the path right?")
    read = [pq.read_table(file) for file in files]
    return pa.concat_tables(read, promote_options="permissive")


def _column(column: pa.ChunkedArray) -> Array:
    """Missing numbers become NaN."""
    array: Array = column.to_numpy()
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _request(entry: Logged) -> dict[str, Any]:
    query = entry.query
    return {
        "request_id": query.request_id,
        "scene": query.scene,
        "user_id": query.user_id,
        "text": query.text,
        "item": query.item,
        "at": query.at,
        "limit": query.limit,
        "history_rows": query.history.rows,
        "history_actions": query.history.actions,
        "history_times": query.history.times,
        "user": _packed(query.user),
        "live": _packed(query.live),
        "filters": json.dumps([plain(condition) for condition in query.filters]),
        "sort": query.sort,
        "excluded": query.excluded,
        "generation": query.generation,
        "variants": json.dumps(dict(query.variants)),
        "degraded": "\n".join(entry.degraded),
        "ms": entry.ms,
    }


def _packed(columns: Mapping[str, Array]) -> str:
    return json.dumps({name: np.asarray(column).tolist() for name, column in columns.items()})


def _unpacked(text: str | None) -> dict[str, Array]:
    return {name: np.asarray(values) for name, values in json.loads(text or "{}").items()}


def _candidates(entry: Logged) -> pa.Table:
    n = len(entry.candidates)
    fixed: dict[str, Any] = {
        "request_id": pa.array([entry.query.request_id] * n, pa.string()),
        "row": np.asarray(entry.candidates.rows, np.int32),
        "score": np.asarray(entry.candidates.scores, np.float32),
        "label": _filled(entry.labels, n, np.float32),
        "position": _filled(entry.positions, n, np.int32),
    }
    columns = {
        name: np.asarray(column, np.float32)
        for name, column in entry.candidates.columns.items()
        if np.ndim(column) == 1 and name not in FIXED
    }
    return pa.table({**fixed, **columns})


def _filled(values: Array, n: int, kind: type) -> Array:
    return np.asarray(values, kind) if len(values) == n else np.zeros(n, kind)


def _logged(request: Mapping[str, Any], part: Mapping[str, Array]) -> Logged:
    n = len(part["row"])
    history = History(
        np.asarray(request["history_rows"], np.int32),
        np.asarray(request["history_actions"], np.int8),
        np.asarray(request["history_times"], np.int64),
    )
    filters = tuple(map(read_plain, json.loads(request.get("filters") or "[]")))
    query = Query(
        request_id=request["request_id"],
        scene=request["scene"],
        user_id=request["user_id"] or "",
        text=request["text"] or "",
        item=request["item"] if request["item"] is not None else -1,
        at=request["at"],
        limit=request["limit"] or 20,
        history=history,
        user=_unpacked(request.get("user")),
        live=_unpacked(request.get("live")),
        filters=filters,
        sort=request.get("sort") or "",
        excluded=np.asarray(request.get("excluded") or [], np.int32),
        generation=request.get("generation") or "",
        variants=json.loads(request.get("variants") or "{}"),
    )
    scores = part["score"] if "score" in part else np.zeros(n, np.float32)
    candidates = Candidates(
        part["row"].astype(np.int32),
        scores.astype(np.float32),
        {name: column for name, column in part.items() if name not in FIXED},
    )
    labels = part["label"] if "label" in part else np.zeros(n, np.float32)
    positions = part["position"] if "position" in part else np.zeros(n, np.int32)
    return Logged(
        query,
        candidates,
        np.nan_to_num(labels).astype(np.float32),
        np.nan_to_num(positions).astype(np.int32),
        tuple(line for line in (request.get("degraded") or "").split("\n") if line),
        float(request.get("ms") or 0.0),
    )


class RequestLog:
    """Writes the log off the request path: `append` only puts into a bounded queue.

    A full queue drops the entry and counts it in `dropped`: a slow disk must not slow pages.
    """

    def __init__(self, path: str | Path, rows: int = 2000, seconds: float = 5.0):
        self.path = Path(path)
        self.rows, self.seconds = rows, seconds
        self.dropped = 0
        self._queue: queue.Queue[Logged | None] = queue.Queue(maxsize=4 * rows)
        self._thread = threading.Thread(target=self._work, name="request-log", daemon=True)
        self._thread.start()

    def append(self, entry: Logged) -> None:
        try:
            self._queue.put_nowait(entry)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Writes what is left. Nothing may be appended afterwards."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        held: list[Logged] = []
        due = monotonic() + self.seconds
        while True:
            try:
                entry = self._queue.get(timeout=max(due - monotonic(), 0.01))
                if entry is not None:
                    held.append(entry)
                over = entry is None
            except queue.Empty:
                over = False
            if held and (over or len(held) >= self.rows or monotonic() >= due):
                write(self.path, held, f"{time_ns()}-{os.getpid()}")
                held = []
            if monotonic() >= due:
                due = monotonic() + self.seconds
            if over:
                return


class Arrived(Protocol):
    """An event of the live log: where to read on, when it arrived, and what it was."""

    @property
    def position(self) -> str: ...
    @property
    def at(self) -> int: ...
    @property
    def event(self) -> Any: ...


class EventLog(Protocol):
    """What can be followed: the live store."""

    def events(
        self, after: str = "0", count: int = 5000, block_ms: int = 0
    ) -> Sequence[Arrived]: ...


EVENTS = pa.schema(
    [
        ("event_id", pa.string()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("action", pa.string()),
        ("timestamp", pa.int64()),
        ("session_id", pa.string()),
        ("request_id", pa.string()),
        ("scene", pa.string()),
        ("query", pa.string()),
        ("position", pa.int32()),
        ("value", pa.float64()),
        ("received_at", pa.int64()),
    ]
)


HOUR_MS = 3_600_000
FIRST = b"funnel.first"  # in the metadata of an hour's file


def positions(path: Path) -> list[tuple[int, ...]]:
    """The last positions of the files of an archive, rising."""
    return sorted(tuple(map(int, file.stem.split("-"))) for file in path.glob("[0-9]*-*.parquet"))


class Archive(ABC):
    """Copies a log to files, each entry once; a thread does it every few seconds.

    A file is named after the last position in it and appears whole, so a restart goes on exactly
    where the last file ends.
    """

    def __init__(self, path: Path, seconds: float = 5.0):
        self.path, self.seconds = path, seconds
        self.path.mkdir(parents=True, exist_ok=True)
        self.position = "-".join(map(str, max(positions(path), default=(0,))))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"archive {path.name}", daemon=True)
        self._thread.start()

    @abstractmethod
    def copied(self) -> int:
        """Puts what is next in the log into a file; how many entries that were."""

    def copy(self) -> int:
        """Writes what has arrived since the last time; how many entries that were."""
        total = 0
        while copied := self.copied():
            total += copied
        return total

    def put(self, position: str, rows: pa.Table) -> None:
        fresh = self.path / f".{position}.parquet"
        pq.write_table(rows, fresh, compression="zstd")
        fresh.replace(self.path / f"{position}.parquet")
        self.position = position

    def close(self) -> None:
        """Copies what is left, if the store still answers."""
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        told = False
        while True:
            last = self._stop.wait(self.seconds)
            try:
                self.copy()
                told = False
            except Unavailable as error:  # goes on where it was when the store is back
                if not told:
                    log.warning("the archive %s waits: %s", self.path, error)
                told = True
            if last:
                return


class EventArchive(Archive):
    """Copies the live log to `events/`. Once an hour of the log is over its files become one."""

    def __init__(self, path: str | Path, source: EventLog, seconds: float = 5.0):
        self.source = source
        self._hour = -1
        super().__init__(Path(path) / "events", seconds)

    def copied(self) -> int:
        arrived = self.source.events(self.position)
        rows = [
            {name: getattr(one.event, name) for name in EVENTS.names[:-1]} | {"received_at": one.at}
            for one in arrived
        ]
        if arrived:
            self.put(arrived[-1].position, pa.Table.from_pylist(rows, schema=EVENTS))
        return len(arrived)

    def copy(self) -> int:
        total = super().copy()
        hour = _hour(self.position)
        if hour != self._hour:
            merge_hours(self.path, hour)
            self._hour = hour
        return total


def _hour(position: str) -> int:
    return int(position.split("-")[0]) // HOUR_MS


def first_of(file: Path) -> str:
    """The first position that went into the file of a whole hour, empty for any other file."""
    said = (pq.read_schema(file).metadata or {}).get(FIRST, b"")
    return str(said.decode())


def merge_hours(path: Path, before: int) -> int:
    """Makes the files of each hour before one (of their last positions) one file, which is named
    after the last of them; how many files went.

    It says which position it begins at, so that files that a crash left beside it are known for
    what they are, and go. A reader meanwhile may meet an event twice, by its id.
    """
    gone, hours = 0, dict[int, list[str]]()
    for place in positions(path):
        if place[0] // HOUR_MS < before:
            hours.setdefault(place[0] // HOUR_MS, []).append("-".join(map(str, place)))
    for names in hours.values():
        last = path / f"{names[-1]}.parquet"
        if first_of(last):
            parts, others = [], names[:-1]  # merged before; the others are what a crash left
        else:
            parts = others = names[:-1]
            fresh = path / f".hour-{names[-1]}.parquet"
            schema = EVENTS.with_metadata({FIRST: names[0].encode()})
            with pq.ParquetWriter(fresh, schema, compression="zstd") as writer:
                for name in (*parts, names[-1]):
                    table = pq.read_table(path / f"{name}.parquet")
                    writer.write_table(table.cast(EVENTS).replace_schema_metadata(schema.metadata))
            fresh.replace(last)
        for name in others:
            (path / f"{name}.parquet").unlink()
            gone += 1
    return gone
