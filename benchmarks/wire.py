"""
Columns on the wire against a message per item, and against an empty call.

A stage service in a process of its own takes 2,000 candidates with 16 float columns, best first as
stages leave them, and returns the first 500: no work but the wire's. The same over a message per
item, an empty call of the same service (the query, no candidates) and a bare empty call take turns
with it, so that what disturbs one disturbs all.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import grpc
import numpy as np
import typer

from benchmarks import harness, items_pb2, items_pb2_grpc
from funnel.errors import Unavailable
from funnel.generation import CURRENT
from funnel.remote import RemoteStage
from funnel.service import Host, Server, StageService, until_terminated
from funnel.types import Candidates, Query

ITEMS, COLUMNS, KEPT = 2000, 16, 500
TURN = 10  # calls of one kind before the next one's turn
WARM = 5  # turns that do not count
REGISTER: Callable[[Any, grpc.Server], None] = items_pb2_grpc.add_PerItemServicer_to_server
STUB: Callable[[grpc.Channel], Any] = items_pb2_grpc.PerItemStub


@dataclass(frozen=True)
class First:
    """The candidates come best first: the stage's work is to keep so many."""

    keep: int

    def run(self, query: Query, candidates: Candidates) -> Candidates:
        columns = {name: column[: self.keep] for name, column in candidates.columns.items()}
        rows, scores = candidates.rows[: self.keep], candidates.scores[: self.keep]
        return Candidates(rows, scores, columns, candidates.steps)


class PerItem(items_pb2_grpc.PerItemServicer):
    """The peer: the same work by the same stage."""

    name = "funnel.benchmarks.PerItem"

    def register(self, server: grpc.Server) -> None:
        REGISTER(self, server)

    def start(self, tell: Callable[[str, bool], None]) -> None:
        """Nothing to load."""

    def close(self) -> None:
        """Nothing to close."""

    def Run(self, request: items_pb2.Items, context: grpc.ServicerContext) -> items_pb2.Items:
        return packed(First(KEPT).run(Query(), unpacked(request)))

    def Empty(self, request: items_pb2.Nothing, context: grpc.ServicerContext) -> items_pb2.Nothing:
        return items_pb2.Nothing()


def packed(candidates: Candidates) -> items_pb2.Items:
    columns = np.stack(list(candidates.columns.values()), 1).tolist()
    rows, scores = candidates.rows.tolist(), candidates.scores.tolist()
    return items_pb2.Items(
        items=[
            items_pb2.Item(row=row, score=score, features=features)
            for row, score, features in zip(rows, scores, columns, strict=True)
        ]
    )


def unpacked(message: items_pb2.Items) -> Candidates:
    rows = np.array([item.row for item in message.items], np.int32)
    scores = np.array([item.score for item in message.items], np.float32)
    table = np.array([list(item.features) for item in message.items], np.float32)
    return Candidates(rows, scores, {f"c{k}": column for k, column in enumerate(table.T)})


def candidates(seed: int) -> Candidates:
    random = np.random.default_rng(seed)
    columns = {f"c{k}": random.random(ITEMS, np.float32) for k in range(COLUMNS)}
    scores = np.sort(random.random(ITEMS, np.float32))[::-1]
    return Candidates(np.arange(ITEMS, dtype=np.int32), scores, columns)


def serve(root: str) -> None:
    """The server process: prints its address and serves until SIGTERM."""
    Path(root, CURRENT).write_text("benchmark")
    host = Host(Path(root), lambda generation: {"home": First(KEPT)})
    server = Server("127.0.0.1:0", [StageService("rank", host), PerItem()], workers=4).start()
    print(server.address, flush=True)
    until_terminated([server], 1.0)


@contextmanager
def served() -> Iterator[str]:
    """The address of a server in a process of its own."""
    with tempfile.TemporaryDirectory() as root:
        command = [sys.executable, "-m", "benchmarks.wire", "--serve", root]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            if not address:
                raise Unavailable("the benchmark's server did not start")
            yield address
        finally:
            process.terminate()
            process.wait(10)


def turns(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Milliseconds of every call, the kinds in turns for `seconds` after the warm-up."""
    for call in calls.values():
        for _ in range(WARM * TURN):
            call()
    took: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, call in calls.items():
            for _ in range(TURN):
                start = time.perf_counter()
                call()
                took[name].append(1e3 * (time.perf_counter() - start))
    return took


def measure(seconds: float, seed: int) -> list[dict[str, Any]]:
    sent = candidates(seed)
    with (
        served() as address,
        RemoteStage(address, "rank", 10.0) as columns,
        grpc.insecure_channel(address) as channel,
    ):
        stub = STUB(channel)

        def per_item() -> Candidates:
            return unpacked(stub.Run(packed(sent), timeout=10))

        query = Query(limit=20)
        alike(columns.run(query, sent), per_item())
        took = turns(
            {
                "bare empty call": lambda: stub.Empty(items_pb2.Nothing(), timeout=10),
                "empty call": lambda: columns.run(query, Candidates.empty()),
                "columns": lambda: columns.run(query, sent),
                "message per item": per_item,
            },
            seconds,
        )
    return [row(name, times, took) for name, times in took.items()]


def alike(a: Candidates, b: Candidates) -> None:
    """Both ways must give the same answer, or the comparison means nothing."""
    assert np.array_equal(a.rows, b.rows)
    assert np.array_equal(a.scores, b.scores)
    assert all(np.array_equal(a.columns[name], b.columns[name]) for name in a.columns)


def row(name: str, times: Sequence[float], took: dict[str, list[float]]) -> dict[str, Any]:
    """Requests/s come from the median, which what else the machine does moves least."""
    p50, p99, low, high = np.percentile(times, [50, 99, 25, 75])
    return {
        "method": name,
        "calls": len(times),
        "requests_s": 1e3 / p50,
        "p50_ms": p50,
        "low": low,
        "high": high,
        "p99_ms": p99,
        "x_empty": p50 / np.median(took["empty call"]),
        "x_bare": p50 / np.median(took["bare empty call"]),
        "x_per_item": np.median(took["message per item"]) / p50,
        "seconds": sum(times) / 1e3,
        "peak_mb": harness.peak_mb(),
    }


def main(
    seconds: Annotated[float, typer.Option(help="How long to measure.")] = 10.0,
    seed: Annotated[int, typer.Option(help="Seed of the candidates.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    serve_in: Annotated[str, typer.Option("--serve", hidden=True)] = "",
) -> None:
    """Columns on the wire against a message per item and an empty call."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if serve_in:
        serve(serve_in)
        return
    moved = f"{4 * (COLUMNS + 2) * ITEMS / 1e3:.0f} kB and {4 * (COLUMNS + 2) * KEPT / 1e3:.0f} kB"
    data = f"{ITEMS:,} candidates x {COLUMNS} float32 columns in, {KEPT} out: {moved}"
    harness.show("wire", data, measure(seconds, seed), as_json)


if __name__ == "__main__":
    harness.run(main)
