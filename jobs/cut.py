"""Where a build cuts time: what it may know, and what its samples are taken from."""

from __future__ import annotations

from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from funnel.config import Config
from funnel.errors import BadData
from jobs.happened import happened, known
from jobs.tables import load

ACCURACY = 10_000  # of the quantiles: a ten-thousandth of the events


def cuts(spark: SparkSession, data: Path, config: Config, until: int | None) -> tuple[int, int]:
    """(past, until) in epoch ms.

    `until`, where it is not given, is the time that `build.holdout` of the events come after;
    `past` begins the last `build.sample_share` of the events before that.
    """
    share = 1.0 - config.build.sample_share
    if known(data, config):
        times = happened(spark, data, config).select("timestamp")
        if until is None:
            kept = 1.0 - config.build.holdout
            begin, end = quantiles(times, [kept * share, kept])
        else:
            (begin,) = quantiles(times.where(F.col("timestamp") < until), [share])
            end = until
        if begin is not None and end is not None:
            return min(begin, end - 1), end
        if until is not None:
            raise BadData(f"{data} has no event before {until}: choose a later cut")
    newest = _newest(load(spark, data, "items")) if until is None else until
    return newest, newest


def quantiles(times: DataFrame, shares: list[float]) -> list[int | None]:
    """For every share the time just after which (1 - share) of the rows lie; None without rows."""
    column: Column = F.percentile_approx("timestamp", shares, ACCURACY)
    row = times.agg(column.alias("at")).first()
    found = row["at"] if row is not None else None
    return [int(at) + 1 for at in found] if found else [None] * len(shares)


def _newest(items: DataFrame) -> int:
    """Just after the newest item was made, 0 where the items do not say."""
    if "created_at" not in items.columns:
        return 0
    row = items.agg(F.max("created_at").alias("at")).first()
    return int(row["at"]) + 1 if row is not None and row["at"] is not None else 0
