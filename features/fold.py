"""
Events folded into state: decayed counters of items and bounded histories of users.

Counters use forward decay (Cormode, Shkapenyuk, Srivastava, Xu 2009, "Forward decay: a practical
time decay model for streaming systems"): with a landmark L and a half-life s, an event at t adds
w·2^((t − L)/s) once and for all, and the counter at time T is the sum times 2^(−(T − L)/s). No
event needs to be touched again, and their order does not matter.

Powers are taken apart into 2^r·2^q with a whole q, and only q depends on where the landmark is.
Moving the landmark by whole half-lives is then exact, bit for bit: a counter never overflows, and
processes that moved it at different moments still read the same numbers.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from features.event import Event, UserHistory, identified
from funnel.catalogue import id_hash
from funnel.config import ACTIONS, Config
from funnel.errors import BadConfig, BadGeneration
from funnel.generation import Generation
from funnel.types import Array, Floats, Query, Rows, taken

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
IMPRESSION = "impression"
LARGEST = 1e38  # fits in float32
FAR = 500  # half-lives between an event and the landmark before the landmark moves


def counted(config: Config) -> tuple[str, ...]:
    """The actions that items are counted by: impressions and what says that a user wants it.

    In the order of all actions: that of a table in the config does not survive a manifest.
    """
    return tuple(n for n in config.all_actions if n == IMPRESSION or n in config.data.positive)


def counter_names(actions: Sequence[str], half_lives: Sequence[float]) -> tuple[str, ...]:
    """`live.click.7d` and so on: half-lives in days, all of one action beside each other."""
    if not half_lives:
        raise BadConfig("features.half_lives is empty: name at least one half-life in days")
    return tuple(f"live.{action}.{days:g}d" for action in actions for days in half_lives)


def span_ms(days: float) -> int:
    """A half-life in whole milliseconds."""
    span = round(days * DAY_MS) if np.isfinite(days) else 0
    if span <= 0:
        raise BadConfig(f"features.half_lives: {days} is not a positive number of days")
    return span


def longest(config: Config) -> float:
    """The half-life, in days, by which users and pairs are counted."""
    if not config.features.half_lives:
        raise BadConfig("features.half_lives is empty: name at least one half-life in days")
    return max(config.features.half_lives)


@dataclass(frozen=True, slots=True)
class Window:
    """The newest `buckets` buckets of `width_ms`, the one that is not over yet included.

    An event at t is in the window at T if floor(T/width) - buckets < floor(t/width) <=
    floor(T/width).
    """

    name: str  # as in the config: 1h, 7d
    ms: int
    width_ms: int

    @property
    def buckets(self) -> int:
        return self.ms // self.width_ms


def windows_of(config: Config) -> tuple[Window, ...]:
    """The windows by which items are counted, shortest first; each once.

    Buckets are five minutes wide for windows of an hour, an hour for those of up to a day, and a
    day (UTC) for longer ones.
    """
    found = {window.ms: window for window in map(window_of, config.features.windows)}
    return tuple(found[ms] for ms in sorted(found))


def window_of(name: str) -> Window:
    """A window by its name, which the config has checked."""
    ms = int(name[:-1]) * (HOUR_MS if name[-1] == "h" else DAY_MS)
    width = 5 * MINUTE_MS if ms <= HOUR_MS else HOUR_MS if ms <= DAY_MS else DAY_MS
    return Window(name, ms, width)


def window_names(config: Config) -> tuple[str, ...]:
    """`live.click.in1h` and so on, all windows of one action beside each other."""
    return tuple(
        f"live.{action}.in{window.name}"
        for action in counted(config)
        for window in windows_of(config)
    )


def user_names(config: Config) -> tuple[str, ...]:
    """`user.click.30d` and so on: a user's decayed counters, by the longest half-life only."""
    return tuple(f"user.{action}.{longest(config):g}d" for action in counted(config))


def pair_names(config: Config) -> tuple[str, ...]:
    """`pair.click.30d` and so on: decayed counters of a query's text and an item together."""
    return tuple(f"pair.{action}.{longest(config):g}d" for action in counted(config))


def live_names(config: Config) -> tuple[str, ...]:
    """Every column that `features.counts.Counts` may give to candidates."""
    items = counter_names(counted(config), config.features.half_lives)
    pairs = pair_names(config) if config.features.pairs else ()
    return (*items, *window_names(config), *pairs)


def normal(text: str) -> str:
    """A query's text as pairs know it: trimmed, single spaces, without case."""
    return " ".join(text.split()).casefold()


def text_hash(text: str) -> int:
    """A 64-bit hash of what `normal` makes of a text."""
    digest = blake2b(normal(text).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def pair_keys(texts: Array, items: Array) -> NDArray[np.uint64]:
    """Keys (uint64) of pairs from `text_hash`es and the items' `funnel.catalogue.id_hash`es, which
    broadcast: the finalizer of SplitMix64 (Steele, Lea, Flood 2014) over one of them mixed and the
    other."""
    mixed = _mixed(np.asarray(texts, np.uint64)) ^ np.asarray(items, np.uint64)
    return _mixed(mixed)


def pair_key(text: str, item_id: str) -> int:
    """The key of one pair of a query's text and an item."""
    texts, items = np.array([text_hash(text)], np.uint64), np.array([id_hash(item_id)], np.uint64)
    return int(pair_keys(texts, items)[0])


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return found


class ItemCounters:
    """Decayed counts of every item: a (n, C) float64 `state` as of `landmark` (epoch ms).

    `names` has all half-lives (days) of the first action, then of the next. `actions` is the list
    that action codes point into. `state` is taken over and changed in place.
    """

    def __init__(
        self,
        names: Sequence[str],
        half_lives: Sequence[float],
        landmark: int,
        state: NDArray[np.float64],
        actions: Sequence[str] = ACTIONS,
    ):
        self.names, self.half_lives = tuple(names), tuple(half_lives)
        self.landmark, self.state, self.actions = landmark, state, tuple(actions)
        self.spans = tuple(span_ms(days) for days in half_lives)
        self.shift = [0] * len(self.spans)  # half-lives that the landmark has moved, for each
        known = [name for name in self.actions if f"live.{name}.{half_lives[0]:g}d" in self.names]
        known.sort(key=lambda name: self.names.index(f"live.{name}.{half_lives[0]:g}d"))
        if self.names != counter_names(known, half_lives):
            raise BadGeneration(
                f"counters {', '.join(names)} are not the actions {', '.join(known)} by the "
                f"half-lives {', '.join(map(str, half_lives))}: build the generation again"
            )
        if state.shape[1:] != (len(names),) or state.dtype != np.float64:
            raise BadGeneration(
                f"the counters' state has shape {state.shape} of {state.dtype}, expected "
                f"(items, {len(names)}) of float64: build the generation again"
            )
        places = {name: place for place, name in enumerate(known)}
        # One more, for the code -1 of an action that nobody knows.
        self._places = np.array([places.get(name, -1) for name in (*self.actions, "")], np.int64)

    @staticmethod
    def open(generation: Generation) -> ItemCounters:
        """The generation's counters, as of its cut; changes stay in this process.

        A generation that was built without events has none: all counts are zero.
        """
        config, manifest = generation.config, generation.manifest
        names = counter_names(counted(config), config.features.half_lives)
        if not generation.has("counters"):
            return ItemCounters.empty(config, generation.items.base, manifest.until)
        found = tuple(generation.json("counters/names.json"))
        if found != names:
            raise BadGeneration(
                f"{generation.path}/counters holds {', '.join(found)}, its config says "
                f"{', '.join(names)}: build the generation again"
            )
        state = np.load(generation.file("counters/state.npy"), mmap_mode="c")
        if len(state) != generation.items.base:
            raise BadGeneration(
                f"{generation.path}/counters has {len(state)} rows for {generation.items.base} "
                "items: build the generation again"
            )
        half_lives = config.features.half_lives
        return ItemCounters(names, half_lives, manifest.until, np.asarray(state), manifest.actions)

    @staticmethod
    def empty(config: Config, items: int, landmark: int) -> ItemCounters:
        """Counters of `items` items that saw no event yet."""
        half_lives = config.features.half_lives
        names = counter_names(counted(config), half_lives)
        state = np.zeros((items, len(names)))
        return ItemCounters(names, half_lives, landmark, state, config.all_actions)

    def apply(
        self, rows: Array, actions: Array, times: Array, weights: Array | None = None
    ) -> None:
        """Adds events: rows (k,), action codes (k,), epoch ms (k,), weights (k,), else 1 each.

        Unknown rows and actions that are not counted add nothing. The order of the events matters
        to the last bit only, and how they are cut into calls not at all.
        """
        flat = self.state.reshape(-1)
        rows, places, times, weights = self._counting(rows, actions, times, weights)
        if not len(rows):
            return
        width = len(self.spans)
        for h in range(width):
            self._reach(h, int(times.max()))
            cells = rows * self.state.shape[1] + places * width + h
            np.add.at(flat, cells, self.grown(h, times) * weights)

    def _counting(
        self, rows: Array, actions: Array, times: Array, weights: Array | None
    ) -> tuple[Array, Array, Array, Array]:
        rows, times = np.asarray(rows, np.int64), np.asarray(times, np.int64)
        places = self._places[np.asarray(actions, np.int64)]
        weights = np.ones(len(rows)) if weights is None else np.asarray(weights, np.float64)
        keep = (rows >= 0) & (rows < len(self.state)) & (places >= 0)
        return rows[keep], places[keep], times[keep], weights[keep]

    def grown(self, h: int, times: Array) -> NDArray[np.float64]:
        """2^((t − L)/s) of every time for the half-life number h, L being where it is now."""
        whole, rest = np.divmod(np.asarray(times, np.int64) - self.landmark, self.spans[h])
        exponent = np.clip(whole - self.shift[h], -2000, 2000).astype(np.int32)
        grown: NDArray[np.float64] = np.ldexp(np.exp2(rest / self.spans[h]), exponent)
        return grown

    def _reach(self, h: int, newest: int) -> None:
        """Moves the landmark of half-life h towards `newest` before numbers grow too large."""
        far = (newest - self.landmark) // self.spans[h] - self.shift[h]
        if far > FAR:
            column = self.state[:, h :: len(self.spans)]
            column[:] = np.ldexp(column, -min(far, 2000))
            self.shift[h] += far

    def grow(self, items: int) -> None:
        """Makes room for so many items at least; new ones saw no event yet."""
        if items > len(self.state):
            room = np.zeros((items + items // 8, self.state.shape[1]))
            room[: len(self.state)] = self.state
            self.state = room

    def read(self, rows: Array, at: int) -> Floats:
        """(k, C) float32: the counters of the items as of `at` (epoch ms); zero for items that
        there is no room for yet."""
        return self.decayed(taken(self.state, rows), at)

    def decayed(self, state: NDArray[np.float64], at: int) -> Floats:
        """(k, C) states at the landmark as counters at `at`, or at the landmark if that is later:
        what the state knew cannot be taken out of it again."""
        width = len(self.spans)
        rest, exponent = np.empty(width), np.empty(width, np.int32)
        for h, span in enumerate(self.spans):
            whole, part = divmod(max(int(at) - self.landmark, 0), span)
            rest[h] = np.exp2(-part / span)
            exponent[h] = min(max(self.shift[h] - whole, -2000), 2000)
        repeat = state.shape[1] // width
        values: NDArray[np.float64] = np.ldexp(
            state * np.tile(rest, repeat), np.tile(exponent, repeat)
        )
        return np.minimum(values, LARGEST).astype(np.float32)

    def part(self, rows: Rows) -> ItemCounters:
        """A copy with these items only: item i of it is `rows[i]`."""
        part = copy(self)
        part.state, part.shift = taken(self.state, rows), list(self.shift)
        return part

    def hydrate(self, query: Query, rows: Rows) -> Mapping[str, Floats]:
        """One column a counter, as of the query: a `Hydrator` for work that has no live store.

        The caller applies the events that the moment of the query may know.
        """
        return self.columns(self.read(rows, query.at))

    def columns(self, values: Floats) -> dict[str, Floats]:
        return dict(zip(self.names, np.ascontiguousarray(values.T), strict=True))

    def codes(self, actions: Iterable[str]) -> NDArray[np.int8]:
        """Action names as codes, -1 for unknown ones."""
        places = {name: code for code, name in enumerate(self.actions)}
        return np.array([places.get(name, -1) for name in actions], np.int8)


class Histories:
    """Histories of all users in this process: what the live store keeps, for replays and tests.

    Of a user the newest `limit` actions by (time, event id), impressions left out; an event id
    counts once. The state does not depend on the order in which events come.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._keys: dict[str, list[tuple[int, str]]] = {}
        self._done: dict[str, list[tuple[str, str]]] = {}  # item id, action; beside the keys
        self._seen: dict[str, set[str]] = {}

    def add(self, event: Event) -> bool:
        """Whether the event was new."""
        event = identified(event)
        seen = self._seen.setdefault(event.user_id, set())
        if event.event_id in seen:
            return False
        seen.add(event.event_id)
        if event.action != IMPRESSION:
            keys, done = self._of(event.user_id)
            key = (event.timestamp, event.event_id)
            place = bisect_right(keys, key)
            keys.insert(place, key)
            done.insert(place, (event.item_id, event.action))
            self._cut(keys, done)
        return True

    def seed(self, user_id: str, history: UserHistory) -> None:
        """Adds what a snapshot knows of the user and is older than all that is here."""
        keys, done = self._of(user_id)
        oldest = keys[0][0] if keys else None
        columns = zip(history.times, history.item_ids, history.actions, strict=True)
        old = [
            (time, item, action)
            for time, item, action in sorted(columns, key=lambda entry: entry[0])
            if action != IMPRESSION and (oldest is None or time < oldest)
        ]
        keys[:0] = [(int(time), "") for time, _, _ in old]
        done[:0] = [(item, action) for _, item, action in old]
        self._cut(keys, done)

    def user(self, user_id: str) -> UserHistory:
        keys, done = self._keys.get(user_id, []), self._done.get(user_id, [])
        return UserHistory(
            tuple(item for item, _ in done),
            tuple(action for _, action in done),
            tuple(time for time, _ in keys),
        )

    def before(self, user_id: str, at: int) -> UserHistory:
        """The part of the history that happened before `at`."""
        history, keys = self.user(user_id), self._keys.get(user_id, [])
        stop = bisect_left(keys, (at, ""))
        return UserHistory(history.item_ids[:stop], history.actions[:stop], history.times[:stop])

    def _of(self, user_id: str) -> tuple[list[tuple[int, str]], list[tuple[str, str]]]:
        return self._keys.setdefault(user_id, []), self._done.setdefault(user_id, [])

    def _cut(self, keys: list[tuple[int, str]], done: list[tuple[str, str]]) -> None:
        extra = max(len(keys) - self.limit, 0)
        del keys[:extra], done[:extra]
