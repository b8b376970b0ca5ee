"""
Vectors of a simulated catalogue: the exact scan, alone, filtered and in batches, and HNSW.

Vectors of length 1 lie around centres, as those of items do around their kinds; queries are drawn
as the vectors are. The exact scan is the truth that HNSW is held against, and FAISS with its own
threshold for BLAS the peer of the batches. One request at a time on one thread, after warm-up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import faiss
import numpy as np
import typer

from benchmarks import harness
from funnel.config import Config
from funnel.types import Array
from recall.exact import scan, scan_batch
from recall.masks import Mask
from recall.nearest import Nearest, built
from recall.sizes import sizes

WIDTH = 64
LIMIT = 500
BATCHES = (16, 64, 256)
SHARES = (0.1, 0.01, 0.001)
DEFAULT = 128_000  # of FAISS 1.15: up to there, it takes a batch query by query
WARM = 20  # queries that do not count


def drawn(n: int, centres: Array, spread: float, seed: int) -> Array:
    """(n, WIDTH) float32 of length 1, each around one of the centres; `spread` is the length of
    the noise, where that of a centre is 1."""
    draw = np.random.default_rng(seed)
    noise = draw.standard_normal((n, WIDTH), np.float32) * np.float32(spread / WIDTH**0.5)
    noise += centres[draw.integers(0, len(centres), n)]
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    return noise


def centres(n: int, seed: int) -> Array:
    found = np.random.default_rng(seed).standard_normal((n, WIDTH), np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def timed(find: Callable[[Array], Any], queries: Array) -> tuple[list[Any], Array]:
    """What each query found, and its ms."""
    found, spent = [], []
    for query in queries:
        start = time.perf_counter()
        found.append(find(query))
        spent.append(1e3 * (time.perf_counter() - start))
    return found[WARM:], np.array(spent[WARM:])


def scanned(vectors: Array, mask: Mask | None, query: Array) -> tuple[Array, Array]:
    return scan(vectors, query, mask, LIMIT)


def searched(nearest: Nearest, mask: Mask | None, query: Array) -> tuple[Array, Array]:
    return nearest.search(query, mask, LIMIT)


def row(method: str, spent: Array, **more: float) -> dict[str, Any]:
    p50, p99 = np.percentile(spent, [50, 99])
    blank = dict.fromkeys(("recall", "ratio", "build s"), float("nan"))
    return {"method": method, "p50 ms": float(p50), "p99 ms": float(p99), **blank, **more}


def overlap(found: list[Any], true: list[Any]) -> float:
    """The share of what is true that was found."""
    pairs = zip(found, true, strict=True)
    return float(np.mean([np.isin(t[0], f[0]).mean() for f, t in pairs if len(t[0])]))


def batches(vectors: Array, queries: Array, rounds: int = 3) -> list[dict[str, Any]]:
    """Ours and FAISS's default in turns; times are of a query of the batch."""
    made = []
    own = faiss.cvar.distance_compute_blas_threshold
    for size in BATCHES:
        spent: dict[str, list[float]] = {"scan": [], "FAISS's default": []}
        for number in range(rounds + 1):
            part = queries[(number * size + np.arange(size)) % len(queries)]
            for name, threshold in (("scan", own), ("FAISS's default", DEFAULT)):
                faiss.cvar.distance_compute_blas_threshold = threshold
                start = time.perf_counter()
                scan_batch(vectors, part, LIMIT)
                spent[name].append(1e3 * (time.perf_counter() - start) / size)
        faiss.cvar.distance_compute_blas_threshold = own
        peer = float(np.median(spent["FAISS's default"][1:]))
        for name, values in spent.items():
            times = np.array(values[1:])
            ratio = peer / float(np.median(times))
            made.append(row(f"batch of {size}, {name}", times, ratio=ratio))
    return made


def measure(
    n: int, count: int, seed: int, spread: float = 1.0, graph: bool = True
) -> list[dict[str, Any]]:
    """A row a way to search; times in ms, `recall` at 500 against the exact scan under the same
    filter."""
    settings = Config().vectors
    faiss.omp_set_num_threads(1)  # as in serving, and for the peer alike
    around = centres(max(n // 1000, 1), seed)
    vectors = drawn(n, around, spread, seed + 1)
    queries = drawn(count + WARM, around, spread, seed + 2)
    draw = np.random.default_rng(seed + 3)
    masks: dict[str, Mask | None] = {"": None}
    masks |= {f", {share:.1%} allowed": draw.random(n) < share for share in SHARES}
    made, truth = [], {}
    for name, mask in masks.items():
        truth[name], spent = timed(partial(scanned, vectors, mask), queries)
        made.append(row(f"scan{name}", spent, recall=1.0))
    made += batches(vectors, queries)
    if graph:
        start = time.perf_counter()
        index = built(vectors, "hnsw", settings)
        seconds = time.perf_counter() - start
        nearest = Nearest(vectors, index, settings)
        for name, mask in masks.items():
            found, spent = timed(partial(searched, nearest, mask), queries)
            recall = overlap(found, truth[name])
            made.append(row(f"hnsw{name}", spent, recall=recall, **{"build s": seconds}))
    expected = next(size for size in sizes(n, WIDTH, settings) if size.kind == "hnsw")
    for one in made:
        one["index MB"] = expected.memory / 2**20 if one["method"].startswith("hnsw") else 0.0
        one["peak MB"] = harness.peak_mb()
    return made


def main(
    n: Annotated[int, typer.Option(help="vectors")] = 1_000_000,
    queries: Annotated[int, typer.Option(help="that are timed")] = 200,
    seed: Annotated[int, typer.Option()] = 7,
    spread: Annotated[float, typer.Option(help="of a cluster; the more, the harder")] = 1.0,
    scans: Annotated[bool, typer.Option("--scans", help="without HNSW, which takes long")] = False,
    json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    made = measure(n, queries, seed, spread, not scans)
    about = f"{n:,} x {WIDTH} vectors, spread {spread:g}, {queries} queries"
    harness.show("recall_speed_vectors", about, made, json)


if __name__ == "__main__":
    main.__doc__ = __doc__
    harness.run(main)
