"""
Live counters of candidates as of their requests: exact, by a Spark window.

The same numbers as `features.fold.ItemCounters` with the events before the request folded in.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from features.fold import counted, counter_names, span_ms
from funnel.config import Config
from jobs.item_stats import counters

KIND, TIME = "__kind", "__time"


def counters_at(
    candidates: DataFrame, events: DataFrame, config: Config, landmark: int
) -> DataFrame:
    """Candidates (`row`, `at` and any other columns) with the counters as `live.<action>.<days>d`.

    An event counts where it is strictly before `at`, and `features.settle_ms` old at least. The
    landmark should be amid the requests: 1,000 half-lives away from it, powers run over.
    """
    known = F.least(F.col("at") - 1, F.col("at") - config.features.settle_ms)
    asked = candidates.withColumns({TIME: known, KIND: F.lit(1)})
    added = counters(config, landmark)
    happened = events.select(
        "row", F.col("timestamp").alias(TIME), F.lit(0).alias(KIND), *_named(added)
    )
    so_far = Window.partitionBy("row").orderBy(TIME, KIND)  # an event before a request of its time
    so_far = so_far.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    both = happened.unionByName(asked, allowMissingColumns=True)
    sums = {name: F.coalesce(F.sum(f"`{name}`").over(so_far), F.lit(0.0)) for name in added}
    summed = both.withColumns(sums).where(F.col(KIND) == 1)
    return summed.select(
        *(f"`{name}`" for name in candidates.columns),
        *(
            (F.col(f"`{name}`") * _fallen(F.col("at"), landmark, days)).cast("float").alias(name)
            for name, days in zip(added, _days(config), strict=True)
        ),
    )


def _named(columns: dict[str, Column]) -> list[Column]:
    return [column.alias(name) for name, column in columns.items()]


def _fallen(at: Column, landmark: int, days: float) -> Column:
    """From a sum at the landmark to a count at `at`."""
    return F.pow(F.lit(2.0), (F.lit(landmark) - at) / F.lit(float(span_ms(days))))


def _days(config: Config) -> Sequence[float]:
    """The half-life of every counter, in the counters' order."""
    half_lives = config.features.half_lives
    return half_lives * (len(counter_names(counted(config), half_lives)) // len(half_lives))
