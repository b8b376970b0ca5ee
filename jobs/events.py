"""
The events as the other jobs read them: items as rows, actions as codes.

Writes tables/events: user_id, row, action (code), timestamp, event_id, session_id, request_id,
scene, query, position; each file in the order of timestamp and event id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyspark.sql import Column, DataFrame, Observation
from pyspark.sql import functions as F

from funnel.errors import BadData
from jobs.command import command
from jobs.fresh import removed
from jobs.tables import literal, load
from jobs.work import Work

KEPT = ("event_id", "session_id", "request_id", "scene", "query", "position")
ORDER = ("timestamp", "event_id", "user_id", "row", "action")  # total, so that builds repeat


def code(action: Column, actions: Sequence[str]) -> Column:
    """The place of an action's name in `actions`, null for others."""
    known = F.array(*(F.lit(name) for name in actions))
    return F.nullif(F.array_position(known, action), F.lit(0)).cast("int") - 1


def resolved(events: DataFrame, rows: DataFrame, actions: Sequence[str]) -> DataFrame:
    """Events with `row` for their item and the `action`'s code, either null where unknown.

    `rows` has item_id and row. Nothing is left out.
    """
    events = events.withColumn("action", code(F.col("action"), actions))
    columns = ["user_id", "row", "action", "timestamp", *KEPT]
    return events.join(rows, "item_id", "left").select(*columns)


def read(work: Work) -> DataFrame:
    """The table that this job writes. Raises `BadData` before it ran."""
    path = work.tables / "events"
    if not path.is_dir():
        raise BadData(f"{path} is missing: run `python -m jobs.events {work.data}` first")
    return work.spark.read.parquet(literal(path))


def positives(weights: Mapping[str, float], actions: Sequence[str]) -> Column:
    """The weight of the column `action` as a label: 0 for what is not positive."""
    weight = F.lit(0.0)
    for name, value in weights.items():
        weight = F.when(F.col("action") == actions.index(name), float(value)).otherwise(weight)
    return weight


def item_rows(work: Work) -> DataFrame:
    """item_id and row of every item. Raises `BadData` before the job `items` ran."""
    path = work.tables / "item_rows"
    if not path.is_dir():
        raise BadData(f"{path} is missing: run `python -m jobs.items {work.data}` first")
    return work.spark.read.parquet(literal(path))


def run(work: Work) -> dict[str, Any]:
    target = removed(work.tables / "events")
    if not work.has("events"):
        return {}
    actions = work.config.all_actions
    found = resolved(load(work.spark, work.data, "events"), item_rows(work), actions)
    seen = Observation("events")
    unknown = F.col("action").isNull()
    found = found.observe(
        seen,
        F.count(F.lit(1)).alias("events"),
        F.count(F.when(unknown, 1)).alias("unknown_actions"),
        F.count(F.when(F.col("row").isNull(), 1)).alias("unknown_items"),
    )
    known = found.where(F.col("action").isNotNull() & F.col("row").isNotNull())
    known.sortWithinPartitions(*ORDER).write.parquet(str(target))
    return {name: int(value) for name, value in seen.get.items()}


if __name__ == "__main__":
    command(run, __doc__)
