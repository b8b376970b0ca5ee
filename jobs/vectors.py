"""
Vectors of items: by their texts, and by the users who wanted them.

Text vectors come from LSA trained on the catalogue, where an item's document is its own text and
the queries whose results users wanted (before the cut), or from a sentence-transformers model.
Behaviour vectors are made from the neighbour lists of `jobs.item_cf`, which must have run: with S
the symmetric matrix of their weights and S ≈ Σ_k σ_k u_k v_kᵀ,

    v_i = (√σ_1·v_1i, …, √σ_d·v_di), to length 1

(Levy and Goldberg 2014, "Neural word embedding as implicit matrix factorization", who take the
square root likewise). Items without neighbours have none. `vectors.behaviour` puts those of
`jobs.item2vec` or `jobs.two_tower` in their place.

Writes vector/text.npy, vector/encoder/ and vector/behaviour.npy into both drafts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from funnel.catalogue import Catalogue
from funnel.config import Config
from funnel.types import Array
from jobs import events, wants
from jobs.command import command
from jobs.fresh import fresh
from jobs.item2vec import Item2Vec
from jobs.item2vec import vectors as item2vec
from jobs.work import Work
from recall.encoder import LSA, Encoder, Sentences, randomized_svd, unit_rows
from recall.encoder import documents as texts_of

QUERIES = 8  # different queries that an item's document takes, the most frequent ones
REPEATS = 3  # times that a query counts at most


def clicked_queries(found: DataFrame, config: Config, before: int) -> DataFrame:
    """row, query, count: which queries led to a positive action on which item before the cut."""
    weight = events.positives(config.data.positive, config.all_actions)
    hits = found.where((F.col("timestamp") < before) & (F.col("query") != "") & (weight > 0))
    return hits.groupBy("row", F.lower("query").alias("query")).count()


def documents(items: Catalogue, config: Config, clicked: pa.Table | None) -> list[str]:
    """One text an item: its searchable columns, then the queries that led to it."""
    found = texts_of(items.table, list(config.data.text))
    if clicked is None:
        return found
    of_row: dict[int, Counter[str]] = {}
    for row, query, count in zip(
        *(clicked.column(name).to_pylist() for name in ("row", "query", "count")), strict=True
    ):
        of_row.setdefault(row, Counter())[query] += count
    for row, queries in of_row.items():
        best = sorted(queries.items(), key=lambda pair: (-pair[1], pair[0]))[:QUERIES]
        found[row] += " " + " ".join(q for q, n in best for _ in range(min(n, REPEATS)))
    return found


def encoded(target: Path, documents: Sequence[str], encoder: Encoder) -> int:
    """Writes the encoder and the items' text vectors; how many items have one."""
    vectors = encoder.encode(documents).astype(np.float32)
    np.save(target / "text.npy", vectors)
    encoder.save(target / "encoder")
    return int(np.any(vectors != 0, axis=1).sum())


def behaviour(work: Work, draft: Path, cut: int) -> Array | None:
    """(n, width) float32 unit rows of the configured kind; None where there is nothing to learn
    from."""
    settings, seed = work.config.vectors, work.config.build.seed
    if settings.behaviour == "item2vec":
        if not work.has("events"):
            return None
        found, model = (
            wants.read(work, cut, len(Catalogue(draft / "items"))),
            Item2Vec(settings.behaviour_width),
        )

        def tell(done: int) -> None:
            work.progress(f"item2vec: round {done}")

        return item2vec(found, model, seed, tell)
    if settings.behaviour == "two_tower":
        towers = draft / "two_tower/items.npy"
        return np.load(towers) if towers.exists() else None
    if not (draft / "item_cf").exists():
        return None
    return factors(draft, settings.behaviour_width, seed)


def factors(draft: Path, width: int, seed: int) -> Array:
    """(n, width) float32 unit rows out of the draft's neighbour lists; zero without neighbours."""
    indptr, indices, weights = (
        np.load(draft / f"item_cf/{name}.npy") for name in ("indptr", "indices", "weights")
    )
    items = len(indptr) - 1
    lists = sp.csr_matrix((weights, indices, indptr), shape=(items, items))
    both = lists.maximum(lists.T).tocsr()  # one may be among the other's best only
    values, vectors = randomized_svd(both, width, seed)
    return np.asarray(unit_rows(vectors * np.sqrt(values)), np.float32)


def run(work: Work) -> Mapping[str, Any]:
    config, metrics = work.config, {}
    settings, seed = config.vectors, config.build.seed
    items = Catalogue(work.draft / "items")
    sentences = Sentences.open(settings.encoder) if settings.encoder else None
    for draft, cut in work.drafts:
        target, clicked = fresh(draft / "vector"), None
        if work.has("events"):
            happened = events.read(work)
            clicked = clicked_queries(happened, config, cut).toArrow()
        if (made := behaviour(work, draft, cut)) is not None:
            np.save(target / "behaviour.npy", made)
            metrics["behaviour_items"] = int(np.any(made != 0, axis=1).sum())
        own = documents(items, config, clicked if sentences is None else None)
        encoder = sentences or LSA.train(own, settings.text_width, seed, config.data.language)
        metrics["text_items"] = encoded(target, own, encoder)
    return metrics


if __name__ == "__main__":
    command(run, __doc__)
