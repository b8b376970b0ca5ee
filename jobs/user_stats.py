"""
Histories of users as of the cut: what the live store is filled with when it is empty.

Adds to users/ of the draft, oldest first, no impressions: item_rows list<int32>, actions list<int8>
(codes), times list<int64> (epoch ms). With `features.users` also counts list<double>: decayed
counts of `features.fold.counted` actions at the cut, by the longest half-life.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from features.fold import IMPRESSION, counted, longest, span_ms
from funnel.catalogue import Catalogue, write_catalogue
from funnel.config import Config
from jobs import partials
from jobs.command import command
from jobs.fresh import removed
from jobs.items import roles
from jobs.partials import LANDMARK, PART, Kind, Part
from jobs.work import Work

COLUMNS = {
    "item_rows": pa.list_(pa.int32()),
    "actions": pa.list_(pa.int8()),
    "times": pa.list_(pa.int64()),
}
COUNTS = {"counts": pa.list_(pa.float64())}
NEWEST = ("timestamp", "event_id", "row", "action")
FORMAT = 1  # of what is kept of a day; another one where it means something else


def kind(config: Config) -> Kind:
    """What is kept of a day: of each user the newest `features.history` actions that are no
    impressions, with their `place` from 1, the newest, in the order of the live store."""
    impression, most = config.all_actions.index(IMPRESSION), config.features.history

    def make(happened: DataFrame) -> DataFrame:
        done = happened.where(F.col("action") != impression)
        order = [F.desc_nulls_last(name) for name in NEWEST]
        newest = Window.partitionBy(PART, "user_id").orderBy(*order)
        kept = done.withColumn("place", F.row_number().over(newest)).where(F.col("place") <= most)
        action = F.col("action").cast("tinyint").alias("action")
        return kept.select(PART, "user_id", "row", action, "timestamp", "place")

    return Kind("users", json.dumps([FORMAT, impression, most]), make)


def histories(parts: Sequence[Part], most: int) -> pa.Table:
    """One row a user: `user_id`, and the newest `most` actions, oldest first, as `COLUMNS`.

    The parts follow each other in time.
    """
    tables = [part.rows for part in parts] or [NONE.empty_table()]
    every = pa.concat_tables(tables)
    users = every.column("user_id").combine_chunks().dictionary_encode()
    codes = users.indices.to_numpy()
    number = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    order = np.lexsort((-every.column("place").to_numpy().astype(np.int64), number, codes))
    ends = np.cumsum(np.bincount(codes, minlength=len(users.dictionary)))
    order = order[ends[codes[order]] - np.arange(len(order)) <= most]
    sizes = np.bincount(codes[order], minlength=len(users.dictionary))
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    lists = {
        name: pa.ListArray.from_arrays(offsets, every.column(column).combine_chunks().take(order))
        for name, column in zip(COLUMNS, ("row", "action", "timestamp"), strict=True)
    }
    return pa.table({"user_id": users.dictionary, **lists})


NONE = pa.schema(
    [
        ("user_id", pa.string()),
        ("row", pa.int32()),
        ("action", pa.int8()),
        ("timestamp", pa.int64()),
        ("place", pa.int32()),
    ]
)


def count_kind(config: Config) -> Kind:
    """What is kept of a day: for each user `sum.a`, what the events of the counted action number a
    add at the landmark by the longest half-life."""
    codes = [config.all_actions.index(action) for action in counted(config)]
    span = span_ms(longest(config))

    def make(happened: DataFrame) -> DataFrame:
        ago = F.col("timestamp") - F.col(LANDMARK)
        added = F.pow(F.lit(2.0), ago / F.lit(float(span)))
        sums = [
            F.coalesce(F.sum(F.when(F.col("action") == code, added)), F.lit(0.0)).alias(f"sum.{a}")
            for a, code in enumerate(codes)
        ]
        return happened.where(F.col("action").isin(codes)).groupBy(PART, "user_id").agg(*sums)

    return Kind("user_counts", json.dumps([FORMAT, codes, span]), make)


def counts(parts: Sequence[Part], config: Config, cut: int) -> pa.Table:
    """One row a user: `user_id` and the counters at the cut, as `COUNTS`."""
    actions, span = len(counted(config)), span_ms(longest(config))
    names = [f"sum.{a}" for a in range(actions)]
    tables, sums = [pa.table({"user_id": pa.array([], pa.string())})], [np.empty((0, actions))]
    for part in parts:
        added = [part.rows.column(name).to_numpy() for name in names]
        sums.append(np.stack(added, axis=1) * 2.0 ** ((part.landmark - cut) / span))
        tables.append(part.rows.select(["user_id"]))
    users = pa.concat_tables(tables).column("user_id").combine_chunks().dictionary_encode()
    every, codes, n = np.concatenate(sums), users.indices.to_numpy(), len(users.dictionary)
    found = [np.bincount(codes, every[:, a], n) for a in range(actions)]
    values = pa.array(np.stack(found, axis=1).reshape(-1))
    offsets = np.arange(0, n * actions + 1, actions, dtype=np.int32)
    lists = pa.ListArray.from_arrays(offsets, values)
    return pa.table({"user_id": users.dictionary, "counts": lists})


def attached(users: Catalogue, table: pa.Table, found: pa.Table) -> pa.Table:
    """The users' table with the list columns of `found`; empty ones for users who are not there."""
    places = users.rows(found.column("user_id").to_pylist())
    index = np.full(len(users), -1, np.int64)
    index[places[places >= 0]] = np.flatnonzero(places >= 0)
    chosen = pa.array(index, mask=index < 0)
    for name, kind in (COLUMNS | COUNTS).items():
        if name in found.column_names:
            lists = found.column(name).cast(kind).combine_chunks().take(chosen)
            empty = pa.scalar([], kind)
            column = pc.if_else(lists.is_null(), empty, lists) if lists.null_count else lists
            table = table.append_column(name, column)
    return table


def run(work: Work) -> dict[str, Any]:
    if not work.has("events"):
        return {}
    config, most = work.config, work.config.features.history
    (parts,) = partials.before(work, kind(config), [work.until])
    found = histories(parts, most)
    target, new = work.draft / "users", removed(work.draft / ".users")
    users = Catalogue(target, key="user_id")
    own = [name for name in users.table.column_names if name not in COLUMNS | COUNTS]
    table = attached(users, users.table.select(own), found)
    if config.features.users:
        (parts,) = partials.before(work, count_kind(config), [work.until])
        table = attached(users, table, counts(parts, config, work.until))
    write_catalogue(new, table, roles(work).user_categorical, (), (), key="user_id")
    removed(target)
    new.rename(target)
    actions = pc.sum(pc.list_value_length(found.column("times"))).as_py() or 0
    return {"users_with_history": len(found), "actions": int(actions)}


if __name__ == "__main__":
    command(run, __doc__)
