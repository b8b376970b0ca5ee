"""
The live store: how fast events come in through gRPC, what survives a kill, how fast it is read.

The features service and the Valkey server are processes of their own on this machine. What is
measured: events folded a second through one stream of `Track`; how many acknowledged events are
gone after `kill -9` of the service, and of a server that appends to a file; reads that missed the
write before them; a user's state; 2,000 items × 16 values as packed values in one MGET, beside the
same as hashes in one pipeline; bytes of a user with 100 actions and of an item.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import redis
import typer

from benchmarks import harness
from features.embedded import Embedded
from features.event import Event
from features.store import Store
from funnel.config import Config, parse
from funnel.errors import Unavailable
from funnel.remote import RemoteFeatures
from funnel.service import FeaturesService, Server, until_terminated

ACTIONS = ("impression", "impression", "click", "cart")
USERS, ITEMS = 5_000, 20_000
READ, VALUES = 2_000, 16


def settings() -> Config:
    return parse({"store": {"timeout_ms": 5000}})


def serve(url: str) -> None:
    """The service process: prints its address and serves until SIGTERM."""
    with Store(url, settings()) as store:
        server = Server("127.0.0.1:0", [FeaturesService(store)]).start()
        print(server.address, flush=True)
        until_terminated([server], 1.0)


@contextmanager
def served(url: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A service in a process of its own, and its address."""
    command = [sys.executable, "-m", "benchmarks.features_store", "--serve", url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        if not address:
            raise Unavailable("the benchmark's service did not start")
        yield process, address
    finally:
        process.kill()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


def events(count: int, seed: int) -> list[Event]:
    """Clicks of many users on few items, in order of time, the last one now."""
    draw, now = np.random.default_rng(seed), time.time_ns() // 1_000_000
    users, items = draw.integers(USERS, size=count), draw.zipf(1.3, count) % ITEMS
    actions = draw.integers(len(ACTIONS), size=count)
    return [
        Event(
            f"u{user}",
            f"i{item}",
            ACTIONS[action],
            now - count + n,
            event_id=f"{seed:x}-{n:x}-{user}",
            request_id=f"r{n // 10}",
            scene="home",
            position=n % 10 + 1,
        )
        for n, (user, item, action) in enumerate(zip(users, items, actions, strict=True))
    ]


def folds(url: str, count: int, turns: int) -> float:
    """Events a second, the best of some streams: the first ones find no histories yet."""
    rates = []
    with served(url) as (_, address), RemoteFeatures(address, 120.0) as remote:
        remote.track(events(2_000, 1))
        for turn in range(turns):
            sent = events(count, 2 + turn)
            begin = time.perf_counter()
            told = remote.track(sent)
            rates.append(count / (time.perf_counter() - begin))
            if told.accepted != count:
                raise RuntimeError(f"{count - told.accepted} of {count} events were not accepted")
    return float(np.median(rates))


def missing(store: Store, acked: Sequence[Event]) -> int:
    """How many of the events are neither in the log nor known as sent."""
    there: set[str] = set()
    position = "0"
    while found := store.events(position):
        there |= {one.event.event_id for one in found}
        position = found[-1].position
    return sum(event.event_id not in there for event in acked)


def killed_service(url: str, store: Store) -> tuple[int, int]:
    """Acknowledged events, and how many of them are gone after `kill -9` of the service amid
    them."""
    acked: list[Event] = []
    with served(url) as (process, address), RemoteFeatures(address, 10.0) as remote:
        try:
            for start in range(40):
                batch = events(500, 100 + start)
                remote.track(batch)
                acked += batch
                if start == 20:
                    process.send_signal(signal.SIGKILL)
        except Unavailable:
            pass
    return len(acked), missing(store, acked)


def killed_server(folder: Path) -> tuple[int, int]:
    """The same of the server itself, which appends every write to a file before it answers."""
    config = parse({"store": {"timeout_ms": 5000}})
    acked: list[Event] = []
    with Embedded(folder) as url, Store(url, config) as store:
        client = redis.Redis.from_url(url)
        client.config_set("appendonly", "yes")
        client.config_set("appendfsync", "always")
        while client.info("persistence")["aof_rewrite_in_progress"]:
            time.sleep(0.05)
        for start in range(10):
            batch = events(500, 200 + start)
            store.track(batch)
            acked += batch
        subprocess.run(["kill", "-9", str(client.info("server")["process_id"])], check=True)
    with Embedded(folder) as url, Store(url, config) as store:
        return len(acked), missing(store, acked)


def read_your_writes(address: str, count: int) -> int:
    """Of `count` events, each read right after it was acknowledged, how many were not there."""
    misses, now = 0, time.time_ns() // 1_000_000
    draw = np.random.default_rng(9)
    with RemoteFeatures(address, 10.0) as writer, RemoteFeatures(address, 10.0) as reader:
        for n in range(count):
            user = f"w{draw.integers(50)}"
            writer.track([Event(user, f"i{n}", "click", now - count + n, event_id=f"w{n}")])
            state = reader.user(user)
            misses += f"i{n}" not in state.item_ids
    return misses


def users_read(store: Store, count: int) -> tuple[float, float]:
    """Milliseconds of a user's state: p50, p99."""
    draw, took = np.random.default_rng(3), []
    for user in draw.integers(USERS, size=count):
        begin = time.perf_counter()
        store.user(f"u{user}")
        took.append(1e3 * (time.perf_counter() - begin))
    return float(np.median(took)), float(np.percentile(took, 99))


def packed_and_hashes(url: str, times: int) -> tuple[float, float]:
    """Milliseconds (medians, in turns) of 2,000 items × 16 values: one MGET, pipelined HGETALL."""
    client = redis.Redis.from_url(url)
    values = np.random.default_rng(4).random((READ, VALUES))
    names = [f"f{n}" for n in range(VALUES)]
    for row in range(READ):
        client.set(f"{{p:{row}}}", values[row].tobytes())
        client.hset(f"{{h:{row}}}", mapping=dict(zip(names, values[row].tolist(), strict=True)))
    packed, hashes = [], []
    for _ in range(times):
        begin = time.perf_counter()
        found: Any = client.mget([f"{{p:{row}}}" for row in range(READ)])
        table = np.frombuffer(b"".join(found), np.float64).reshape(READ, VALUES)
        packed.append(1e3 * (time.perf_counter() - begin))
        begin = time.perf_counter()
        with client.pipeline(transaction=False) as pipe:
            for row in range(READ):
                pipe.hgetall(f"{{h:{row}}}")
            read = pipe.execute()
        other = np.array([[float(one[name.encode()]) for name in names] for one in read])
        hashes.append(1e3 * (time.perf_counter() - begin))
        np.testing.assert_allclose(table, other)
    return float(np.median(packed)), float(np.median(hashes))


def bytes_kept(url: str, store: Store) -> tuple[int, int]:
    """Bytes in the server of a user with 100 actions, all keys together, and of an item."""
    client, now = redis.Redis.from_url(url), time.time_ns() // 1_000_000
    own = [Event("b", f"i{n}", "click", now - 100 + n, event_id=f"{n:016x}") for n in range(100)]
    store.track(own)
    keys = list(client.scan_iter("{u:b}*", count=10_000))
    user = sum(int(client.memory_usage(key) or 0) for key in keys)
    return user, int(client.memory_usage("{i:i1}") or 0)


def rows(count: int, turns: int, reads: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    def add(method: str, value: float, goal: str = "") -> None:
        found.append({"method": method, "value": value, "to reach": goal})

    with tempfile.TemporaryDirectory() as folder:
        with Embedded(Path(folder) / "one") as url, Store(url, settings()) as store:
            add("events folded through Track, a second", folds(url, count, turns), "≥ 20,000")
            p50, p99 = users_read(store, reads)
            add("a user's state, ms, p50", p50, "≤ 1")
            add("a user's state, ms, p99", p99, "≤ 5")
            mget, hgetall = packed_and_hashes(url, 20)
            add(f"{READ:,} items × {VALUES} values, one MGET, ms", mget)
            add("the same as hashes, one pipeline, ms", hgetall)
            add("how many times faster", hgetall / mget, "≥ 15")
            user, item = bytes_kept(url, store)
            add("bytes of a user with 100 actions", user, "≤ 1,024")
            add("bytes of an item", item)
            with served(url) as (_, address):
                misses = read_your_writes(address, reads)
            add(f"reads that missed the write before, of {reads:,}", misses, "0")
            acked, lost = killed_service(url, store)
            add(f"lost of {acked:,} acknowledged, service killed", lost, "0")
        acked, lost = killed_server(Path(folder) / "two")
        add(f"lost of {acked:,} acknowledged, appending server killed", lost, "0")
    return found


def main(
    count: Annotated[int, typer.Option(help="events of a stream")] = 50_000,
    turns: Annotated[int, typer.Option(help="streams")] = 5,
    reads: Annotated[int, typer.Option(help="of each kind")] = 10_000,
    serve_at: Annotated[str, typer.Option("--serve", hidden=True)] = "",
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """The live store: how fast, how safe, how large."""
    if serve_at:
        serve(serve_at)
        return
    found = rows(count, turns, reads)
    harness.show("features_store", f"{count:,} events a stream", found, as_json)


if __name__ == "__main__":
    harness.run(main)
