"""
Training requests out of events, point in time: what was asked, what the user had done before, and
what the user did then.

A request is what events share a request id; where they have none, what a user looked at after
typing one query in one session; without a query either, each positive event is a request by itself.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from features.fold import IMPRESSION
from funnel.config import Config
from jobs.events import positives
from jobs.user_stats import NEWEST

HOUR_MS = 3_600_000  # what a user does within it belongs to a request
VISIT_MS = HOUR_MS // 2  # conversions in the same session count for what was shown this long before


def keyed(events: DataFrame, config: Config) -> DataFrame:
    """Events with `weight` (as a label), `scene` and `text` (never null), and the request they
    belong to: `request`, null where they do not, and `alone` where one event is the request."""
    text = F.trim(F.regexp_replace(F.coalesce("query", F.lit("")), r"\s+", " "))
    weight = positives(config.data.positive, config.all_actions)
    visit = F.concat_ws("\n", F.coalesce("session_id", "user_id"), F.col("text"))
    own = F.concat(F.lit("event-"), F.hex(F.xxhash64("user_id", "row", "action", "timestamp")))
    named = F.nullif(F.col("request_id"), F.lit(""))
    shared = F.coalesce(named, F.when(F.col("text") != "", visit))
    scene = F.coalesce(
        F.nullif(F.col("scene"), F.lit("")),
        F.when(F.col("text") != "", "search").otherwise("home"),
    )
    return (
        events.withColumns({"text": text, "weight": weight})
        .withColumn("scene", scene)
        .withColumn("alone", shared.isNull())
        .withColumn("request", F.coalesce(shared, F.when(F.col("weight") > 0, own)))
    )


def asked(events: DataFrame, config: Config, since: int, before: int) -> DataFrame:
    """The requests in [since, before) that led to something positive, at most `build.requests` a
    scene: request, scene, user_id, session_id, text, alone, at (their first event, epoch ms).

    Which ones are kept depends on their ids and the build's seed alone.
    """
    scenes = [name for name in config.scenes if name != "similar"]  # `similar` asks about an item
    inside = events.where(F.col("timestamp").between(since, before - 1))
    inside = inside.where(F.col("request").isNotNull() & F.col("scene").isin(scenes))
    found = inside.groupBy("request", "scene").agg(
        F.min("user_id").alias("user_id"),
        F.min("session_id").alias("session_id"),
        F.max("text").alias("text"),
        F.max("alone").alias("alone"),
        F.min("timestamp").alias("at"),
        F.max("weight").alias("best"),
    )
    drawn = Window.partitionBy("scene").orderBy(
        F.xxhash64(F.lit(config.build.seed), "request"), "request"
    )
    place = F.row_number().over(drawn)
    chosen = found.where("best > 0").withColumn("place", place)
    return chosen.where(F.col("place") <= config.build.requests).drop("place", "best")


def surrounded(requests: DataFrame, events: DataFrame, config: Config, before: int) -> DataFrame:
    """Requests with what their users did before and after.

    history_rows, history_actions, history_times: the newest `features.history` actions strictly
    before `at`, oldest first. `after`: the request's own events and the user's positive ones within
    an hour, all before the cut, as (timestamp, row, weight, position, own, visit).
    """
    event = events.select(
        "user_id",
        F.col("request").alias("of"),
        F.col("session_id").alias("session"),
        *("row", "action", "timestamp", "event_id", "weight", "position"),
    )
    impression = config.all_actions.index(IMPRESSION)
    own = F.coalesce(F.col("of") == F.col("request"), F.lit(False))
    time, at = F.col("timestamp"), F.col("at")
    earlier = (time < at) & (F.col("action") != impression)
    later = time.between(at, F.least(at + HOUR_MS, F.lit(before - 1)))
    both = event.join(F.broadcast(requests), "user_id").where(
        earlier | (later & (own | (F.col("weight") > 0)))
    )
    key = [F.col(name) for name in requests.columns]
    newest = Window.partitionBy("scene", "request").orderBy(
        *(F.desc_nulls_last(name) for name in NEWEST)
    )
    both = both.withColumn("place", F.count(F.when(time < at, 1)).over(newest))
    both = both.where((time >= at) | (F.col("place") <= config.features.history))
    visit = F.coalesce(F.col("session") == F.col("session_id"), F.lit(False))
    entry = F.struct(
        *("timestamp", "row", "weight", "position"),
        own.alias("own"),
        (visit & (time <= at + VISIT_MS)).alias("visit"),
    )
    done = F.struct(-F.col("place").alias("place"), "row", "action", "timestamp")
    listed = both.groupBy(*key).agg(
        _sorted(F.when(time < at, done)).alias("done"),
        _sorted(F.when(time >= at, entry)).alias("after"),
    )
    return listed.select(
        *key,
        F.col("done.row").alias("history_rows"),
        F.col("done.action").cast("array<tinyint>").alias("history_actions"),
        F.col("done.timestamp").alias("history_times"),
        "after",
    )


def _sorted(entry: Column) -> Column:
    """The entries that are not null, in the order of their first field."""
    return F.sort_array(F.collect_list(entry))
