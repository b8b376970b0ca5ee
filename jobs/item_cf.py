"""
Items that people want together: the neighbour lists of item-item collaborative filtering.

    w_ij = Σ_u 2^(−|t_ui − t_uj| / half-life) / ln(1 + |H_u|)  /  √((n_i + 20)·(n_j + 20))

over the users u who wanted both within the window, H_u the items that u wanted (the newest of
them), n_i how many users wanted i; half-life, window and lengths are `behaviour` of the config. A
user who wants everything says little about each pair (Breese, Heckerman, Kadie 1998), and neither
do items that everybody wants (Deshpande and Karypis 2004); the 20 keeps pairs of items that hardly
anyone knows below what many people did.

Writes item_cf/ into both drafts: indptr.npy int64 (n + 1), indices.npy int32, weights.npy float32,
each item's neighbours best first.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from funnel.catalogue import Catalogue
from funnel.config import Behaviour, Config
from jobs import events, tables
from jobs.command import command
from jobs.fresh import fresh, removed
from jobs.work import Work

DAY_MS = 86_400_000.0
SHRINK = 20.0
UNIT = 1 << 30  # sums are of whole numbers, so that their order does not matter


def wanted(found: DataFrame, config: Config, before: int) -> DataFrame:
    """user_id, row, weight (the best action's), time (the last one's): the newest items that
    that each user wanted before the cut, once each. `found` is the events table."""
    weight = events.positives(config.data.positive, config.all_actions)
    positive = found.withColumn("weight", weight).where(
        (F.col("weight") > 0) & (F.col("timestamp") < before)
    )
    once = positive.groupBy("user_id", "row").agg(
        F.max("weight").alias("weight"), F.max("timestamp").alias("time")
    )
    newest = Window.partitionBy("user_id").orderBy(F.desc("time"), "row")
    kept = once.withColumn("place", F.row_number().over(newest))
    return kept.where(F.col("place") <= config.behaviour.history).drop("place")


def neighbours(wanted: DataFrame, behaviour: Behaviour) -> DataFrame:
    """row, other, weight, place (from 1): the best neighbours of each item, ties by row."""
    item = F.struct("row", "time")
    users = wanted.groupBy("user_id").agg(F.collect_list(item).alias("items"))
    users = users.where(F.size("items") > 1)
    first = users.select("items", F.explode("items").alias("a"))
    both = first.select(F.size("items").alias("size"), "a", F.explode("items").alias("b"))
    gap = F.abs(F.col("a.time") - F.col("b.time"))
    vote = F.pow(F.lit(0.5), gap / F.lit(behaviour.half_life_days * DAY_MS)) / F.log1p("size")
    if behaviour.window_days:
        both = both.where(gap <= F.lit(behaviour.window_days * DAY_MS))
    pairs = (
        both.where(F.col("a.row") < F.col("b.row"))
        .groupBy(F.col("a.row").alias("row"), F.col("b.row").alias("other"))
        .agg((F.sum(F.round(vote * UNIT).cast("long")) / F.lit(float(UNIT))).alias("votes"))
    )
    fame = wanted.groupBy("row").agg(F.sqrt(F.count(F.lit(1)) + F.lit(SHRINK)).alias("fame"))
    damped = pairs.join(fame, "row").join(
        fame.select(F.col("row").alias("other"), F.col("fame").alias("other_fame")), "other"
    )
    weight = (F.col("votes") / (F.col("fame") * F.col("other_fame"))).cast("float")
    half = damped.select("row", "other", weight.alias("weight")).where(F.col("weight") > 0)
    mirrored = half.select(F.col("other").alias("row"), F.col("row").alias("other"), "weight")
    best = Window.partitionBy("row").orderBy(F.desc("weight"), "other")
    placed = half.unionByName(mirrored).withColumn("place", F.row_number().over(best))
    return placed.where(F.col("place") <= behaviour.neighbours)


def write(target: Path, neighbours: DataFrame, items: int, scratch: Path) -> int:
    """The lists as CSR arrays in the new directory `target`; how many neighbours there are.

    They pass through Parquet files in `scratch`, so that no more than one file is in memory.
    Without any neighbours nothing is written.
    """
    tables.write(neighbours, removed(scratch), ["row", "place"])
    files = sorted(scratch.glob("*.parquet"))
    total = int(sum(pq.read_metadata(file).num_rows for file in files))
    removed(target)
    if total:
        fresh(target)
        sizes = np.zeros(items, np.int64)
        indices = np.lib.format.open_memmap(target / "indices.npy", "w+", np.int32, (total,))
        weights = np.lib.format.open_memmap(target / "weights.npy", "w+", np.float32, (total,))
        done = 0
        for file in files:
            table = pq.read_table(file, columns=["row", "other", "weight"])
            end = done + len(table)
            indices[done:end] = table.column("other").to_numpy()
            weights[done:end] = table.column("weight").to_numpy()
            sizes += np.bincount(table.column("row").to_numpy(), minlength=items)
            done = end
        np.save(target / "indptr.npy", np.concatenate([[0], np.cumsum(sizes)]))
    removed(scratch)
    return int(total)


def run(work: Work) -> Mapping[str, Any]:
    total = 0
    for draft, cut in work.drafts:
        if not work.has("events"):
            removed(draft / "item_cf")
            continue
        found = neighbours(wanted(events.read(work), work.config, cut), work.config.behaviour)
        items = len(Catalogue(draft / "items"))
        total = write(draft / "item_cf", found, items, work.tables / "item_cf")
    return {"neighbours": total}


if __name__ == "__main__":
    command(run, __doc__)
