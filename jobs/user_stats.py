"""
Histories of users as of the cut: what the live store is filled with when it is empty.

Adds to users/ of the draft, oldest first, no impressions: item_rows list<int32>, actions list<int8>
(codes), times list<int64> (epoch ms).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from features.fold import IMPRESSION
from funnel.catalogue import Catalogue, write_catalogue
from jobs import events
from jobs.command import command
from jobs.fresh import removed
from jobs.items import roles
from jobs.work import Work

COLUMNS = {
    "item_rows": pa.list_(pa.int32()),
    "actions": pa.list_(pa.int8()),
    "times": pa.list_(pa.int64()),
}
NEWEST = ("timestamp", "event_id", "row", "action")


def histories(events: DataFrame, impression: int, before: int, most: int) -> DataFrame:
    """One row a user: `user_id`, and the newest `most` actions before the cut, oldest first.

    In the order of timestamp, then event id, as the live store has them.
    """
    done = events.where((F.col("timestamp") < before) & (F.col("action") != impression))
    newest = Window.partitionBy("user_id").orderBy(*(F.desc_nulls_last(name) for name in NEWEST))
    kept = done.withColumn("place", F.row_number().over(newest)).where(F.col("place") <= most)
    entry = F.struct(-F.col("place").alias("place"), "row", "action", "timestamp")
    listed = kept.groupBy("user_id").agg(F.sort_array(F.collect_list(entry)).alias("done"))
    return listed.select(
        "user_id",
        F.col("done.row").alias("item_rows"),
        F.col("done.action").cast("array<tinyint>").alias("actions"),
        F.col("done.timestamp").alias("times"),
    )


def attached(users: Catalogue, histories: pa.Table) -> pa.Table:
    """The users' table with the history columns; empty lists for users who did nothing."""
    places = users.rows(histories.column("user_id").to_pylist())
    index = np.full(len(users), -1, np.int64)
    index[places[places >= 0]] = np.flatnonzero(places >= 0)
    chosen = pa.array(index, mask=index < 0)
    table = users.table
    for name, kind in COLUMNS.items():
        lists = histories.column(name).cast(kind).combine_chunks().take(chosen)
        empty = pa.scalar([], kind)
        column = pc.if_else(lists.is_null(), empty, lists) if lists.null_count else lists
        if name in table.column_names:
            table = table.drop_columns([name])
        table = table.append_column(name, column)
    return table


def run(work: Work) -> dict[str, Any]:
    if not work.has("events"):
        return {}
    impression = work.config.all_actions.index(IMPRESSION)
    most = work.config.features.history
    found = histories(events.read(work), impression, work.until, most).toArrow()
    target, new = work.draft / "users", removed(work.draft / ".users")
    table = attached(Catalogue(target, key="user_id"), found)
    write_catalogue(new, table, roles(work).user_categorical, (), (), key="user_id")
    removed(target)
    new.rename(target)
    actions = pc.sum(pc.list_value_length(found.column("times"))).as_py() or 0
    return {"users_with_history": len(found), "actions": int(actions)}


if __name__ == "__main__":
    command(run, __doc__)
