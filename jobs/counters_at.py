"""
Live counters of candidates as of their requests: exact, by Spark windows.

The same numbers as `features.counts.Counts` with the events before the request folded in: items by
half-lives and in windows of whole buckets, and pairs of a query's text and an item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from features.fold import (
    counted,
    counter_names,
    longest,
    pair_names,
    span_ms,
    text_hash,
    user_names,
    window_names,
    windows_of,
)
from funnel.config import Config
from jobs.item_stats import counters

KIND, TIME, TEXT = "__kind", "__time", "__text"


def counters_at(
    candidates: DataFrame, events: DataFrame, config: Config, landmark: int
) -> DataFrame:
    """Candidates (`row`, `at` and any other columns) with the counters as `live.<action>.<days>d`
    and `live.<action>.in<window>`.

    An event counts where it is strictly before `at`, and `features.settle_ms` old at least. The
    landmark should be amid the requests: 1,000 half-lives away from it, powers run over.
    """
    added = counters(config, landmark)
    both, known = _together(candidates, events, config, added, ("row",))
    days = config.features.half_lives * (len(added) // len(config.features.half_lives))
    values = {
        name: (F.col(f"`{name}`") * _fallen(F.col("at"), landmark, half_life)).cast("float")
        for name, half_life in zip(added, days, strict=True)
    }
    both = both.withColumns({name: _sum(F.col(f"`{name}`"), known) for name in added})
    inside = _windows(config, known)
    summed = both.withColumns(inside).where(F.col(KIND) == 1)
    values |= {name: F.greatest(F.col(f"`{name}`"), F.lit(0)).cast("float") for name in inside}
    return _with(summed, candidates, values)


def pairs_at(candidates: DataFrame, events: DataFrame, config: Config, landmark: int) -> DataFrame:
    """Candidates (`row`, `at`, `text` and any other columns) with the counters of the request's
    text and the item as `pair.<action>.<days>d`, null where there is no text. Events have `query`.
    """
    days, actions = longest(config), counted(config)
    names = dict(zip(counter_names(actions, (days,)), pair_names(config), strict=True))
    added = {names[n]: column for n, column in counters(config, landmark).items() if n in names}
    events = events.where(F.trim(F.coalesce("query", F.lit(""))) != "")
    events = keyed(events, "query").withColumnRenamed("query", "__query")
    asked = keyed(candidates, "text")
    both, known = _together(asked, events, config, added, ("row", TEXT))
    both = both.withColumns({name: _sum(F.col(f"`{name}`"), known) for name in added})
    summed = both.where(F.col(KIND) == 1)
    fallen = _fallen(F.col("at"), landmark, days)
    values = {
        name: F.when(F.trim("text") != "", F.col(f"`{name}`") * fallen).cast("float")
        for name in added
    }
    return _with(summed, candidates, values)


def users_at(requests: DataFrame, events: DataFrame, config: Config) -> DataFrame:
    """Requests (`request`, `scene`, `user_id`, `at` and any other columns) with the counters of
    their users as `user.<action>.<days>d`: of every event strictly before `at`, for a user's own
    actions count at once. There should be few enough requests for every worker to hold them."""
    actions, span = counted(config), float(span_ms(longest(config)))
    codes = [config.all_actions.index(action) for action in actions]
    own = requests.select("request", "scene", "user_id", "at").where(F.col("user_id") != "")
    time, at = F.col("timestamp"), F.col("at")
    happened = events.where(F.col("action").isin(codes)).select("user_id", "action", "timestamp")
    known = happened.join(F.broadcast(own), "user_id").where(time < at)
    added = F.pow(F.lit(2.0), (time - at) / F.lit(span))
    names = user_names(config)
    sums = [
        F.sum(F.when(F.col("action") == code, added)).cast("float").alias(name)
        for code, name in zip(codes, names, strict=True)
    ]
    summed = known.groupBy("request", "scene").agg(*sums)
    values = {name: F.coalesce(F.col(f"`{name}`"), F.lit(0.0).cast("float")) for name in names}
    return requests.join(summed, ["request", "scene"], "left").withColumns(values)


def keyed(frame: DataFrame, column: str) -> DataFrame:
    """With `TEXT`, the hash of the text in a column as pairs know it, as a signed long."""
    hashed = F.udf(_signed, "long", useArrow=False)
    texts = frame.select(F.coalesce(column, F.lit("")).alias("__said")).distinct()
    texts = texts.withColumn(TEXT, hashed("__said"))
    joined = frame.join(texts, F.coalesce(frame[column], F.lit("")) == texts["__said"], "left")
    return joined.drop("__said")


def _signed(text: str) -> int:
    value = text_hash(text)
    return value - (1 << 64) if value >= 1 << 63 else value


def _together(
    candidates: DataFrame,
    events: DataFrame,
    config: Config,
    added: Mapping[str, Column],
    keys: Sequence[str],
) -> tuple[DataFrame, object]:
    """Candidates (`KIND` 1) and events (0) in one frame, with what each event adds, whether it is
    of each counted action, and when it happened (`TIME`; of a candidate the last moment that it
    knows). And the window of what a candidate knows."""
    last = F.least(F.col("at") - 1, F.col("at") - config.features.settle_ms)
    asked = candidates.withColumns({TIME: last, KIND: F.lit(1)})
    ones = {
        f"__{action}": F.when(F.col("action") == config.all_actions.index(action), 1)
        for action in counted(config)
    }
    happened = events.select(
        *keys,
        F.col("timestamp").alias(TIME),
        F.lit(0).alias(KIND),
        *(column.alias(name) for name, column in {**added, **ones}.items()),
    )
    so_far = Window.partitionBy(*keys).orderBy(TIME, KIND)  # an event before a request of its time
    so_far = so_far.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    return happened.unionByName(asked, allowMissingColumns=True), so_far


def _windows(config: Config, known: object) -> dict[str, Column]:
    """Counts in windows: of whole buckets, less what has happened since the last moment that is
    known. Buckets are those of `at`."""
    found: dict[str, Column] = {}
    for window in windows_of(config):
        time = F.when(F.col(KIND) == 1, F.col("at")).otherwise(F.col(TIME))
        bucket = F.floor(time / F.lit(window.width_ms)).cast("long")
        line = Window.partitionBy("row").orderBy(bucket)
        inside = line.rangeBetween(-(window.buckets - 1), Window.currentRow)
        ever = line.rangeBetween(Window.unboundedPreceding, Window.currentRow)
        for action in counted(config):
            one = F.col(f"`__{action}`")
            unknown = _sum(one, ever) - _sum(one, known)
            found[f"live.{action}.in{window.name}"] = _sum(one, inside) - unknown
    return {name: found[name] for name in window_names(config)}


def _sum(column: Column, over: object) -> Column:
    return F.coalesce(F.sum(column).over(over), F.lit(0))  # type: ignore[arg-type]


def _with(summed: DataFrame, candidates: DataFrame, values: Mapping[str, Column]) -> DataFrame:
    """The candidates' own columns and the values."""
    return summed.select(
        *(f"`{name}`" for name in candidates.columns),
        *(value.alias(name) for name, value in values.items()),
    )


def _fallen(at: Column, landmark: int, days: float) -> Column:
    """From a sum at the landmark to a count at `at`."""
    return F.pow(F.lit(2.0), (F.lit(landmark) - at) / F.lit(float(span_ms(days))))
