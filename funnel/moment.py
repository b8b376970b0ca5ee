"""
What rerank must know of the moment, which no stage may ask for itself: the pages that a user was
shown, how far sponsors' money goes, how much new items are raised. It travels in `Query.live`.

Reading a user's pages is one round trip of the request. Everything else is read by a thread about
once a second; what pages do to the store is written by it too, off the request path.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from funnel.config import Config
from funnel.errors import Unavailable
from funnel.generation import Generation
from funnel.roles import SPONSOR
from funnel.types import FRESH, NO_ITEM, PRICE, Array, Candidates, Query

if TYPE_CHECKING:
    from features.store import Store

log = logging.getLogger(__name__)

REFRESH_S = 1.0
WAITING = 10_000  # pages that wait to be written; more are dropped, and counted
BOOSTS = "boosts"
# Adds to a scene's number within its bounds.
MOVE = """
local value = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0') + tonumber(ARGV[2])
value = math.max(math.min(value, tonumber(ARGV[3])), 0)
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.9f', value))
"""


@dataclass(frozen=True, slots=True)
class Showed:
    """What a page did: to a user, to sponsors, and to the share of new items."""

    scene: str
    request_id: str
    user_id: str
    at: int
    item_ids: tuple[str, ...]
    ads: Mapping[str, tuple[str, float]] = field(default_factory=dict)  # item -> sponsor, price
    fresh: int | None = None  # new items on the page; None: not counted


class Moment:
    """Of one gateway. `close` writes what waits, if the store answers."""

    def __init__(self, config: Config, store: Store):
        from features.sponsors import Sponsors

        self.config, self.store, self.sponsors = config, store, Sponsors(store)
        self.dropped = 0
        self._rates: dict[str, float] = {}
        self._boosts: dict[str, float] = {}
        self._codes: tuple[str, dict[str, int]] = ("", {})
        settings = [scene.rerank for scene in config.scenes.values()]
        self._ads = any(one.ads.method != "off" for one in settings)
        self._fresh = any(one.fresh.share for one in settings)
        self._pages: queue.Queue[Showed | None] = queue.Queue(WAITING)
        self._told = False
        self._refresh()
        self._thread = threading.Thread(target=self._work, name="moment", daemon=True)
        self._thread.start()

    def live(self, scene: str, generation: Generation) -> dict[str, Array]:
        """What is known of all users, without asking anybody."""
        settings, found = self.config.scenes[scene].rerank, dict[str, Array]()
        if settings.ads.method != "off":
            codes = self._sponsor_codes(generation)
            rates = [(codes[s], r) for s, r in self._rates.items() if s in codes and r < 1]
            found["sponsor.codes"] = np.array([code for code, _ in rates], np.int32)
            found["sponsor.rates"] = np.array([rate for _, rate in rates], np.float32)
        if settings.fresh.share:
            found["fresh.boost"] = np.asarray(self._boosts.get(scene, 0.0), np.float32)
        return found

    def shown(self, user_id: str, generation: Generation) -> dict[str, Array]:
        """The pages that a user was shown; one round trip. Raises `Unavailable`."""
        pages = self.store.shown(user_id)
        rows = generation.items.rows([item for _, items in pages for item in items])
        times = np.repeat(
            np.array([at for at, _ in pages], np.int64), [len(items) for _, items in pages]
        )
        known = rows != NO_ITEM
        return {"shown.rows": rows[known], "shown.times": times[known]}

    def showed(self, query: Query, page: Candidates, generation: Generation) -> None:
        """Takes note of a page, off the request path. A full queue drops it: a slow store must not
        slow pages."""
        settings = self.config.scenes[query.scene].rerank
        prices = page.columns.get(PRICE)
        new = page.columns.get(FRESH)
        if not (prices is not None or new is not None or (settings.fatigue.on and query.user_id)):
            return
        item_ids = generation.items.item_ids(page.rows)
        ads: dict[str, tuple[str, float]] = {}
        if prices is not None:
            names, codes = generation.items.values(SPONSOR), generation.items.codes(SPONSOR)
            for place in np.flatnonzero(np.isfinite(prices)).tolist():
                sponsor = names[codes[page.rows[place]]]
                ads[item_ids[place]] = sponsor, round(float(prices[place]), 9)
        fresh = int(new.sum()) if new is not None else None
        entry = Showed(
            query.scene, query.request_id, query.user_id, query.at, tuple(item_ids), ads, fresh
        )
        try:
            self._pages.put_nowait(entry)
        except queue.Full:
            self.dropped += 1

    def flush(self, wait_s: float = 5.0) -> bool:
        """Waits until what was shown so far is in the store, and what it did is read; for tests and
        for who must see it at once."""
        due = time.monotonic() + wait_s
        while self._pages.unfinished_tasks and time.monotonic() < due:
            time.sleep(0.005)
        self._refresh()
        return not self._pages.unfinished_tasks

    def close(self) -> None:
        self._pages.put(None)
        self._thread.join()

    def _sponsor_codes(self, generation: Generation) -> dict[str, int]:
        """Of the values that the catalogue has now: sponsors come with new items."""
        values = generation.items.values(SPONSOR)
        version = f"{generation.id} {len(values)}"
        if self._codes[0] != version:
            self._codes = version, {name: code for code, name in enumerate(values)}
        return self._codes[1]

    def _work(self) -> None:
        due = time.monotonic() + REFRESH_S
        while True:
            try:
                entry = self._pages.get(timeout=max(due - time.monotonic(), 0.01))
                if entry is None:
                    return
                self._guarded(entry)
                self._pages.task_done()
            except queue.Empty:
                pass
            if time.monotonic() >= due:
                self._refresh()
                due = time.monotonic() + REFRESH_S

    def _guarded(self, entry: Showed) -> None:
        try:
            self._write(entry)
        except Unavailable as error:
            self.dropped += 1
            self._complain("a page was shown and is not remembered: %s", error)

    def _write(self, entry: Showed) -> None:
        settings = self.config.scenes[entry.scene].rerank
        if settings.fatigue.on and entry.user_id:
            self.store.show(entry.user_id, entry.at, entry.item_ids, settings.fatigue.pages)
        if entry.ads:
            self.sponsors.offer(entry.request_id, entry.ads)
        if entry.fresh is not None:
            by = settings.fresh.step(len(entry.item_ids), entry.fresh)
            most = float(np.log(settings.fresh.most))
            self.store.ask(
                lambda client: client.eval(MOVE, 1, BOOSTS, entry.scene, by, most), patient=True
            )

    def _refresh(self) -> None:
        """Reads what is the same for all users. While the store is down it stays as it was."""
        try:
            if self._ads:
                now = time.time_ns() // 1_000_000
                self._rates = {one.sponsor_id: one.rate(now) for one in self.sponsors.all()}
            if self._fresh:
                found = self.store.ask(lambda client: client.hgetall(BOOSTS), patient=True)
                self._boosts = {name.decode(): float(value) for name, value in found.items()}
            self._told = False
        except Unavailable as error:
            self._complain("sponsors' rates and boosts stay as they were: %s", error)

    def _complain(self, said: str, error: Unavailable) -> None:
        if not self._told:
            log.warning(said, error)
        self._told = True
