"""
Counters of items as of the cut, and the popular items.

Writes into a draft counters/state.npy (n, C) float64 and counters/names.json: decayed counts of
`features.fold.counted` actions by each half-life with the cut as their landmark; and popular/: the
10,000 best rows by the decayed positive actions times their weights, middle half-life, and the best
`popular.each` of every value of the column `popular.by` (`recall.categories`).
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

from features.fold import counted, counter_names, span_ms
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
    pairs = [(action, days) for action in actions for days in half_lives]
    return {
        prefix + name: F.when(
            F.col("action") == config.all_actions.index(action),
            grown(F.col("timestamp"), landmark, days),
        )
        for name, (action, days) in zip(names, pairs, strict=True)
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


def run(work: Work) -> Mapping[str, Any]:
    drafts = work.drafts
    if not work.has("events"):
        for draft, _ in drafts:
            removed(draft / "counters")
            removed(draft / "popular")
        return {}
    config = work.config
    names = counter_names(counted(config), config.features.half_lives)
    cuts = [cut for _, cut in drafts]
    stats = item_stats(events.read(work), config, cuts).toArrow()
    items = Catalogue(work.draft / "items")
    metrics: dict[str, Any] = {}
    for i, (draft, _) in enumerate(drafts):
        counts = state(stats, len(items), [f"{i}.{name}" for name in names])
        metrics = write(draft, counts, names, config, items)
    return metrics


if __name__ == "__main__":
    command(run, __doc__)
