"""
Lexical search on a simulated catalogue: BM25's best 1,000 of many titles, and `bm25s` beside it.

Words are drawn by Zipf's law, a title has 4 to 12 of them; a query is 1 to 4 words of some title,
so that common words are asked for as often as they stand there. The queries take turns between the
engines, one at a time. Both index the same words; `bm25s` runs with NumPy and with numba.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer

from benchmarks import harness
from funnel.catalogue import write_catalogue
from funnel.config import parse
from funnel.generation import Generation, Manifest
from funnel.types import Array, Candidates, Query
from recall.bm25 import BM25, write_index
from recall.masks import Mask

WORDS = 200_000  # different ones
LIMIT = 1000
WARM = 20  # queries that do not count


def titles(n: int, seed: int) -> tuple[Array, Array]:
    """Words as numbers: (m,) and where each title ends (n + 1,)."""
    draw = np.random.default_rng(seed)
    sizes = draw.integers(4, 13, n)
    ends = np.concatenate([[0], np.cumsum(sizes)])
    chance = 1 / np.arange(10, WORDS + 10)  # the most common words are stop words, and gone
    words = np.searchsorted(np.cumsum(chance / chance.sum()), draw.random(ends[-1]))
    return np.minimum(words, WORDS - 1).astype(np.int32), ends


def asked(words: Array, ends: Array, count: int, seed: int) -> list[list[str]]:
    draw, found = np.random.default_rng(seed), []
    for row in draw.integers(0, len(ends) - 1, count):
        own = words[ends[row] : ends[row + 1]]
        found.append([f"w{w}" for w in draw.choice(own, draw.integers(1, 5), replace=False)])
    return found


def opened(path: Path, words: Array, ends: Array) -> tuple[BM25, float]:
    """The channel as it is served, and the seconds that indexing took."""
    text = np.char.add("w", np.arange(WORDS).astype(str)).astype(object)[words]
    n = len(ends) - 1
    items = pa.table(
        {
            "item_id": [f"i{row:09}" for row in range(n)],
            "title": [" ".join(text[ends[row] : ends[row + 1]]) for row in range(n)],
        }
    )
    config = parse({"data": {"language": "none", "text": {"title": 1.0}}})
    write_catalogue(path / "items", items, [], [], [])
    table = config.model_dump(mode="json")
    Manifest("speed", until=0, past=0, actions=config.all_actions, config=table).write(path)
    generation = Generation.open(path)
    start = time.perf_counter()
    write_index(path / "bm25", generation.items, config)
    seconds = time.perf_counter() - start
    channel = BM25.open(generation, config)
    assert channel is not None
    return channel, seconds


def peer(words: Array, ends: Array, backend: str) -> tuple[Callable[[Sequence[str]], Any], float]:
    """`bm25s` over the same words, with its NumPy or its numba kernels."""
    import bm25s

    corpus = [words[ends[row] : ends[row + 1]].tolist() for row in range(len(ends) - 1)]
    vocabulary = {f"w{w}": w for w in range(WORDS)}
    index = bm25s.BM25(k1=1.2, b=0.6, method="lucene", backend=backend)
    start = time.perf_counter()
    index.index((corpus, vocabulary), show_progress=False)
    seconds = time.perf_counter() - start
    if backend == "numba":
        index.activate_numba_scorer()

    def find(query: Sequence[str]) -> Any:
        return index.retrieve([list(query)], k=LIMIT, show_progress=False, n_threads=0)

    return find, seconds


def timed(
    engines: dict[str, Callable[[Sequence[str]], Any]], queries: list[list[str]]
) -> dict[str, Array]:
    """ms of each query, the engines in turns."""
    spent: dict[str, list[float]] = {name: [] for name in engines}
    for query in queries:
        for name, find in engines.items():
            start = time.perf_counter()
            find(query)
            spent[name].append(1e3 * (time.perf_counter() - start))
    return {name: np.array(values[WARM:]) for name, values in spent.items()}


def searched(channel: BM25, mask: Mask | None, query: Sequence[str]) -> Candidates:
    return channel.find(Query(text=" ".join(query)), mask, LIMIT)


def measure(n: int, count: int, seed: int, with_peer: bool = True) -> list[dict[str, Any]]:
    """A row an engine and filter; times in ms, and as ratios of the medians of `bm25s`."""
    words, ends = titles(n, seed)
    queries = asked(words, ends, count + WARM, seed + 1)
    draw = np.random.default_rng(seed + 2)
    masks = {f"{share:.1%} allowed": draw.random(n) < share for share in (0.1, 0.01, 0.001)}
    made: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as path:
        channel, seconds = opened(Path(path), words, ends)
        built = {"bm25": seconds}
        plain = {"proximity": 0.0, "typo_weight": 0.0}  # what the peer does
        alone = replace(channel, settings=channel.settings.model_copy(update=plain))
        engines: dict[str, Callable[[Sequence[str]], Any]] = {
            "bm25": partial(searched, channel, None),
            "bm25, words alone": partial(searched, alone, None),
        }
        for name, mask in masks.items():
            engines[f"bm25, {name}"] = partial(searched, channel, mask)
        if with_peer:
            for backend in ("numpy", "numba"):
                name = f"bm25s ({backend})"
                engines[name], built[name] = peer(words, ends, backend)
        spent = timed(engines, queries)
        slow, fast = (
            float(np.median(spent[f"bm25s ({backend})"])) if with_peer else float("nan")
            for backend in ("numpy", "numba")
        )
        for name, values in spent.items():
            p50, p99 = np.percentile(values, [50, 99])
            made.append(
                {
                    "method": name,
                    "p50 ms": float(p50),
                    "p99 ms": float(p99),
                    "x bm25s": slow / float(p50),
                    "x numba": fast / float(p50),
                    "build s": built.get(name, built["bm25"]),
                    "peak_mb": harness.peak_mb(),
                }
            )
    return made


def main(
    n: Annotated[int, typer.Option(help="titles")] = 1_000_000,
    queries: Annotated[int, typer.Option(help="that are timed")] = 300,
    seed: Annotated[int, typer.Option()] = 7,
    alone: Annotated[bool, typer.Option("--alone", help="without bm25s")] = False,
    json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    made = measure(n, queries, seed, not alone)
    harness.show("recall_speed_lexical", f"{n:,} titles, {queries} queries", made, json)


if __name__ == "__main__":
    main.__doc__ = __doc__
    harness.run(main)
