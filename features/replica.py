"""
What a process that serves has counted: the generation's counters, and what has arrived since.

A thread follows the live log. A query reads the counters as of `query.at` from the events that had
arrived `settle_ms` before: late enough that every process has them by then, so that all processes,
and a replay of the request, read the same numbers.
"""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from features.counts import Counts, named, text_of
from features.store import Arrival, Store, order
from funnel.catalogue import Catalogue
from funnel.errors import Unavailable
from funnel.types import Array, Floats, Query, Rows

log = logging.getLogger(__name__)

PENDING_MS = 30_000  # queries may ask for a moment as far back as this
BLOCK_MS = 200
PAUSE_S = 0.02  # between two reads of the log, so that events come in handfuls
RETRY_S = 0.5
BATCH = 5000

PENDING = np.dtype(
    [("arrived", "i8"), ("row", "i4"), ("action", "i1"), ("time", "i8"), ("text", "u8")]
)


class Replica:
    """Counters, windows and pairs that follow the log of `store`: a `Hydrator`, safe to share
    between threads.

    `counts` are the generation's; they are taken over. Only events from their landmark on count,
    as the generation has those before. An item that the catalogue comes to know within the 30 s
    after an event is counted as if it had known it. While the store is down the replica keeps what
    it has.
    """

    def __init__(
        self,
        store: Store,
        counts: Counts,
        catalogue: Catalogue,
        settle_ms: int,
        position: str = "0",
    ):
        self.names, self.settle_ms, self.position = counts.items.names, settle_ms, position
        self._store, self._counts, self._catalogue = store, counts, catalogue
        self._since = counts.items.landmark
        self._pending = _Pending()
        self._strangers: list[tuple[int, str]] = []  # number among the pending, item id
        self._version = -1  # of the catalogue that did not know them
        self._news = threading.Condition()
        self._current = -np.inf  # when the end of the log was reached last
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="replica", daemon=True)
        self._thread.start()

    def hydrate(self, query: Query, rows: Rows) -> Mapping[str, Floats]:
        """(k,) float32 columns by name, as of the query. Exact for moments of the last 30 s;
        for earlier ones they hold events that came later too. Zero for items that nothing was
        counted for."""
        counts, at = self._counts, query.at
        distinct, places = np.unique(rows, return_inverse=True)
        with self._news:
            recent = self._recent(distinct, at)
            found = self._items(recent, distinct, places, rows, at)
            if counts.windows.names:
                values = counts.windows.read(distinct, at)
                if len(recent):
                    added = np.searchsorted(distinct, recent["row"])
                    events = recent["action"], recent["time"]
                    values += counts.windows.recent(added, *events, at, len(distinct))
                found |= named(counts.windows.names, values[places])
            if counts.pairs.names and query.text:
                keys = counts.hashes.keys(query.text, distinct)
                pairs = counts.pairs.part(keys)
                same = recent[recent["text"] == text_of(query.text)]
                pairs.apply(np.searchsorted(distinct, same["row"]), same["action"], same["time"])
                found |= named(counts.pairs.names, pairs.read(places, at))
        return found

    def read(self, rows: Rows, at: int) -> Floats:
        """(k, C) float32 decayed counters of items at `at`, of the events that arrived `settle_ms`
        before."""
        distinct, places = np.unique(rows, return_inverse=True)
        with self._news:
            columns = self._items(self._recent(distinct, at), distinct, places, rows, at)
        return np.stack([columns[name] for name in self.names], axis=1)

    def _recent(self, distinct: Rows, at: int) -> Array:
        """The events that are not in the counts yet, of these items."""
        recent = self._pending.until(at - self.settle_ms)
        if not len(recent) or not len(distinct):
            return recent[:0]
        wanted = np.zeros(int(max(distinct[-1], recent["row"].max())) + 1, bool)
        wanted[distinct] = True
        found: Array = recent[(recent["row"] >= 0) & wanted[recent["row"]]]  # a copy
        return found

    def _items(
        self, recent: Array, distinct: Rows, places: Array, rows: Rows, at: int
    ) -> dict[str, Floats]:
        items = self._counts.items
        if not len(recent):
            return items.columns(items.read(rows, at))
        part = items.part(distinct)
        part.apply(np.searchsorted(distinct, recent["row"]), recent["action"], recent["time"])
        return items.columns(part.read(places, at))

    @property
    def lag_ms(self) -> float:
        """How long ago the end of the log was reached; infinite before the first time."""
        return 1e3 * (time.monotonic() - self._current)

    def wait(self, position: str, seconds: float) -> bool:
        """Waits until everything up to a position of the log is here; whether it came."""

        def reached() -> bool:
            return self._current > -np.inf and order(self.position) >= order(position)

        with self._news:
            return self._news.wait_for(reached, seconds)

    def close(self) -> None:
        """Stops to follow the log; what was read stays readable."""
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        down = fresh = False
        while not self._stop.is_set():
            try:
                if not fresh and self._store.trimmed(self.position):
                    log.warning(
                        "events after %s have left the live log: counters miss them; raise "
                        "store.log_length or build a generation more often",
                        self.position,
                    )
                fresh = True
                events = self._store.events(self.position, BATCH, BLOCK_MS)
                self._take(events)
                if down:
                    log.warning("the live log is followed again")
                down = False
                self._stop.wait(0 if len(events) == BATCH else PAUSE_S)
            except Unavailable as error:
                if not down:
                    log.warning("item counters stand still: %s", error)
                down = True
                self._stop.wait(RETRY_S)
            except Exception:  # the thread must outlive what nobody thought of
                log.exception("the live log could not be read at %s", self.position)
                self._stop.wait(RETRY_S)

    def _take(self, arrivals: Sequence[Arrival]) -> None:
        counting = [arrival for arrival in arrivals if arrival.event.timestamp >= self._since]
        fresh = np.zeros(len(counting), PENDING)
        fresh["arrived"] = [arrival.at for arrival in counting]
        fresh["row"] = self._catalogue.rows([arrival.event.item_id for arrival in counting])
        fresh["action"] = self._counts.items.codes(arrival.event.action for arrival in counting)
        fresh["time"] = [arrival.event.timestamp for arrival in counting]
        if self._counts.pairs.names:
            fresh["text"] = [text_of(arrival.event.query) for arrival in counting]
        unknown = np.flatnonzero(fresh["row"] < 0).tolist()
        with self._news:
            first = self._pending.add(fresh)
            self._strangers += [(first + i, counting[i].event.item_id) for i in unknown]
            self._meet()
            if arrivals:
                self.position = arrivals[-1].position
                old = self._pending.take(arrivals[-1].at - self.settle_ms - PENDING_MS)
                self._counts.apply(old["row"], old["action"], old["time"], old["text"])
            del self._strangers[: bisect_left(self._strangers, (self._pending.first,))]
            # Where queries will ask for, so that they need not count what left meanwhile.
            self._counts.windows.advance(time.time_ns() // 1_000_000)
            if len(arrivals) < BATCH:
                self._current = time.monotonic()
            self._news.notify_all()

    def _meet(self) -> None:
        """Looks for the items that the catalogue did not know, if it has changed since."""
        if self._version == self._catalogue.version or not self._strangers:
            return
        self._version = self._catalogue.version
        waiting = self._strangers
        rows = self._catalogue.rows([id for _, id in waiting])
        for (number, _), row in zip(waiting, rows.tolist(), strict=True):
            if row >= 0:
                self._pending.at(number)["row"] = row
        self._strangers = [one for one, row in zip(waiting, rows.tolist(), strict=True) if row < 0]


class _Pending:
    """Events in the order of their arrival: added at the end, taken from the front."""

    def __init__(self) -> None:
        self._room: NDArray[np.void] = np.empty(1024, PENDING)
        self._start = self._stop = 0
        self.first = 0  # the number of the first one that is still here

    def add(self, events: Array) -> int:
        """The number of the first of them: they are numbered from 0 on."""
        if self._stop + len(events) > len(self._room):
            here = self._room[self._start : self._stop]
            room = np.empty(2 * (len(here) + len(events)) + 1024, PENDING)
            room[: len(here)] = here
            self._room, self._start, self._stop = room, 0, len(here)
        self._room[self._stop : self._stop + len(events)] = events
        self._stop += len(events)
        return self.first + self._stop - self._start - len(events)

    def at(self, number: int) -> Array:
        """A view of one that is still here."""
        return self._room[self._start + number - self.first, ...]

    def until(self, arrived: int) -> Array:
        """A view of the events that arrived up to then."""
        here = self._room[self._start : self._stop]
        return here[: np.searchsorted(here["arrived"], arrived, "right")]

    def take(self, arrived: int) -> Array:
        """`until`, and these are no longer here."""
        old = self.until(arrived)
        self._start += len(old)
        self.first += len(old)
        return old
