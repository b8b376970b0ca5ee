"""
The whole recall stage on a simulated catalogue: all channels, filtered, fused to 2,000 candidates.

Titles as in recall_speed_lexical; users want items of a neighbourhood each. The indices are made by
the code of the jobs; item_cf has the lists of graph, and als factors are drawn. A process of its
own then opens the generation as a service does, and answers one request at a time; what is printed
of it is its own memory, and its time from the first import to the last warm-up.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer

from benchmarks import behaviour, cf, harness
from benchmarks.recall_speed_lexical import titles
from funnel.catalogue import write_catalogue
from funnel.config import Config, parse
from funnel.generation import Generation, Manifest
from funnel.types import Candidates, Filter, Query
from jobs import als, wants
from jobs.vectors import factors
from jobs.wants import Wants
from recall.bm25 import write_index as write_words
from recall.encoder import LSA
from recall.nearest import write_index as write_vectors

TRAINED = ("popular", "swing", "graph", "live")
SEARCH = {"bm25": {"limit": 1000}, "vector": {"limit": 500}}
HOME = {"item_cf": {"limit": 500}, "vector": {"limit": 500}, "popular": {"limit": 500}}
EVERY = {**SEARCH, **{name: {"limit": 500} for name in ("item_cf", *TRAINED, "als")}}
KEEP = 2000
WIDTH = 64
NEAR = 1000  # items of a neighbourhood
PER_USER = 12
WARM = 30  # requests that do not count
THREADS = 4


def settings() -> Config:
    """Three scenes; the budgets are out of the way."""
    recalled = {"keep": KEEP, "budget_ms": 10_000}
    scenes = {"search": SEARCH, "home": HOME, "every": EVERY}
    return parse(
        {
            "data": {"text": {"title": 1.0}, "filterable": ["category", "price"]},
            "scenes": {
                name: {"recall": {**recalled, "channels": off() | found}}
                for name, found in scenes.items()
            },
            "vectors": {"text_width": WIDTH, "behaviour_width": WIDTH},
        }
    )


def off() -> dict[str, dict[str, int]]:
    """The channels of the default scenes, turned off."""
    known = (n for scene in Config().scenes.values() for n in scene.recall.channels)
    return {name: {"limit": 0} for name in known}


def wanted(n: int, seed: int) -> Wants:
    """n / 2 users, each of whom wants items near each other, the first ones more often."""
    draw = np.random.default_rng(seed)
    users = np.repeat(np.arange(n // 2), PER_USER)
    start = np.repeat(draw.integers(0, n, n // 2), PER_USER)
    rows = (start + (NEAR * draw.random(len(users)) ** 3).astype(np.int64)) % n
    days = draw.integers(0, 30, len(users)) * 86_400_000
    return wants.of(users, rows, days + draw.integers(0, 3_600_000, len(users)), n)


def built(path: Path, n: int, seed: int, config: Config) -> dict[str, float]:
    """A generation in `path`; seconds by what was made."""
    seconds: dict[str, float] = {}
    last = time.perf_counter()

    def took(name: str) -> None:
        nonlocal last
        seconds[name], last = time.perf_counter() - last, time.perf_counter()
        typer.echo(f"  {name} {seconds[name]:.1f} s", err=True)

    words, ends = titles(n, seed)
    known = np.array([f"w{number}" for number in range(int(words.max()) + 1)])
    parts = known[words]
    said = [" ".join(parts[ends[row] : ends[row + 1]]) for row in range(n)]
    draw = np.random.default_rng(seed + 5)
    items = pa.table(
        {
            "item_id": [f"{row:09}" for row in range(n)],
            "title": said,
            "category": pa.array([f"c{c:03}" for c in range(1000)]).take(
                pa.array(draw.integers(0, 1000, n))
            ),
            "price": np.round(draw.random(n) * 1000, 2),
        }
    )
    write_catalogue(path / "items", items, ["category"], [], ["price"])
    table = config.model_dump(mode="json")
    Manifest(path.name, until=0, past=0, actions=config.all_actions, config=table).write(path)
    generation = Generation.open(path, check=False)
    took("items")
    write_words(path / "bm25", generation.items, config)
    took("bm25")
    encoder = LSA.train(said, WIDTH, seed)
    (path / "vector").mkdir()
    made = [encoder.encode(said[start : start + 50_000]) for start in range(0, n, 50_000)]
    np.save(path / "vector/text.npy", np.concatenate(made))
    encoder.save(path / "vector/encoder")
    took("text vectors")
    found = wanted(n, seed + 1)
    for name in TRAINED:
        cf.train(name, path, found, config)
        took(name)
    # What takes a trainer long and does not change how long a request takes.
    shutil.copytree(path / "graph", path / "item_cf")
    drawn = (draw.standard_normal((n, als.ALS().width)) / 10).astype(np.float32)
    als.write(path / "als", drawn, als.gram(drawn, als.ALS()), als.ALS(), config.vectors)
    took("item_cf, als")
    np.save(path / "vector/behaviour.npy", factors(path, WIDTH, seed))
    took("behaviour vectors")
    for name in ("text", "behaviour"):
        vectors = np.load(path / f"vector/{name}.npy", mmap_mode="r")
        write_vectors(path / f"vector/{name}.faiss", vectors, config.vectors)
        took(f"{name} index")
    return seconds


def asked(path: Path, config: Config, count: int, seed: int) -> dict[str, list[Query]]:
    """By kind: requests of what stands in titles, and of users as those that were learned from."""
    items = Generation.open(path, check=False).items
    n, draw = len(items), np.random.default_rng(seed)
    shares = {"10 % allowed": 100.0, "1 % allowed": 10.0, "0.1 % allowed": 1.0}
    found: dict[str, list[Query]] = {}
    for _ in range(count + WARM):
        own = items.table.column("title")[int(draw.integers(n))].as_py().split()
        text = " ".join(draw.choice(own, draw.integers(1, 5), replace=False))
        start = int(draw.integers(n))
        rows = (start + (NEAR * draw.random(20) ** 3).astype(np.int64)) % n
        past = behaviour.asked(rows.astype(np.int32), np.arange(20), config)
        history, at = past.history, past.at
        found.setdefault("search", []).append(Query(scene="search", text=text, at=at))
        found.setdefault("home", []).append(Query(scene="home", history=history, at=at))
        both = Query(scene="every", text=text, history=history, at=at)
        found.setdefault("all channels", []).append(both)
        for name, price in shares.items():
            low = float(draw.random() * (1000 - price))
            cheap = (Filter("price", low=low, high=low + price),)
            found.setdefault(f"all channels, {name}", []).append(replace(both, filters=cheap))
    return found


def serve(path: Path, count: int, seed: int, start: float) -> None:
    """The process that is measured; its last line is what it measured."""
    import recall

    config = settings()
    with ThreadPoolExecutor(THREADS, "channel") as pool:
        generation = Generation.open(path, check=False)
        parts = recall.Parts.open(generation, config)
        stages = {s: recall.build(generation, config, s, pool, parts) for s in config.scenes}
        stages["every"].run(Query(scene="every", text="w1"), Candidates.empty())
        ready = time.time() - start
        spent: dict[str, list[float]] = {}
        sizes: dict[str, list[int]] = {}
        for kind, queries in asked(path, config, count, seed).items():
            for query in queries:
                begin = time.perf_counter()
                kept = stages[query.scene].run(query, Candidates.empty())
                spent.setdefault(kind, []).append(1e3 * (time.perf_counter() - begin))
                sizes.setdefault(kind, []).append(len(kept))
    said = {"ready": ready, "spent": spent, "sizes": sizes, "mb": resident_mb()}
    print(json.dumps(said))


def resident_mb() -> dict[str, float]:
    """The process's own memory, and with the files that it has mapped and read."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:  # not Linux: the peak has to do
        return {"own": peak, "all": peak}
    parts = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if "kB" in line}
    return {"own": int(parts["RssAnon"]) / 1024, "all": int(parts["VmRSS"]) / 1024}


def measure(n: int, count: int, seed: int, keep: Path | None = None) -> list[dict[str, Any]]:
    """A row a kind of request. With `keep` the generation stays there, for the next time."""
    with tempfile.TemporaryDirectory() as scratch:
        path = keep or Path(scratch) / "generation"
        seconds: dict[str, float] = {}
        if not (path / "vector/behaviour.faiss").exists():
            path.mkdir(parents=True, exist_ok=True)
            seconds = built(path, n, seed, settings())
        args = ["--child", str(path), str(count), str(seed + 9), repr(time.time())]
        command = [sys.executable, "-m", "benchmarks.recall_speed_stage", *args]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
        if done.returncode:
            raise RuntimeError(f"the process that serves failed:\n{done.stderr[-2000:]}")
        said = json.loads(done.stdout.splitlines()[-1])
    rows = []
    for kind, values in said["spent"].items():
        p50, p99 = np.percentile(np.array(values[WARM:]), [50, 99])
        rows.append(
            {
                "method": kind,
                "p50 ms": float(p50),
                "p99 ms": float(p99),
                "candidates": float(np.mean(said["sizes"][kind][WARM:])),
                "ready s": said["ready"],
                "own MB": said["mb"]["own"],
                "with files MB": said["mb"]["all"],
                "build s": sum(seconds.values()) if seconds else float("nan"),
            }
        )
    return rows


def main(
    n: Annotated[int, typer.Option(help="items")] = 1_000_000,
    queries: Annotated[int, typer.Option(help="requests of a kind that are timed")] = 300,
    seed: Annotated[int, typer.Option()] = 7,
    keep: Annotated[Path | None, typer.Option(help="directory for the generation")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    rows = measure(n, queries, seed, keep)
    harness.show("recall_speed_stage", f"{n:,} items, {queries} requests a kind", rows, as_json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        serve(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
    else:
        main.__doc__ = __doc__
        harness.run(main)
