"""
Learning to rank by prerank's trees: `python -m benchmarks.ltr DIR`.

DIR has train.parquet and test.parquet: grade, query_id and numbers in columns f*. A third file,
valid.parquet, is used where it is there; otherwise the number of trees is that with the best NDCG
over folds of the training queries, and all of them are learned from.

`lightgbm example` has the parameters of LightGBM's own lambdarank example, trained and predicted by
LightGBM alone; `same by prerank` are its trees summed by prerank/trees.py.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import lightgbm as lgb
import numpy as np
import typer

from benchmarks import harness
from funnel.config import Prerank
from funnel.metrics import grouped_ndcg_at_k
from funnel.types import Array
from prerank.gbdt import Table, fit, predict
from prerank.trees import flattened

CUTS = (1, 3, 5, 10)
FOLDS, REPEATS = 5, 2
STEP = 10  # trees
EXAMPLE = {  # examples/lambdarank/train.conf of LightGBM
    "objective": "lambdarank",
    "max_bin": 255,
    "learning_rate": 0.1,
    "num_leaves": 31,
    "bagging_freq": 1,
    "bagging_fraction": 0.9,
    "min_data_in_leaf": 50,
    "min_sum_hessian_in_leaf": 5.0,
    "num_threads": 1,
    "verbosity": -1,
}
EXAMPLE_TREES = 100


def read(path: Path, features: list[str]) -> Table:
    """Sorted by query."""
    table = harness.read(path, ["grade", "query_id", *features]).sort_by("query_id")
    queries = table.column("query_id").to_numpy()
    sizes = np.diff(
        np.append(np.flatnonzero(np.r_[True, queries[1:] != queries[:-1]]), len(queries))
    )
    matrix = np.stack([table.column(name).to_numpy() for name in features], 1).astype(np.float32)
    labels = table.column("grade").to_numpy().astype(np.float32)
    return Table(matrix, labels, sizes.astype(np.int64), np.ones(len(sizes), np.float32))


def part(table: Table, queries: Array) -> Table:
    """The queries where `queries` (R,) holds."""
    rows = np.repeat(queries, table.sizes)
    sizes, weights = table.sizes[queries], table.weights[queries]
    return Table(table.matrix[rows], table.labels[rows], sizes, weights)


def ndcg(table: Table, scores: Array) -> dict[str, float]:
    """Means over queries; one without anything relevant counts 1, as LightGBM has it."""
    owner, rows = np.repeat(np.arange(len(table.sizes)), table.sizes), np.arange(len(scores))
    return {
        f"NDCG@{k}": float(
            np.nan_to_num(grouped_ndcg_at_k(table.labels, scores, rows, owner, k), nan=1.0).mean()
        )
        for k in CUTS
    }


def trees(train: Table, settings: Prerank) -> int:
    """How many order best, in steps of ten: by the mean of the NDCGs of the queries left out, twice
    five folds. One fold alone says little where there are few queries."""
    tried = np.arange(STEP, settings.trees + 1, STEP)
    worth = np.zeros(len(tried))
    for seed in range(REPEATS):
        fold = np.random.default_rng(seed).permutation(len(train.sizes)) % FOLDS
        scores = np.zeros((len(tried), len(train.labels)))
        for k in range(FOLDS):
            booster = fit(part(train, fold != k), None, settings, seed=k)
            left = np.repeat(fold == k, train.sizes)
            for place, count in enumerate(tried):
                scores[place, left] = np.asarray(
                    booster.predict(train.matrix[left], num_iteration=int(count), num_threads=1)
                )
        worth += [sum(ndcg(train, own).values()) for own in scores]
    return int(tried[worth.argmax()])


def ours(train: Table, valid: Table | None, settings: Prerank) -> lgb.Booster:
    if valid is not None:
        return fit(train, valid, settings, seed=0)
    return fit(train, None, settings.model_copy(update={"trees": trees(train, settings)}), seed=0)


def example(train: Table) -> lgb.Booster:
    data = lgb.Dataset(train.matrix, train.labels, group=train.sizes)
    return lgb.train(EXAMPLE, data, EXAMPLE_TREES)


def measured(train: Table, valid: Table | None, test: Table) -> list[dict[str, Any]]:
    begin = time.perf_counter()
    booster = ours(train, valid, Prerank())
    took = time.perf_counter() - begin
    begin = time.perf_counter()
    peer = example(train)
    peer_took = time.perf_counter() - begin
    flat = flattened(peer)
    told = np.asarray(peer.predict(test.matrix, raw_score=True))
    rows = [
        ("prerank", booster, predict(booster, test.matrix), took),
        ("lightgbm example", peer, told, peer_took),
    ]
    if flat is not None:
        summed = flat.score(test.matrix)
        far = float(np.abs(summed - told).max())
        rows.append((f"same by prerank, off by {far:.0e}", peer, summed, peer_took))
    return [
        {"method": name, "trees": model.num_trees(), **ndcg(test, scores), "s": seconds}
        | {"peak MB": harness.peak_mb()}
        for name, model, scores, seconds in rows
    ]


def main(
    data: Annotated[Path, typer.Argument(help="Folder with train.parquet and test.parquet.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """LambdaMART with prerank's settings beside LightGBM's own."""
    names = harness.read(data / "train.parquet").column_names
    features = [name for name in names if name.startswith("f")]
    train, test = (read(data / f"{name}.parquet", features) for name in ("train", "test"))
    file = data / "valid.parquet"
    valid = read(file, features) if file.exists() else None
    rows = measured(train, valid, test)
    told = f"{data.name}: {len(train.sizes):,} + {len(test.sizes):,} queries"
    harness.show("ltr", told, rows, as_json)


if __name__ == "__main__":
    harness.run(main)
