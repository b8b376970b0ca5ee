"""
What an epoch over very many samples holds in memory: `python -m benchmarks.rank_memory`.

Samples are drawn part by part and written to files as the job writes them (rank/stored.py), then
the trainer of the rank stage runs one epoch over them. Requests have twenty candidates of ten
fields and ten numbers, and a history of ten actions. `own MB` is the most that the process itself
held, over what it held before the samples; `mapped MB` the most of the files that the system kept
in memory for it, which it takes back when it needs it; `files MB` how large the files are.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import harness
from funnel.config import Rank
from rank.batch import Encoded, Histories
from rank.fields import Shape
from rank.models import MODELS
from rank.stored import Writer, opened
from rank.train import Table, fit

EACH, PAST, FIELDS, NUMBERS = 20, 10, 10, 10
PART = 1 << 16  # candidates
VOCAB = 10_000
WARM = 50_000  # samples
EVERY = 0.05  # seconds between two looks at the memory


def part(requests: int, seed: int) -> Table:
    draw = np.random.default_rng(seed)
    n, past = requests * EACH, requests * PAST
    ids = draw.integers(0, VOCAB, (n, FIELDS)).astype(np.int32)
    numbers = draw.standard_normal((n, NUMBERS), np.float32)
    wanted = (ids[:, 0] % 10 == 0) | (numbers[:, 0] > 1.5)
    labels = (wanted & (draw.random(n) < 0.5)).astype(np.float32)
    known = np.ones(past, np.int32)
    codes = draw.integers(1, VOCAB, (past, 1)).astype(np.int32)
    inputs = Encoded(
        ids,
        numbers,
        np.zeros((n, 0, 1), np.int32),
        Histories(codes, known, known, np.arange(requests + 1) * PAST),
        np.repeat(np.arange(requests), EACH),
    )
    return Table(inputs, labels, np.arange(n, dtype=np.int32), np.ones(requests, np.float32))


def held() -> dict[str, int]:
    """MB of this process by kind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    named = dict(line.split(":", 1) for line in lines if line.startswith("Rss"))
    return {name: int(text.split()[0]) // 1024 for name, text in named.items()}


@contextmanager
def watched() -> Iterator[dict[str, int]]:
    """The most of every kind meanwhile."""
    most, stop = held(), threading.Event()

    def look() -> None:
        while not stop.wait(EVERY):
            for name, value in held().items():
                most[name] = max(most[name], value)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        stop.set()
        thread.join()


def measured(network: str, rows: int, place: Path) -> dict[str, Any]:
    shape = Shape(
        vocab=(VOCAB,) * FIELDS,
        numbers=NUMBERS,
        shared=(0,),
        actions=2,
        hidden=(128, 64),
        past=PAST,
    )
    settings = Rank(epochs=1)
    valid = part(1000, 0)
    before = held()["RssAnon"]
    with watched() as most:
        begin = time.perf_counter()
        writer, left, seed = Writer(place), rows // EACH, 1
        while left:
            requests = min(left, PART // EACH)
            writer.add(part(requests, seed))
            left, seed = left - requests, seed + 1
        writer.close()
        wrote = time.perf_counter() - begin
        begin = time.perf_counter()
        fitted = fit(lambda: MODELS[network](shape), opened(place), valid, settings, 0)
        took = time.perf_counter() - begin
    size = sum(file.stat().st_size for file in place.iterdir())
    return {
        "network": network,
        "samples": rows,
        "files MB": size / 2**20,
        "own MB": most["RssAnon"] - before,
        "mapped MB": most["RssFile"],
        "written s": wrote,
        "epoch s": took,
        "samples/s": rows / took,
        "valid loss": fitted.epochs[0].loss,
    }


def main(
    rows: Annotated[int, typer.Option(help="Samples.")] = 10_000_000,
    network: Annotated[str, typer.Option(help="deepfm, din or transformer.")] = "deepfm",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """The memory of an epoch, at a tenth of the samples and at all of them."""
    found = []
    for count in (WARM, rows // 10, rows):
        with tempfile.TemporaryDirectory(dir=".") as place:
            found.append(measured(network, count, Path(place)))
    del found[0]  # what the process takes for its first batch, it keeps
    harness.show("rank_memory", f"{rows:,} samples, one epoch", found, as_json)


if __name__ == "__main__":
    harness.run(main)
