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
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from features import pairs, windows
from features.fold import (
    DAY_MS,
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
from jobs import events, partials
from jobs.command import command
from jobs.fresh import fresh, removed
from jobs.partials import LANDMARK, PART, Kind, Part
from jobs.work import Work
from recall.categories import Categories

POPULAR = 10_000
FORMAT = 1  # of what is kept of a day; another one where it means something else
ENTRY = ("bucket", "row", "action", "count")
NONE = pa.schema([(name, pa.int32()) for name in ENTRY])
Happened = Callable[[int, int], DataFrame]  # the events in [since, before) at least


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


def kind(config: Config) -> Kind:
    """What is kept of a day: for each item, action and day (UTC) the columns `count`, and for each
    half-life number h `sum.h`, what the events add at the landmark."""
    codes = [config.all_actions.index(action) for action in counted(config)]
    spans = [span_ms(days) for days in config.features.half_lives]

    def make(happened: DataFrame) -> DataFrame:
        bucket = F.floor(F.col("timestamp") / F.lit(DAY_MS)).cast("int").alias("bucket")
        known = happened.where(F.col("action").isin(codes))
        ago = F.col("timestamp") - F.col(LANDMARK)
        sums = [
            F.sum(F.pow(F.lit(2.0), ago / F.lit(float(span)))).alias(f"sum.{h}")
            for h, span in enumerate(spans)
        ]
        keys = (PART, bucket, "row", "action")
        return known.groupBy(*keys).agg(F.count(F.lit(1)).cast("int").alias("count"), *sums)

    return Kind("items", json.dumps([FORMAT, codes, spans]), make)


def state(parts: Sequence[Part], items: int, config: Config, cut: int) -> NDArray[np.float64]:
    """(n, C) float64 counters at the cut out of what came before it; items without events are
    zero."""
    actions, half_lives = counted(config), config.features.half_lives
    places = np.full(len(config.all_actions), -1)
    places[[config.all_actions.index(action) for action in actions]] = range(len(actions))
    found = np.zeros((items, len(actions), len(half_lives)))
    for part in parts:
        rows = part.rows.column("row").to_numpy()
        cells = rows * len(actions) + places[part.rows.column("action").to_numpy()]
        for h, days in enumerate(half_lives):
            fallen = 2.0 ** ((part.landmark - cut) / span_ms(days))
            sums = part.rows.column(f"sum.{h}").to_numpy() * fallen
            found[:, :, h] += np.bincount(cells, sums, items * len(actions)).reshape(items, -1)
    return found.reshape(items, -1)


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


def write_windows(
    target: Path, happened: Happened, parts: Sequence[Part], config: Config, cut: int
) -> int:
    """windows/ of the draft `target`: what the windows at the cut reach; the number of entries."""
    removed(target / windows.FOLDER)
    widths = windows.reached(windows_of(config), cut)
    if not widths:
        return 0
    folder, total = fresh(target / windows.FOLDER), 0
    codes = [config.all_actions.index(action) for action in counted(config)]
    for width, oldest in widths.items():
        if width == DAY_MS:  # these are counted already
            tables = [part.rows.select(ENTRY) for part in parts]
            table = pa.concat_tables(tables) if tables else NONE.empty_table()
            table = table.filter(pc.greater_equal(table.column("bucket"), oldest))
        else:
            known = happened(oldest * width, cut).where(F.col("action").isin(codes))
            inside = known.where(F.col("timestamp").between(oldest * width, cut - 1))
            bucket = F.floor(F.col("timestamp") / F.lit(width)).cast("int")
            table = inside.groupBy(bucket.alias("bucket"), "row", "action").count().toArrow()
        columns = [table.column(name).to_numpy() for name in ENTRY]
        total += windows.write(folder, width, *columns)
    return total


def pair_kind(config: Config) -> Kind:
    """What is kept of a day's pairs: for each query's text and item `sum.a`, what the events of the
    counted action number a add at the landmark by the longest half-life."""
    codes = [config.all_actions.index(action) for action in counted(config)]
    span = span_ms(longest(config))

    def make(happened: DataFrame) -> DataFrame:
        said = F.trim(F.coalesce("query", F.lit("")))
        asked = happened.where((said != "") & F.col("action").isin(codes))
        ago = F.col("timestamp") - F.col(LANDMARK)
        added = F.pow(F.lit(2.0), ago / F.lit(float(span)))
        sums = [
            F.coalesce(F.sum(F.when(F.col("action") == code, added)), F.lit(0.0)).alias(f"sum.{a}")
            for a, code in enumerate(codes)
        ]
        return asked.groupBy(PART, said.alias("query"), "row").agg(*sums)

    return Kind("pairs", json.dumps([FORMAT, codes, span]), make)


def write_pairs(
    target: Path, parts: Sequence[Part], config: Config, cut: int, hashes: Array
) -> int:
    """pairs/ of the draft `target`, as of the cut; `hashes` (n,) uint64 are the items' hashed ids.
    Returns how many there are."""
    removed(target / pairs.FOLDER)
    most, actions = config.features.pairs, len(counted(config))
    if not most:
        return 0
    known: dict[str, int] = {}
    keys, sums = [np.empty(0, np.uint64)], [np.empty((0, actions))]
    for part in parts:
        said = part.rows.column("query").combine_chunks().dictionary_encode()
        texts = said.dictionary.to_pylist()
        known |= {text: text_hash(text) for text in texts if text not in known}
        hashed = np.array([known[text] for text in texts], np.uint64)
        items = hashes[part.rows.column("row").to_numpy()]
        keys.append(pair_keys(hashed[said.indices.to_numpy()], items))
        added = [part.rows.column(f"sum.{a}").to_numpy() for a in range(actions)]
        fallen = 2.0 ** ((part.landmark - cut) / span_ms(longest(config)))
        sums.append(np.stack(added, axis=1) * fallen)
    every, place = np.unique(np.concatenate(keys), return_inverse=True)
    together = np.concatenate(sums)
    found = [np.bincount(place, together[:, a], len(every)) for a in range(actions)]
    table = np.stack(found, axis=1)
    there = table.any(axis=1)
    return pairs.write(fresh(target / pairs.FOLDER), every[there], table[there], most)


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
    counts = partials.before(work, kind(config), cuts)
    asked = partials.before(work, pair_kind(config), cuts) if config.features.pairs else [[], []]
    items = Catalogue(work.draft / "items")
    hashes = np.empty(len(items), np.uint64)
    hashes[np.load(items.path / "hash_rows.npy")] = np.load(items.path / "hash.npy")
    happened = partial(events.read, work)
    metrics: dict[str, Any] = {}
    for i, (draft, cut) in enumerate(drafts):
        metrics = write(draft, state(counts[i], len(items), config, cut), names, config, items)
        metrics |= {
            "in_windows": write_windows(draft, happened, counts[i], config, cut),
            "pairs": write_pairs(draft, asked[i], config, cut, hashes),
        }
    return {name: value for name, value in metrics.items() if value or "items" in name}


if __name__ == "__main__":
    command(run, __doc__)
