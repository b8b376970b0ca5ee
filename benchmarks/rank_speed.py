"""
How fast the learned stages score, each beside its plain peer in the same run.

prerank: `rows` candidates of `width` features, features given, 300 trees of 31 leaves; the peer is
LightGBM's own `Booster.predict`. One request at a time on one thread, the two in turns. `floor ms`
is what the comparisons take if every cycle does one vector instruction of eight of them at 3 GHz.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import lightgbm as lgb
import numpy as np
import typer

from benchmarks import harness
from prerank.trees import flattened

WARM = 5
LANES, HERTZ = 8, 3e9


def in_turns(methods: Mapping[str, Callable[[], Any]], times: int) -> dict[str, np.ndarray]:
    """Milliseconds of every call of every method."""
    spent: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(times + WARM):
        for name, call in methods.items():
            begin = time.perf_counter()
            call()
            if turn >= WARM:
                spent[name].append(1e3 * (time.perf_counter() - begin))
    return {name: np.array(values) for name, values in spent.items()}


def rows_of(spent: Mapping[str, np.ndarray], peer: str, scored: int) -> list[dict[str, Any]]:
    base = float(np.median(spent[peer]))
    return [
        {
            "method": name,
            "p50 ms": float(np.median(values)),
            "p99 ms": float(np.percentile(values, 99)),
            "x peer": base / float(np.median(values)),
            "scores/s": 1e3 * scored / float(np.median(values)),
        }
        for name, values in spent.items()
    ]


def prerank(rows: int, width: int, trees: int, leaves: int, times: int) -> list[dict[str, Any]]:
    draw = np.random.default_rng(7)
    matrix = draw.standard_normal((20_000, width)).astype(np.float32)
    matrix[draw.random(matrix.shape) < 0.1] = np.nan
    labels = (np.nan_to_num(matrix[:, :8]).sum(1) + 2 * draw.standard_normal(20_000) > 0) * 1
    params = {"objective": "binary", "num_leaves": leaves, "learning_rate": 0.05, "verbosity": -1}
    booster = lgb.train(params | {"num_threads": 1}, lgb.Dataset(matrix, labels), trees)
    begin = time.perf_counter()
    flat = flattened(booster)
    assert flat is not None
    asked = matrix[:rows]
    flat.score(asked)
    ready = time.perf_counter() - begin
    spent = in_turns(
        {
            "prerank": lambda: flat.score(asked),
            "Booster.predict": lambda: booster.predict(asked, raw_score=True, num_threads=1),
        },
        times,
    )
    floor = 1e3 * rows * len(flat.thresholds) / LANES / HERTZ
    found = rows_of(spent, "Booster.predict", rows)
    found[0] |= {"ready s": ready, "floor ms": floor}
    found[1] |= {"ready s": float("nan"), "floor ms": float("nan")}
    return found


def main(
    rows: Annotated[int, typer.Option(help="candidates of prerank")] = 2000,
    width: Annotated[int, typer.Option(help="features of prerank")] = 60,
    trees: Annotated[int, typer.Option()] = 300,
    leaves: Annotated[int, typer.Option(help="of a tree")] = 31,
    times: Annotated[int, typer.Option(help="requests of each")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """How fast the learned stages score."""
    found = prerank(rows, width, trees, leaves, times)
    harness.show("rank_speed", f"{rows:,} rows, {trees} trees of {leaves} leaves", found, as_json)


if __name__ == "__main__":
    typer.run(main)
