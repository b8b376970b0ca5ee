"""
The live store: what users did up to now, in any Redis 7+ or Valkey. Only this file speaks to it.

    {u:<user id>}        a user's newest actions, packed: one GET is all a request needs
    {u:<user id>}:seen   digests of the events that the user sent last, so that one counts once
    {u:<user id>}:counts the user's decayed counters, where `features.users` asks for them
    {u:<user id>}:shown  the pages that the user was shown last, where scenes know fatigue
    {u:<user id>}:gone   the user was deleted: events up to this time are refused, for good
    {i:<item id>}        an item's decayed counters of what came through this store
    {o:<request id>}     the ads of a page and the prices of a click (features/sponsors.py)
    {s:<sponsor id>}     a sponsor's budget, its days and what was spent
    sponsors, boosts     all sponsors with a budget; how far each scene raises its new items
    log                  the live log, a stream of the events in the order of their arrival
    forgotten            digests of the users who were deleted, a stream too (funnel.forgotten)
    dead                 events that were refused, with the reasons, a stream
    catalogue            what became of items meanwhile, a stream too (funnel.live)
    seeded               the generation whose snapshot was loaded

A batch of events is one server-side step (`store.lua`): an event is in the history, the counters
and the log, or in none of them, and who reads after the ack sees it.
"""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import redis
from numpy.typing import NDArray
from redis.backoff import NoBackoff
from redis.retry import Retry

from features import packed
from features.embedded import Embedded
from features.event import (
    FORGOTTEN,
    Event,
    UserHistory,
    identified,
    problem,
    user_digest,
)
from features.fold import (
    IMPRESSION,
    counted,
    counter_names,
    longest,
    span_ms,
    user_names,
)
from funnel.config import Config
from funnel.errors import BadConfig, Unavailable

LUA = Path(__file__).with_name("store.lua").read_text()
BATCH = 200  # events a step of the server, which does nothing else meanwhile
CLUSTER = "+cluster"  # in the url's scheme
MEMORY = 4  # event ids remembered for a user, for each action that the history keeps
LOG, DEAD, SEEDED, COUNTS, SHOWN = "log", "dead", "seeded", ":counts", ":shown"
BURIED = 1000  # refused events of one call that are kept: a client gone mad has told enough by then
EVENT = struct.Struct("<IIdBHHI")  # user, item, time, counter; lengths of id, entry and record
PATIENT_MS = 5000  # the least wait for what is not part of a request
LONGEST_BLOCK_MS = 1000


@dataclass(frozen=True, slots=True)
class Tracked:
    """What became of a batch: `refused` has (place in the batch, reason)."""

    accepted: int = 0
    duplicates: int = 0
    refused: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Arrival:
    """An event of the live log. `position` is where to read on from."""

    position: str
    event: Event

    @property
    def at(self) -> int:
        """When it arrived, epoch ms of the server's clock."""
        return int(self.position.split("-")[0])


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that was refused: when (epoch ms of the server's clock), why, and its fields as far
    as they can be read."""

    at: int
    reason: str
    event: Mapping[str, Any]


class Store:
    """The store at `where`, a url or an embedded server. Connects at the first call, and again by
    itself after a failure; every call raises `Unavailable` while the store cannot answer."""

    seed_batch = 500  # users a step

    def __init__(self, where: str | Embedded, config: Config):
        self._where = where
        self.actions = config.all_actions
        self.history = config.features.history
        self.keep_s = config.store.keep_days * 86_400
        self.log_length, self.dead_length = config.store.log_length, config.store.dead_length
        self.timeout_ms = config.store.timeout_ms
        self.counted, self.half_lives = counted(config), config.features.half_lives
        self.spans = [span_ms(days) for days in self.half_lives]
        self.names = counter_names(self.counted, self.half_lives)
        self._layout = _layout(self.names)
        self.own_names = user_names(config)
        self._own_span = span_ms(longest(config)) if config.features.users else 0
        self._own_layout = _layout(self.own_names)
        self._places = {action: place for place, action in enumerate(self.counted, 1)}
        self._clients: tuple[redis.Redis, redis.Redis, Any] | None = None
        self._url, self._failed = "", False
        if isinstance(where, str):
            self._connect()  # tells a wrong url now

    @staticmethod
    def open(config: Config, start: bool = True) -> Store:
        """The store that the config names. Without a url it is the embedded server of `store.dir`:
        the one that runs there, or, with `start`, one that ends with this process."""
        if config.store.url:
            if CLUSTER in config.store.url.split("://")[0]:
                from features.cluster import Clustered

                return Clustered(config.store.url, config)
            return Store(config.store.url, config)
        return Store(Embedded(config.store.dir, start), config)

    def track(self, events: Sequence[Event]) -> Tracked:
        """Folds the events in. When this returns, every accepted one is visible to any read.

        Bad events are refused one by one and kept as dead letters; those that were here before
        count as duplicates. After
        an `Unavailable` send all of them again: what was taken before counts once.
        """
        now = _now()
        refused: list[tuple[int, str]] = []
        good: list[tuple[int, Event]] = []
        for place, event in enumerate(events):
            if reason := problem(event, self.actions, now):
                refused.append((place, reason))
            else:
                good.append((place, identified(event)))
        if refused:
            self._bury([(events[place], reason) for place, reason in refused[:BURIED]])
        said = b""
        for start in range(0, len(good), BATCH):
            said += self._track([event for _, event in good[start : start + BATCH]])
        for (place, event), answer in zip(good, said, strict=True):
            if answer == ord("g"):
                reason = f"user '{event.user_id[:50]}' was deleted after {event.timestamp}"
                refused.append((place, reason))
        return Tracked(said.count(b"a"), said.count(b"d"), tuple(sorted(refused)))

    def _track(self, events: Sequence[Event]) -> bytes:
        users, items, args = self._arguments(events)
        keys = [LOG, *(key for user in users for key in _keys(user)), *map(_item, items)]
        answer: bytes = self._run(keys, args)
        return answer

    def _arguments(self, events: Sequence[Event]) -> tuple[list[str], list[str], list[Any]]:
        """The users and items of the events, each once, and what the script is told."""
        users: dict[str, int] = {}
        items: dict[str, int] = {}
        head = [self.history, MEMORY * self.history, self.keep_s, self.log_length]
        args: list[Any] = ["track", *head, len(self.counted), self._layout, len(self.spans)]
        args += [*self.spans, self._own_layout, self._own_span]
        people = len(args)
        for event in events:
            id, record = event.event_id.encode(), packed.record(event)
            entry = b"" if event.action == IMPRESSION else packed.entry(event)
            digest = blake2b(id, digest_size=8).digest()
            numbers = EVENT.pack(
                users.setdefault(event.user_id, len(users) + 1),
                items.setdefault(event.item_id, len(items) + 1),
                event.timestamp,
                self._places.get(event.action, 0),
                len(id),
                len(entry),
                len(record),
            )
            args.append(b"".join((numbers, digest, id, entry, record)))
        args.insert(people, len(users))
        return list(users), list(items), args

    def _bury(self, refused: Sequence[tuple[Event, str]]) -> None:
        def add(client: Any) -> None:
            with client.pipeline(transaction=False) as pipe:
                for event, reason in refused:
                    fields = {
                        b"reason": reason.encode(errors="replace"),
                        b"event": packed.readable(event),
                    }
                    pipe.xadd(DEAD, fields, maxlen=self.dead_length, approximate=True)
                pipe.execute()

        self.ask(add, patient=True)

    def dead_letters(self, count: int = 100) -> list[DeadLetter]:
        """The last `count` events that were refused, the newest first."""
        found = self.ask(lambda client: client.xrevrange(DEAD, count=count), patient=True)
        return [
            DeadLetter(
                order(position.decode())[0],
                fields[b"reason"].decode(),
                json.loads(fields[b"event"]),
            )
            for position, fields in found
        ]

    def refused(self) -> int:
        """How many events were ever refused, of those that were kept."""

        def ask(client: Any) -> int:
            return int(client.xinfo_stream(DEAD)["entries-added"]) if client.exists(DEAD) else 0

        return int(self.ask(ask, patient=True))

    def user(self, user_id: str, at: int | None = None) -> UserHistory:
        """What the user did last, oldest first; nothing for an unknown user. One round trip.

        Counters are as of `at` (epoch ms), or of now.
        """
        keys = [_key(_user(user_id)), *([_key(_user(user_id) + COUNTS)] if self._own_span else [])]
        value, *counts = self.ask(lambda client: client.mget(keys))
        found = packed.unpacked(value, user_id, self.history) if value else UserHistory()
        if not counts:
            return found
        table = self._decayed(
            counts, self._own_layout, (self._own_span,), _now() if at is None else at
        )
        counters = dict(zip(self.own_names, table[0].tolist(), strict=True))
        return replace(found, counters=counters)

    def show(self, user_id: str, at: int, item_ids: Sequence[str], pages: int) -> None:
        """Remembers a page of a user; the last `pages` of them stay."""
        key, entry = _key(_user(user_id) + SHOWN), json.dumps([at, *item_ids]).encode()

        def add(client: Any) -> None:
            with client.pipeline(transaction=False) as pipe:  # one key: one node of a cluster
                pipe.rpush(key, entry)
                pipe.ltrim(key, -pages, -1)
                pipe.expire(key, self.keep_s)
                pipe.execute()

        self.ask(add, patient=True)

    def shown(self, user_id: str) -> list[tuple[int, list[str]]]:
        """The pages that the user was shown, oldest first: when (epoch ms), and their items."""
        key = _key(_user(user_id) + SHOWN)
        entries = [json.loads(one) for one in self.ask(lambda client: client.lrange(key, 0, -1))]
        return [(int(at), item_ids) for at, *item_ids in entries]

    def delete_user(self, user_id: str) -> bool:
        """Forgets the user; whether there was anything to forget.

        Events up to now stay refused afterwards, from wherever they come: a client that retries, a
        replay of the log, a snapshot. What the user does later is taken again.
        """
        existed = bool(self._run([_key(name) for name in _keys(user_id)], ["delete", _now()]))
        mark = {b"user": user_digest(user_id).encode(), b"until": str(_now()).encode()}
        self.append(FORGOTTEN, mark, self.log_length)
        self.ask(lambda client: client.delete(_key(_user(user_id) + SHOWN)), patient=True)
        letters = self.entries(DEAD, count=2 * self.dead_length)
        own = [at for at, one in letters if json.loads(one[b"event"]).get("user_id") == user_id]
        if own:
            self.ask(lambda client: client.xdel(DEAD, *own), patient=True)
        return existed

    def seed(
        self,
        users: Iterable[tuple[str, Sequence[str], Sequence[str], Sequence[int]]],
        generation: str,
        counts: Mapping[str, Sequence[float]] | None = None,
        at: int = 0,
    ) -> int:
        """Loads histories from a snapshot: (user id, item ids, actions, times) each; and what is
        counted of users (one number for each of `own_names`) as of `at`.

        A user who is there already gets only what is older than all of it, a deleted one only what
        is newer than that; counters go to users who have none. Returns how many histories changed;
        `seeded` then names `generation`, if that is not empty: more will come.
        """
        written, left = 0, iter(users)
        while batch := list(islice(left, self.seed_batch)):
            keys: list[Any] = []
            args: list[Any] = ["seed", self.history, self.keep_s]
            for user_id, item_ids, actions, times in batch:
                key = _user(user_id)
                keys += [_key(key), _key(key + ":gone"), _key(key + COUNTS)]
                args.append(self._packed(item_ids, actions, times))
                args.append(self._counts((counts or {}).get(user_id, ()), at))
            written += int(self._run(keys, args))
        if generation:
            self.ask(lambda client: client.set(SEEDED, generation), patient=True)
        return written

    def _packed(
        self, item_ids: Sequence[str], actions: Sequence[str], times: Sequence[int]
    ) -> bytes:
        entries = sorted(zip(times, item_ids, actions, strict=True), key=lambda entry: entry[0])
        kept = [
            Event("", item_id, action, int(time))
            for time, item_id, action in entries
            if action != IMPRESSION
        ]
        return packed.history(kept[-self.history :])

    def _counts(self, values: Sequence[float], at: int) -> bytes:
        """A user's counters as of a moment, as the server keeps them; nothing for none."""
        if not self._own_span or not len(values):
            return b""
        whole, rest = divmod(at, self._own_span)
        sums = np.asarray(values, "<f8") * 2.0 ** (rest / self._own_span)
        return b"".join((self._own_layout, struct.pack("<d", whole), sums.tobytes()))

    def seeded(self) -> str:
        """The generation whose snapshot was loaded, empty if none was."""
        value = self.ask(lambda client: client.get(SEEDED), patient=True)
        return str(value.decode()) if value else ""

    def counters(self, item_ids: Sequence[str], at: int) -> NDArray[np.float64]:
        """(k, C) counters `names` of the items as of `at`, of all events that this store took."""
        keys = [_key(_item(item_id)) for item_id in item_ids]
        return self._decayed(self._values(keys), self._layout, self.spans, at)

    def _values(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        found: Sequence[bytes | None] = self.ask(lambda client: client.mget(keys)) if keys else []
        return found

    def _decayed(
        self, values: Sequence[bytes | None], layout: bytes, half_lives: Sequence[int], at: int
    ) -> NDArray[np.float64]:
        """(k, actions · half-lives) counters as of `at`; zero where there is no value."""
        halves, width = len(half_lives), len(self.counted) + 1
        state = np.zeros((len(values), halves, width))
        for place, value in enumerate(values):
            if value and value[:4] == layout:
                state[place] = np.frombuffer(value, "<f8", offset=4).reshape(halves, width)
        spans = np.array(half_lives)
        whole, rest = np.divmod(at, spans)
        counts = np.ldexp(
            state[:, :, 1:] * np.exp2(-rest / spans)[:, None],
            np.clip(state[:, :, :1] - whole[:, None], -2000, 2000).astype(np.int32),
        )
        table: NDArray[np.float64] = counts.transpose(0, 2, 1).reshape(len(values), -1)
        return table

    def events(self, after: str = "0", count: int = 5000, block_ms: int = 0) -> list[Arrival]:
        """At most `count` events of the live log after a position, in the order of arrival.

        With `block_ms` (at most 1,000) it waits that long for the first one.
        """
        return [
            Arrival(position, packed.event_of(fields[b"event"]))
            for position, fields in self.entries(LOG, after, count, block_ms)
        ]

    def position(self) -> str:
        """Where the live log ends now; `events` after it are those yet to come."""
        return self.end(LOG)

    def trimmed(self, after: str) -> bool:
        """Whether events after the position have left the log already."""
        return self.cut_off(LOG, after)

    def append(self, stream: str, fields: Mapping[bytes, bytes], length: int) -> str:
        """Adds an entry to a stream, which keeps about `length` of them; its position."""

        def add(client: Any) -> Any:
            return client.xadd(stream, fields, maxlen=length, approximate=True)

        return str(self.ask(add, patient=True).decode())

    def entries(
        self, stream: str, after: str = "0", count: int = 100, block_ms: int = 0
    ) -> list[tuple[str, dict[bytes, bytes]]]:
        """At most `count` entries of a stream after a position, with theirs, oldest first."""
        block = min(block_ms, LONGEST_BLOCK_MS) or None
        read = self.ask(lambda client: client.xread({stream: after}, count, block), patient=True)
        return [(position.decode(), fields) for position, fields in (read[0][1] if read else [])]

    def end(self, stream: str) -> str:
        """The position of the last entry, "0" where there is none."""
        last = self.ask(lambda client: client.xrevrange(stream, count=1), patient=True)
        return str(last[0][0].decode()) if last else "0"

    def cut_off(self, stream: str, after: str) -> bool:
        """Whether entries after the position have left the stream already."""

        def ask(client: Any) -> bool:
            if not client.exists(stream):
                return False
            about = client.xinfo_stream(stream)
            if not about["first-entry"] or about["entries-added"] == about["length"]:
                return False
            return order(about["first-entry"][0].decode()) > order(after)

        return bool(self.ask(ask, patient=True))

    def ping(self) -> None:
        """Raises `Unavailable` if the store does not answer."""
        self.ask(lambda client: client.ping())

    def close(self) -> None:
        """Closes the connections, and the embedded server if this process started it."""
        clients, self._clients = self._clients, None
        for client in clients[:2] if clients else ():
            client.close()
        if isinstance(self._where, Embedded):
            self._where.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        return self.ask(lambda client: self._connect()[2](keys, args, client), patient=True)

    def ask(self, do: Callable[[Any], Any], patient: bool = False) -> Any:
        """What `do` gets of a connected client; `patient` waits longer than a request may. Raises
        `Unavailable`."""
        try:
            return do(self._connect()[1 if patient else 0])
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            self._failed = True
            raise Unavailable(
                f"the store at {self._address()} does not answer ({error}): "
                "start it, or correct store.url in the config"
            ) from error
        except redis.RedisError as error:
            raise Unavailable(
                f"the store at {self._address()} refuses ({error}): "
                "check that it is a Redis 7+ or Valkey that takes writes and has memory left"
            ) from error

    def _connect(self) -> tuple[redis.Redis, redis.Redis, Any]:
        """A client for requests, one for the rest, and the script."""
        if self._clients is None or self._failed:
            # An embedded server may be elsewhere by now. Clients of the same url stay: they
            # reconnect, and other threads may be in the middle of a call.
            url = self._where if isinstance(self._where, str) else self._where.url
            if self._clients is None or url != self._url:
                quick = self._client(url, self.timeout_ms)
                patient = self._client(url, max(PATIENT_MS, self.timeout_ms))
                self._clients = quick, patient, patient.register_script(LUA)
                self._url = url
            self._failed = False
        return self._clients

    def _client(self, url: str, timeout_ms: int) -> redis.Redis:
        try:
            if CLUSTER in url.split("://")[0]:
                return redis.RedisCluster.from_url(  # type: ignore[return-value]
                    url.replace(CLUSTER, "", 1),
                    protocol=2,
                    socket_timeout=timeout_ms / 1e3,
                    socket_connect_timeout=timeout_ms / 1e3,
                )
            return redis.Redis.from_url(
                url,
                protocol=2,
                socket_timeout=timeout_ms / 1e3,
                socket_connect_timeout=timeout_ms / 1e3,
                # Once more at once: a pooled connection may be from before the server's restart.
                retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
            )
        except ValueError as error:
            raise BadConfig(f"store.url = '{_masked(url)}' is not a Redis url: {error}") from error

    def _address(self) -> str:
        return _masked(self._where) if isinstance(self._where, str) else str(self._where.path)


def _now() -> int:
    return time.time_ns() // 1_000_000


def _user(user_id: str) -> str:
    return f"{{u:{user_id}}}"


def _keys(user_id: str) -> list[str]:
    """All that is kept of a user."""
    own = _user(user_id)
    return [own, own + ":seen", own + ":gone", own + COUNTS]


def _layout(names: Sequence[str]) -> bytes:
    """What counters say first: those of other names are not read."""
    return struct.pack("<I", zlib.crc32("\n".join(names).encode()))


def _item(item_id: str) -> str:
    return f"{{i:{item_id}}}"


def _key(name: str) -> bytes:
    """Ids in reads come from anywhere: half a character in one must not raise."""
    return name.encode("utf-8", "surrogatepass")


def order(position: str) -> tuple[int, int]:
    """What positions of the log sort by."""
    ms, _, number = position.partition("-")
    return int(ms), int(number or 0)


def _masked(url: str) -> str:
    """The url without the password."""
    try:
        password = urlsplit(url).password
    except ValueError:
        return url
    return url.replace(f":{password}@", ":***@") if password else url
