"""
Stream against batch: the events of a data set through the live store on a real server, shuffled and
some of them twice, and through the jobs. Histories and whole counts must be the same, decayed
counts within 1e-9.

    python -m benchmarks.features_parity DATA examples/ml-100k/map.toml [--most 0] [--json]
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from benchmarks import harness
from features.counts import Counts, text_of
from features.embedded import Embedded
from features.event import NAMES, Event
from features.fold import ItemCounters
from features.pairs import ItemHashes, Pairs
from features.store import Store
from features.windows import ItemWindows
from funnel.config import Config, parse
from funnel.dataset import accepted, has, read
from funnel.generation import Generation
from jobs import events, item_stats, items, user_stats, users
from jobs.import_tables import import_tables
from jobs.validate import validate
from jobs.work import Work

BATCH, READ = 5000, 5000
Tell = Callable[[str], None]
TWICE = 10  # every so many events comes again
FEATURES: Mapping[str, Any] = {
    "users": True,
    "windows": ["1h", "1d", "7d"],
    "pairs": 10_000_000,
    "settle_ms": 0,
}


def settled(root: Path) -> Config:
    return parse(
        {
            "features": dict(FEATURES),
            "data": {"positive": {"click": 1.0, "cart": 2.0, "purchase": 4.0, "like": 1.0}},
            "build": {"root": str(root / "generations"), "master": "local[2]"},
            "store": {"timeout_ms": 60_000, "log_length": 100_000_000, "keep_days": 36_500},
            "log": {"dir": ""},
        }
    )


def streamed(store: Store, log: list[Event], seed: int) -> dict[str, int]:
    """The events through the store in no order, every tenth of them again."""
    draw = np.random.default_rng(seed)
    order = np.concatenate([np.arange(len(log)), np.arange(0, len(log), TWICE)])
    accepted, duplicates, refused = 0, 0, 0
    order = draw.permutation(order)
    for start in range(0, len(order), BATCH):
        said = store.track([log[place] for place in order[start : start + BATCH]])
        accepted, duplicates = accepted + said.accepted, duplicates + said.duplicates
        refused += len(said.refused)
    return {"accepted": accepted, "duplicates": duplicates, "refused": refused}


def replicated(store: Store, generation: Generation, config: Config, until: int) -> Counts:
    """What a process that follows the live log has counted, from nothing."""
    n = generation.items.base
    counts = Counts(
        ItemCounters.empty(config, n, until),
        ItemWindows(config, n, until),
        Pairs(config, until),
        ItemHashes(generation),
    )
    position = "0"
    while arrived := store.events(position, READ):
        position = arrived[-1].position
        log = [one.event for one in arrived]
        counts.apply(
            generation.items.rows([event.item_id for event in log]),
            counts.items.codes([event.action for event in log]),
            np.array([event.timestamp for event in log], np.int64),
            np.array([text_of(event.query) for event in log], np.uint64),
        )
    return counts


def compared(store: Store, work: Work) -> dict[str, Any]:
    """How much was compared and how much of it differs; decayed counts as their worst relative
    difference."""
    config, generation = work.config, Generation.open(work.draft, check=False)
    n, rows = generation.items.base, np.arange(generation.items.base, dtype=np.int32)
    batch = Counts.open(generation)
    stream = replicated(store, generation, config, work.until)
    found: dict[str, Any] = {"items": n, "worst": 0.0, "counts": 0, "counts differ": 0}

    def close(ours: Any, theirs: Any) -> None:
        ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        size = np.maximum(np.abs(ours), np.abs(theirs))
        # Below this a count is rounded in other places, and nothing at all in a feature.
        gap = np.where(size > 1e-280, np.abs(ours - theirs) / np.maximum(size, 1e-280), 0.0)
        found["worst"] = max(found["worst"], float(gap.max(initial=0.0)))

    held = np.concatenate(
        [
            store.counters(generation.items.item_ids(rows[start : start + READ]), work.until)
            for start in range(0, n, READ)
        ]
    )
    close(batch.items.state, held)
    ours, theirs = (side.windows.read(rows, work.until) for side in (batch, stream))
    found["counts"] = int(ours.size)
    found["counts differ"] = int(np.count_nonzero(ours != theirs))
    keys, live = batch.pairs._keys, stream.pairs._keys
    live = live[stream.pairs.part(live).state.any(axis=1)]  # others saw nothing that is counted
    found["pairs"] = len(keys)
    found["pairs differ"] = len(np.setxor1d(keys, live))
    close(batch.pairs.part(keys).state, stream.pairs.part(keys).state)
    close(*_users(store, work, generation, found))
    return found


def _users(
    store: Store, work: Work, generation: Generation, found: dict[str, Any]
) -> tuple[list[list[float]], list[list[float]]]:
    """Compares all histories; the counters of users in batch and in stream."""
    codes, users = generation.manifest.actions, generation.users.table.to_pylist()
    ids = generation.items.item_ids(np.arange(generation.items.base, dtype=np.int32))
    ours: list[list[float]] = []
    theirs: list[list[float]] = []
    differ = 0
    for user in users:
        held = store.user(user["user_id"])
        batch = (
            tuple(ids[row] for row in user["item_rows"]),
            tuple(codes[code] for code in user["actions"]),
            tuple(user["times"]),
        )
        differ += batch != (tuple(held.item_ids), tuple(held.actions), tuple(held.times))
        if user["counts"]:
            ours.append(user["counts"])
            counters = store.user(user["user_id"], work.until).counters
            theirs.append([*counters.values()])
    found |= {"users": len(users), "histories differ": differ}
    return ours, theirs


def part(data: Path, target: Path, most: int) -> Path:
    """A data set of all items and the newest `most` events of `data` that can be counted (0: of
    all), which get ids where they have none."""
    items = read(data, "items")
    known = set(items.column("item_id").to_pylist())
    names = [name for name in NAMES if name != "value"]
    table = read(data, "events", names)
    rows = [row for row in table.to_pylist() if row["item_id"] in known]
    rows = rows[-most:] if most else rows
    for number, row in enumerate(rows):
        row["event_id"] = row["event_id"] or f"event-{number}"
    for name, part in (("items", items), ("events", pa.Table.from_pylist(rows, table.schema))):
        (target / name).mkdir(parents=True)
        pq.write_table(part, target / name / "part-0.parquet")
    if has(data, "users"):
        shutil.copytree(accepted(data, "users"), target / "users")
    return target


def logged(data: Path) -> list[Event]:
    """The accepted events of a data set."""
    names = [name for name in NAMES if name not in ("value", "position", "timestamp")]
    table = read(data, "events", [*names, "timestamp"])
    found = []
    for row in table.to_pylist():
        texts: dict[str, Any] = {name: row[name] or "" for name in names}
        found.append(Event(timestamp=row["timestamp"], **texts))
    return found


def run(data: Path, mapping: Path, most: int, folder: Path, tell: Tell) -> dict[str, Any]:
    """One data set (or its newest events) both ways, in an empty folder."""
    config = settled(folder)
    spark, source = Work(data, config, 1, 0).spark, folder / "source"
    import_tables(spark, data, source, mapping, lambda text: None)
    validate(spark, source)
    chosen = part(source, folder / "data", most)
    validate(spark, chosen)
    log = logged(chosen)
    until = max(event.timestamp for event in log) + 1
    work = Work(chosen, config, until, until - 1)
    start = time.perf_counter()
    for job in (items, events, users, item_stats, user_stats):
        job.run(work)
    batch = time.perf_counter() - start
    tell(f"batch: {batch:.1f} s")
    with Embedded(folder / "valkey") as url, Store(url, config) as store:
        start = time.perf_counter()
        said = streamed(store, log, seed=1)
        stream = time.perf_counter() - start
        tell(f"stream: {stream:.1f} s, {said}")
        found = compared(store, work)
    return {"method": data.name, "events": len(log), **found, "batch s": batch, "stream s": stream}


def main(
    data: Annotated[Path, typer.Argument(help="Downloaded tables.")],
    mapping: Annotated[Path, typer.Argument(help="What they mean: examples/*/map.toml.")],
    most: Annotated[int, typer.Option(help="Only the newest events; 0: all.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        row = run(data, mapping, most, Path(folder), lambda text: typer.echo(text, err=True))
    harness.show("features_parity", data.name, [row], as_json)


if __name__ == "__main__":
    harness.run(main)
