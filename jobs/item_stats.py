"""
Counters of items as of the cut, and the popular items.

Writes into a draft counters/state.npy (n, C) float64 and counters/names.json: decayed counts of
`features.fold.counted` actions by each half-life with the cut as their landmark; and popular/: the
10,000 best rows by the decayed positive actions times their weights, middle half-life, and the best
`popular.each` of every value of the column `popular.by` (`recall.categories`). With
`features.windows` also windows/, with `features.pairs` pairs/ (features/windows.py, pairs.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from features import pairs, windows
from features.fold import (
    counted,
    counter_names,
    longest,
    pair_keys,
    span_ms,
    text_hash,
    windows_of,
)
from funnel.catalogue import Catalogue
from funnel.config import Config
from funnel.types import Array, best
from jobs import events
from jobs.command import command
from jobs.fresh import fresh, removed
from jobs.work import Work
from recall.categories import Categories

POPULAR = 10_000


def grown(time: Column, landmark: int, days: float) -> Column:
    """What an event at `time` (epoch ms) adds to a counter with that landmark and half-life."""
    return F.pow(F.lit(2.0), (time - F.lit(landmark)) / F.lit(float(span_ms(days))))


def counters(config: Config, landmark: int, prefix: str = "") -> dict[str, Column]:
    """Name -> what an event (`action` code, `timestamp`) adds to that counter; null for nothing."""
    actions, half_lives = counted(config), config.features.half_lives
    names = counter_names(actions, half_lives)
    kinds = [(action, days) for action in actions for days in half_lives]
    return {
        prefix + name: F.when(
            F.col("action") == config.all_actions.index(action),
            grown(F.col("timestamp"), landmark, days),
        )
        for name, (action, days) in zip(names, kinds, strict=True)
    }


def item_stats(events: DataFrame, config: Config, cuts: Sequence[int]) -> DataFrame:
    """One row an item: `row`, and for cut number i the columns `<i>.<counter>`.

    Each counter knows only the events before its cut, which is its landmark.
    """
    sums = [
        F.sum(F.when(F.col("timestamp") < cut, added)).alias(name)
        for i, cut in enumerate(cuts)
        for name, added in counters(config, cut, f"{i}.").items()
    ]
    return events.where(F.col("timestamp") < max(cuts)).groupBy("row").agg(*sums)


def state(stats: pa.Table, items: int, names: Sequence[str]) -> NDArray[np.float64]:
    """(n, C) float64 out of the columns `names`; items without events are zero."""
    found = np.zeros((items, len(names)))
    rows = stats.column("row").to_numpy()
    for place, name in enumerate(names):
        found[rows, place] = np.nan_to_num(stats.column(name).to_numpy())
    return found


def popularity(state: Array, names: Sequence[str], config: Config) -> NDArray[np.float32]:
    """(n,) decayed positive actions times their weights, by the middle half-life."""
    half_lives = sorted(config.features.half_lives)
    days = half_lives[len(half_lives) // 2]
    score = np.zeros(len(state))
    for action, weight in config.data.positive.items():
        score += weight * state[:, names.index(f"live.{action}.{days:g}d")]
    return score.astype(np.float32)


def write(
    target: Path, state: Array, names: Sequence[str], config: Config, items: Catalogue
) -> dict[str, int]:
    folder = fresh(target / "counters")
    np.save(folder / "state.npy", state)
    (folder / "names.json").write_text(json.dumps(list(names)))
    scores = popularity(state, names, config)
    popular = write_popular(target, scores)
    lists = Categories.of(items, config.popular.by, scores, config.popular.each)
    if lists is not None:
        lists.write(target / "popular/lists")
    return {"items_with_events": int(np.count_nonzero(state.any(axis=1))), "popular": popular}


def write_popular(target: Path, scores: Array) -> int:
    """popular/ of the draft `target` out of every item's score; how many items it lists."""
    rows = np.arange(len(scores), dtype=np.int32)
    order = best(scores, rows, min(POPULAR, int(np.count_nonzero(scores))))
    folder = fresh(target / "popular")
    np.save(folder / "rows.npy", rows[order])
    np.save(folder / "scores.npy", scores[order])
    return len(order)


def write_windows(target: Path, happened: DataFrame, config: Config, cut: int) -> int:
    """windows/ of the draft `target`: what the windows at the cut reach; the number of entries."""
    removed(target / windows.FOLDER)
    widths = windows.reached(windows_of(config), cut)
    if not widths:
        return 0
    folder, total = fresh(target / windows.FOLDER), 0
    codes = [config.all_actions.index(action) for action in counted(config)]
    known = happened.where((F.col("timestamp") < cut) & F.col("action").isin(codes))
    for width, oldest in widths.items():
        bucket = F.floor(F.col("timestamp") / F.lit(width)).cast("int")
        inside = known.where(F.col("timestamp") >= oldest * width)
        table = inside.groupBy(bucket.alias("bucket"), "row", "action").count().toArrow()
        columns = [table.column(n).to_numpy() for n in ("bucket", "row", "action", "count")]
        total += windows.write(folder, width, *columns)
    return total


def write_pairs(target: Path, happened: DataFrame, config: Config, cut: int, hashes: Array) -> int:
    """pairs/ of the draft `target`, as of the cut; `hashes` (n,) uint64 are the items' hashed ids.
    Returns how many there are."""
    removed(target / pairs.FOLDER)
    most = config.features.pairs
    if not most:
        return 0
    names = counter_names(counted(config), (longest(config),))
    added = {name: column for name, column in counters(config, cut).items() if name in names}
    said = F.trim(F.coalesce("query", F.lit("")))
    asked = happened.where((F.col("timestamp") < cut) & (said != "")).withColumn("query", said)
    sums = [F.coalesce(F.sum(column), F.lit(0.0)).alias(name) for name, column in added.items()]
    summed = asked.groupBy("query", "row").agg(*sums)
    weight = sum((F.col(f"`{name}`") for name in names[1:]), F.col(f"`{names[0]}`"))
    # Spellings of one text are summed up below, so a few more than are kept.
    table = summed.where(weight > 0).orderBy(weight.desc(), "query", "row").limit(2 * most)
    found = table.toArrow()
    texts, place = np.unique(
        found.column("query").to_numpy(zero_copy_only=False), return_inverse=True
    )
    texts = np.array([text_hash(text) for text in texts], np.uint64)
    keys = pair_keys(texts[place], hashes[found.column("row").to_numpy()])
    keys, place = np.unique(keys, return_inverse=True)
    state = np.zeros((len(keys), len(names)))
    for column, name in enumerate(names):
        np.add.at(state[:, column], place, found.column(name).to_numpy())
    return pairs.write(fresh(target / pairs.FOLDER), keys, state, most)


def run(work: Work) -> Mapping[str, Any]:
    drafts = work.drafts
    if not work.has("events"):
        for draft, _ in drafts:
            removed(draft / "counters")
            removed(draft / "popular")
            removed(draft / windows.FOLDER)
            removed(draft / pairs.FOLDER)
        return {}
    config = work.config
    names = counter_names(counted(config), config.features.half_lives)
    cuts = [cut for _, cut in drafts]
    happened = events.read(work)
    stats = item_stats(happened, config, cuts).toArrow()
    items = Catalogue(work.draft / "items")
    hashes = np.empty(len(items), np.uint64)
    hashes[np.load(items.path / "hash_rows.npy")] = np.load(items.path / "hash.npy")
    metrics: dict[str, Any] = {}
    for i, (draft, _) in enumerate(drafts):
        counts = state(stats, len(items), [f"{i}.{name}" for name in names])
        metrics = write(draft, counts, names, config, items)
        metrics |= {
            "in_windows": write_windows(draft, happened, config, cuts[i]),
            "pairs": write_pairs(draft, happened, config, cuts[i], hashes),
        }
    return {name: value for name, value in metrics.items() if value or "items" in name}


if __name__ == "__main__":
    command(run, __doc__)
