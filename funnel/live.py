"""
The catalogue's live log: what was upserted and deleted since the generation was built.

    catalogue    a stream of the live store: `items`, an Arrow stream of whole items, or `deleted`,
                 their ids as JSON

An ack means that the change is in the log. Each process has a `Follower` for every generation that
it serves: a thread that starts where the generation ends (`Manifest.catalog_position`), and so
comes to the same rows as every other, however often it is started anew.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from features.store import Store, order
from funnel.config import Config
from funnel.errors import Unavailable
from funnel.generation import Generation
from funnel.host import KEPT
from funnel.overlay import Applied, Change, LiveCatalogue
from funnel.types import Rows

log = logging.getLogger(__name__)

STREAM = "catalogue"
ITEMS, DELETED = b"items", b"deleted"
BATCH = 20  # entries that are applied at a time
BLOCK_MS = 200
PAUSE_S = 0.05  # between two reads, so that changes come in handfuls
RETRY_S = 0.5

Upsert = Callable[[Rows, pa.Table], None]


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A change, and where in the log to read on after it."""

    position: str
    change: Change

    @property
    def at(self) -> int:
        """When it arrived, epoch ms of the store's clock."""
        return order(self.position)[0]


@dataclass(frozen=True, eq=False)
class CatalogueLog:
    """The log in the live store, of which about `length` entries are kept."""

    store: Store
    length: int

    def append(self, change: Change) -> str:
        """Its position. Raises `Unavailable` where the store does not take it."""
        fields: dict[bytes, bytes] = {}
        if change.items is not None:
            fields[ITEMS] = packed(change.items)
        if change.deleted:
            fields[DELETED] = json.dumps(change.deleted).encode()
        return self.store.append(STREAM, fields, self.length)

    def read(self, after: str = "0", count: int = BATCH, block_ms: int = 0) -> list[Entry]:
        """At most `count` entries after a position; waits up to `block_ms` for the first."""
        entries = self.store.entries(STREAM, after, count, block_ms)
        return [Entry(position, unpacked(fields)) for position, fields in entries]

    def position(self) -> str:
        """Where the log ends now."""
        return self.store.end(STREAM)

    def trimmed(self, after: str) -> bool:
        """Whether entries after the position have left the log already."""
        return self.store.cut_off(STREAM, after)


def packed(items: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, items.schema, options=options) as out:
        out.write_table(items)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def unpacked(fields: dict[bytes, bytes]) -> Change:
    items = pa.ipc.open_stream(fields[ITEMS]).read_all() if ITEMS in fields else None
    return Change(items, tuple(json.loads(fields.get(DELETED, b"[]"))))


class Follower:
    """Keeps a live catalogue up with the log, and whoever must know what changed.

    The `upserts` are told after the catalogue: what they find is allowed by then. While the store
    is down everything stays as it is.
    """

    def __init__(
        self,
        log: CatalogueLog,
        catalogue: LiveCatalogue,
        position: str,
        *upserts: Upsert,
    ):
        self.log, self.catalogue, self.position = log, catalogue, position
        self.upserts = [*upserts]  # all of them before `start`
        self._applying = threading.Lock()  # the thread, and whoever catches up
        self._told = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="catalogue", daemon=True)

    def start(self, wait_s: float = 10.0) -> Follower:
        """Follows; returns when all that is in the log now is applied, or after `wait_s`. Once."""
        if self._thread.ident is not None:
            return self
        due = time.monotonic() + wait_s
        try:
            if self.log.trimmed(self.position):
                log.warning(
                    "changes of items after %s have left the live log: they are missing; raise "
                    "store.catalogue_length, or build a generation more often",
                    self.position,
                )
            end = self.log.position()
            while order(self.position) < order(end) and time.monotonic() < due:
                self.catch_up()
        except Unavailable as error:
            self._told = True
            log.warning("the catalogue is the generation's: %s", error)
        self._thread.start()
        return self

    def catch_up(self, block_ms: int = 0) -> int:
        """Applies what is next in the log; how many entries that were. Any thread may call it."""
        with self._applying:
            entries = self.log.read(self.position, BATCH, block_ms)
            if entries:
                self._apply([entry.change for entry in entries])
                self.position = entries[-1].position
        return len(entries)

    def _apply(self, changes: Sequence[Change]) -> Applied:
        applied = self.catalogue.apply(changes)
        if len(applied.rows):
            for upsert in self.upserts:
                upsert(applied.rows, applied.items)
        return applied

    def close(self) -> None:
        """Stops to follow; what was applied stays."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                # Waits without the lock: who catches up must not wait for a quiet log.
                self.log.store.entries(STREAM, self.position, 1, BLOCK_MS)
                found = self.catch_up()
                if self._told:
                    log.warning("the catalogue's log is followed again")
                self._told = False
                self._stop.wait(0 if found == BATCH else PAUSE_S)
            except Unavailable as error:
                if not self._told:
                    log.warning("the catalogue stands still: %s", error)
                self._told = True
                self._stop.wait(RETRY_S)
            except Exception:  # the thread must outlive what nobody thought of
                log.exception("the catalogue's log could not be applied at %s", self.position)
                self._stop.wait(RETRY_S)


@dataclass(frozen=True, eq=False)
class LiveGeneration:
    """A generation with a live catalogue. Who must hear of upserts joins `follower.upserts` before
    somebody starts it."""

    generation: Generation
    follower: Follower


class LiveGenerations:
    """The generations of this process, each with its one live catalogue and who follows the log.

    What serves a generation shares it. The last ones stay; those before are no longer followed.
    """

    def __init__(self, config: Config, store: Store):
        self.root = Path(config.build.root)
        self.log = CatalogueLog(store, config.store.catalogue_length)
        self._open: dict[str, LiveGeneration] = {}
        self._lock = threading.Lock()

    def open(self, id: str) -> LiveGeneration:
        """Raises what the opening of a generation raises."""
        with self._lock:
            if id not in self._open:
                generation = Generation.open(self.root / id, live=True)
                assert isinstance(generation.items, LiveCatalogue)
                position = generation.manifest.catalog_position
                follower = Follower(self.log, generation.items, position)
                self._open[id] = LiveGeneration(generation, follower)
                for old in [*self._open][: -KEPT - 1]:
                    self._open.pop(old).follower.close()
            return self._open[id]

    def held(self, id: str) -> Generation | None:
        """The generation if it is one of those that are open, and does not open it."""
        found = self._open.get(id)
        return found.generation if found is not None else None

    def close(self) -> None:
        for held in self._open.values():
            held.follower.close()
