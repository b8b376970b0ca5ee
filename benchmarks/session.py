"""
The next click of a session: `python -m benchmarks.session DIR`.

DIR has train_sessions.parquet (session, items: a list in order; the table in the order of time) and
test.parquet (prefix: a list, target). All items are ranked, those of the prefix too. P@20 is how
often the target is among the first 20, MRR@20 the mean of 1 / its place there.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import behaviour, harness
from funnel.config import Config
from funnel.types import Array
from jobs import graph, item_stats, wants
from jobs.live import index
from recall.channel import Channel

CHANNELS = ("live", "graph", "popular")
TOP = 20


def train(name: str, draft: Path, starts: Array, rows: Array, items: int) -> None:
    """What the build's step makes of the sessions, written into the draft."""
    sessions = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    places = np.arange(len(rows)) - starts[:-1][sessions]
    if name == "live":
        index(starts, rows, items).write(draft / "live")
    elif name == "graph":
        graph.neighbours(wants.of(sessions, rows, places, items)).write(draft / "graph")
    else:
        item_stats.write_popular(draft, np.bincount(rows, minlength=items).astype(np.float32))


def hits(
    channel: Channel, prefixes: tuple[Array, Array], targets: Array, settings: Config
) -> tuple[Array, float]:
    """(t,) the place of each target from 1, infinity beyond `TOP`; and the seconds it took."""
    starts, rows = prefixes
    places, begin = np.full(len(targets), np.inf), time.perf_counter()
    for n, target in enumerate(targets):
        prefix = rows[starts[n] : starts[n + 1]]
        found = channel.find(behaviour.asked(prefix, np.arange(len(prefix)), settings), None, TOP)
        place = np.flatnonzero(found.rows == target)
        if len(place):
            places[n] = place[0] + 1
    return places, time.perf_counter() - begin


def measure(
    data: Path, sample: int, seed: int, tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    table = harness.read(data / "train_sessions.parquet", ["items"])
    test = harness.read(data / "test.parquet", ["prefix", "target"])
    if 0 < sample < len(test):
        chosen = np.random.default_rng(seed).choice(len(test), sample, replace=False)
        test = test.take(np.sort(chosen))
    starts, rows = behaviour.lists(table, "items")
    prefixes, targets = behaviour.lists(test, "prefix"), test.column("target").to_numpy()
    items = int(max(rows.max(), prefixes[1].max(), targets.max())) + 1
    settings = behaviour.config(CHANNELS)
    shown = []
    with tempfile.TemporaryDirectory() as folder:
        draft = behaviour.blank(Path(folder) / "draft", items, settings)
        for name in CHANNELS:
            tell(name)
            begin = time.perf_counter()
            train(name, draft, starts, rows, items)
            channel = behaviour.opened(draft, name, settings)
            fit = time.perf_counter() - begin
            places, took = hits(channel, prefixes, targets, settings)
            shown.append(
                {
                    "method": name,
                    "P@20": 100 * float(np.mean(places <= TOP)),
                    "MRR@20": 100 * float(np.mean(1 / places)),
                    "P@10": 100 * float(np.mean(places <= 10)),
                    "MRR@10": 100 * float(np.mean(np.where(places <= 10, 1 / places, 0))),
                    "requests": len(targets),
                    "fit_s": fit,
                    "ms_request": 1e3 * took / len(targets),
                    "seconds": fit + took,
                    "peak_mb": harness.peak_mb(),
                }
            )
    return shown


def main(
    data: Annotated[Path, typer.Argument(help="Directory with the two tables.")],
    sample: Annotated[int, typer.Option(help="Test prefixes; 0 takes all.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the sample.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """The next click of a session, every channel that can tell."""
    rows = measure(data, sample, seed, lambda text: typer.echo(f"  {text}", err=True))
    harness.show("session", data.name, rows, as_json)


if __name__ == "__main__":
    harness.run(main)
