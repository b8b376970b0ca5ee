"""
The feature jobs on simulated events, on this machine's cores: statistics of items and users,
samples point in time, and what one more day costs.

Events are pages of ten impressions, some clicked, few bought, over sixty days, drawn columnar into
one Parquet file a day. The statistics are the jobs events, item_stats and user_stats; the samples
are those of 20,000 requests, a thousand of them whole, with twelve decayed counters and eight in
windows for each candidate, the jobs requests and samples with popular items as the only channel.
The last day is then added, the cut moved by a day, and the statistics made again.

    python -m benchmarks.features_jobs [--events 10000000] [--items 100000] [--keep DIR] [--json]
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from benchmarks import harness
from funnel.config import Config, parse
from jobs import events, item_stats, items, requests, samples, user_stats, users
from jobs.validate import validate
from jobs.work import Work

START, DAY_MS = 1_700_006_400_000, 86_400_000  # midnight
DAYS, PAGE = 60, 10
CLICKED, BOUGHT = 0.12, 0.2  # of what is shown, of what is clicked
WINDOWS = ["1h", "1d"]


def settled(root: Path, day_events: int) -> Config:
    """Counters of four actions by three half-lives and in two windows: twenty a candidate."""
    scene = {"recall": {"channels": {"popular": {"limit": 500}}}}
    return parse(
        {
            "data": {"positive": {"click": 1.0, "cart": 2.0, "purchase": 4.0}},
            "features": {"windows": WINDOWS, "users": True},
            "scenes": {"home": scene, "search": scene, "similar": scene},
            "build": {
                "root": str(root),
                "driver_memory": "3g",
                "requests": 20_000,
                "day_events": day_events,
            },
            "log": {"dir": ""},
        }
    )


def simulated(data: Path, count: int, goods: int, seed: int = 0) -> None:
    """A data set of about so many events: items, users, and a file of events for each day but the
    last, which lies in `data`/later."""
    draw = np.random.default_rng(seed)
    for name in ("items", "users", "events", "later"):
        (data / name).mkdir(parents=True)
    item_ids = pa.array([f"i{n:07}" for n in range(goods)])
    people = max(count // 40, 100)
    user_ids = pa.array([f"u{n:08}" for n in range(people)])
    titles = pa.array([f"thing {n}" for n in range(goods)])
    table = pa.table({"item_id": item_ids, "title": titles})
    pq.write_table(table, data / "items/part-0.parquet")
    pq.write_table(pa.table({"user_id": user_ids}), data / "users/part-0.parquet")
    pages = round(count / DAYS / PAGE / (1 + CLICKED * (1 + BOUGHT)))
    for day in range(DAYS):
        folder = "events" if day < DAYS - 1 else "later"
        path = data / folder / f"day-{day:02}.parquet"
        pq.write_table(_day(draw, day, pages, item_ids, user_ids), path, compression="zstd")


def _day(
    draw: np.random.Generator, day: int, pages: int, item_ids: pa.Array, user_ids: pa.Array
) -> pa.Table:
    page = np.repeat(np.arange(pages), PAGE)
    at = START + day * DAY_MS + np.sort(draw.integers(0, DAY_MS - 600_000, pages))
    user = (len(user_ids) * draw.random(pages) ** 2).astype(np.int64)
    item = (len(item_ids) * draw.random(pages * PAGE) ** 3).astype(np.int64)
    place = np.tile(np.arange(1, PAGE + 1), pages)
    clicked = np.flatnonzero(draw.random(len(page)) < CLICKED)
    bought = clicked[draw.random(len(clicked)) < BOUGHT]
    index = np.concatenate([np.arange(len(page)), clicked, bought])
    sizes = [len(page), len(clicked), len(bought)]
    late = np.repeat([0, 20_000, 300_000], sizes) + np.concatenate(
        [np.zeros(len(page), np.int64), draw.integers(0, 9000, len(index) - len(page))]
    )
    times = at[page[index]] + late
    kinds = pa.DictionaryArray.from_arrays(
        pa.array(np.repeat([0, 1, 2], sizes), pa.int8()), ["impression", "click", "purchase"]
    )
    order = np.argsort(times, kind="stable")
    numbers = np.arange(len(index)) + day * 100_000_000
    requested = pa.array(np.char.mod("r%d", np.arange(pages) + day * 100_000_000))
    shown = np.where(np.repeat([True, False, False], sizes), place[index], 0).astype(np.int32)
    columns = {
        "event_id": pa.array(np.char.mod("e%d", numbers)),
        "user_id": user_ids.take(pa.array(user[page[index]][order])),
        "item_id": item_ids.take(pa.array(item[index][order])),
        "action": kinds.take(pa.array(order)).cast(pa.string()),
        "timestamp": pa.array(times[order]),
        "request_id": requested.take(pa.array(page[index][order])),
        "scene": pa.array(["home"]).take(pa.array(np.zeros(len(index), np.int64))),
        "position": pa.array(shown[order], mask=shown[order] == 0),
    }
    return pa.table(columns)


@dataclass
class Memory:
    """The most memory that this process and its children have had together, sampled."""

    most: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Memory:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            self.most = max(self.most, sum(map(_resident, _family(os.getpid()))))


def _family(root: int) -> list[int]:
    """A process and all that it has started."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                about = (entry / "stat").read_text()
            except OSError:  # it has ended meanwhile
                continue
            parent = int(about.rsplit(")", 1)[1].split()[1])
            parents.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for process in found:
        found += parents.get(process, [])
    return found


def _resident(process: int) -> int:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except OSError:  # it has ended meanwhile
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def measured(
    data: Path, count: int, goods: int, tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    """One row a measurement: seconds, and events a second."""
    found: list[dict[str, Any]] = []

    def timed(name: str, *steps: Callable[[], Any]) -> float:
        start = time.perf_counter()
        for step in steps:
            step()
        seconds = time.perf_counter() - start
        rate = count / DAYS if "day" in name else count
        found.append({"method": name, "s": seconds, "events/s": rate / seconds})
        tell(f"{name}: {seconds:.1f} s")
        return seconds

    timed("simulate", lambda: simulated(data, count, goods))
    config = settled(data / "generations", min(50_000, count // DAYS // 2))
    until = START + (DAYS - 2) * DAY_MS
    work = Work(data, config, until, until - 7 * DAY_MS)
    timed("validate", lambda: validate(work.spark, data))
    timed("items, users", lambda: items.run(work), lambda: users.run(work))
    steps = (events.run, item_stats.run, user_stats.run)
    # The users are a table of the data set, which is why they need no events.
    names = ("events", "item_stats", "user_stats")
    total = sum(timed(name, partial(step, work)) for name, step in zip(names, steps, strict=True))
    found.append({"method": "item and user statistics", "s": total, "events/s": count / total})
    asked = timed("requests", lambda: requests.run(work))
    made = timed("samples", lambda: tell(str(samples.run(work))))
    both = asked + made
    found.append({"method": "samples, point in time", "s": both, "events/s": count / both})
    newest = f"day-{DAYS - 1:02}.parquet"
    (data / "later" / newest).rename(data / "events" / newest)
    validate(work.spark, data)
    later = Work(data, config, until + DAY_MS, work.past + DAY_MS)
    again = (
        (f"one more day: {name}", partial(step, later))
        for name, step in zip(names, steps, strict=True)
    )
    more = sum(timed(name, step) for name, step in again)
    rate = count / DAYS / more
    found.append({"method": "one more day: statistics", "s": more, "events/s": rate})
    found.append({"method": "  of all", "s": more / total, "events/s": float("nan")})
    timed("the same again", *(partial(step, later) for step in steps))
    return found


def rows(count: int, goods: int, tell: Callable[[str], None], keep: Path | None = None) -> Any:
    with ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        memory = stack.enter_context(Memory())
        found = measured(folder, count, goods, tell)
        peak = memory.most / 2**30
    return [*found, {"method": "most memory, GiB", "s": peak, "events/s": float("nan")}]


def main(
    count: Annotated[int, typer.Option("--events", help="Events, about.")] = 10_000_000,
    goods: Annotated[int, typer.Option("--items", help="Items.")] = 100_000,
    keep: Annotated[Path | None, typer.Option(help="An empty folder for the data; kept.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    def tell(text: str) -> None:
        typer.echo(text, err=True)

    title = f"{count:,} events, {goods:,} items, {DAYS} days"
    harness.show("features_jobs", title, rows(count, goods, tell, keep), as_json)


if __name__ == "__main__":
    harness.run(main)
