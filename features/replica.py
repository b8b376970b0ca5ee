"""
The item counters of a process that serves: the generation's, and what has arrived since.

A thread follows the live log. A query reads the counters as of `query.at` from the events that had
arrived `settle_ms` before: late enough that every process has them by then, so that all processes,
and a replay of the request, read the same numbers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from features.fold import ItemCounters
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

PENDING = np.dtype([("arrived", "i8"), ("row", "i4"), ("action", "i1"), ("time", "i8")])


class Replica:
    """Item counters that follow the log of `store`: a `Hydrator`, safe to share between threads.

    `counters` are the generation's; they are taken over. Only events from their landmark on count,
    as the generation has those before. While the store is down the replica keeps what it has.
    """

    def __init__(
        self,
        store: Store,
        counters: ItemCounters,
        catalogue: Catalogue,
        settle_ms: int,
        position: str = "0",
    ):
        self.names, self.settle_ms, self.position = counters.names, settle_ms, position
        self._store, self._counters, self._catalogue = store, counters, catalogue
        self._since = counters.landmark
        self._pending = _Pending()
        self._news = threading.Condition()
        self._current = -np.inf  # when the end of the log was reached last
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="replica", daemon=True)
        self._thread.start()

    def hydrate(self, query: Query, rows: Rows) -> Mapping[str, Floats]:
        """(k,) float32 counters by name, as of the query. Exact for moments of the last 30 s;
        for earlier ones they hold events that came later too."""
        return self._counters.columns(self.read(rows, query.at))

    def read(self, rows: Rows, at: int) -> Floats:
        """(k, C) float32 counters at `at` of the events that arrived `settle_ms` before. Nothing is
        counted for items that the generation does not have."""
        known = rows < len(self._counters.state)
        if not known.all():
            table = np.zeros((len(rows), len(self.names)), np.float32)
            table[known] = self.read(rows[known], at)
            return table
        with self._news:
            recent = self._pending.until(at - self.settle_ms)
            if len(recent):
                wanted = np.zeros(len(self._counters.state), bool)
                wanted[rows] = True
                recent = recent[wanted[recent["row"]]]  # a copy
            if not len(recent):
                return self._counters.read(rows, at)
            distinct, places = np.unique(rows, return_inverse=True)
            part = self._counters.part(distinct)
        found = np.searchsorted(distinct, recent["row"])
        part.apply(found, recent["action"], recent["time"])
        return part.read(places, at)

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
        fresh = np.empty(len(counting), PENDING)
        fresh["arrived"] = [arrival.at for arrival in counting]
        fresh["row"] = self._catalogue.rows([arrival.event.item_id for arrival in counting])
        fresh["action"] = self._counters.codes(arrival.event.action for arrival in counting)
        fresh["time"] = [arrival.event.timestamp for arrival in counting]
        known = (fresh["row"] >= 0) & (fresh["row"] < len(self._counters.state))
        fresh = fresh[known & (fresh["action"] >= 0)]
        with self._news:
            self._pending.add(fresh)
            if arrivals:
                self.position = arrivals[-1].position
                old = self._pending.take(arrivals[-1].at - self.settle_ms - PENDING_MS)
                self._counters.apply(old["row"], old["action"], old["time"])
            if len(arrivals) < BATCH:
                self._current = time.monotonic()
            self._news.notify_all()


class _Pending:
    """Events in the order of their arrival: added at the end, taken from the front."""

    def __init__(self) -> None:
        self._room: NDArray[np.void] = np.empty(1024, PENDING)
        self._start = self._stop = 0

    def add(self, events: Array) -> None:
        if self._stop + len(events) > len(self._room):
            here = self._room[self._start : self._stop]
            room = np.empty(2 * (len(here) + len(events)) + 1024, PENDING)
            room[: len(here)] = here
            self._room, self._start, self._stop = room, 0, len(here)
        self._room[self._stop : self._stop + len(events)] = events
        self._stop += len(events)

    def until(self, arrived: int) -> Array:
        """A view of the events that arrived up to then."""
        here = self._room[self._start : self._stop]
        return here[: np.searchsorted(here["arrived"], arrived, "right")]

    def take(self, arrived: int) -> Array:
        """`until`, and these are no longer here."""
        old = self.until(arrived)
        self._start += len(old)
        return old
