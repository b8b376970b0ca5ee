"""
What prerank and rank learn from: training requests with the candidates that recall gave them.

The generation that is asked knows what came before `past`, the history and the live counters of a
request what came before it, so a sample sees nothing of its future. Only candidates that recall
returned are there, as in serving; how many of the positive ones it returned is a metric. Requests
to learn from are thinned out, those that validate are whole, so that what is decided by them holds
for what serving scores. With `build.from_log` (`--from-log DIR`) the samples are what a log says
was scored (jobs/logged.py).

Writes samples/<scene>/{requests,candidates}/, in the form of the request log.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from features.fold import live_names
from funnel.log import STREAMED
from funnel.types import Array
from jobs import events, logged, requests
from jobs.candidates import Recalled, evidence
from jobs.command import command
from jobs.counters_at import counters_at, pairs_at
from jobs.fresh import fresh, removed
from jobs.judged import CHANCE, Parted
from jobs.spark import map_batches
from jobs.tables import literal
from jobs.work import Work


def recalled(work: Work, path: Path, used: frozenset[str], whole: frozenset[str]) -> DataFrame:
    """The candidates of the requests in `path` that are `used`, one row each, from Spark's workers;
    all those of the requests `whole`."""
    config = work.config
    channels = {name for scene in config.scenes.values() for name in scene.recall.channels}
    recall = Recalled(
        str(work.past_draft),
        evidence(sorted(channels)),
        config.build.negatives,
        config.build.seed,
        {str(kind): share for kind, share in config.build.negative_kinds.items()},
        used,
        whole,
    )
    spark = work.spark
    parts = spark.sparkContext.defaultParallelism
    frame = spark.read.parquet(literal(path)).repartition(parts, "request_id")
    schema = from_arrow_schema(recall.schema)
    return map_batches(frame, recall, schema)


def run(work: Work) -> dict[str, Any]:
    config = work.config
    if config.build.from_log:
        return logged.run(work, Path(config.build.from_log))
    removed(work.root / "samples")
    asked = requests.table(work)
    if not len(asked):
        return {}
    parted = {
        name: Parted.among(work, name, own)
        for name in config.scenes
        if len(own := asked.filter(pc.equal(asked.column("scene"), name)))
    }
    whole = frozenset[str]().union(*(one.valid for one in parted.values()))
    used = whole.union(*(one.train for one in parted.values()))
    work.progress(f"samples: recall for {len(used)} requests")
    frame = recalled(work, requests.path(work), used, whole)
    if work.has("events"):
        middle = (work.past + work.until) // 2
        before = events.read(work).where(F.col("timestamp") < work.until)
        frame = counters_at(frame, before, config, middle)
        if config.features.pairs:
            said = work.spark.read.parquet(literal(requests.path(work)))
            frame = frame.join(said.select("request_id", "text"), "request_id", "left")
            frame = pairs_at(frame, before, config, middle).drop("text")
    place = work.tables / "recalled"
    frame.write.mode("overwrite").parquet(str(place))
    metrics = _split(work, asked, ds.dataset(place), used)
    removed(place)
    return metrics


def _split(
    work: Work, asked: pa.Table, candidates: ds.Dataset, used: frozenset[str]
) -> dict[str, Any]:
    """Writes each scene's part, and says how much of what was wanted is there."""
    metrics: dict[str, Any] = {}
    names = [name for name, _ in requests.OUTCOME]
    counters = live_names(work.config)
    for name, scene in work.config.scenes.items():
        own = asked.filter(pc.equal(asked.column("scene"), name))
        if not len(own):
            continue
        columns = {"request_id", "row", "score", "label", "position", CHANCE, *counters}
        columns |= set(evidence(list(scene.recall.channels)))
        part = candidates.to_table(
            [column for column in candidates.schema.names if column in columns],
            filter=ds.field("scene") == name,
        )
        part = part.sort_by(
            [("request_id", "ascending"), ("score", "descending"), ("row", "ascending")]
        )
        target = work.samples / name
        pq.write_table(
            part,
            fresh(target / "candidates") / "part-0.parquet",
            compression="zstd",
            row_group_size=STREAMED,
        )
        pq.write_table(
            own.drop_columns(names),
            fresh(target / "requests") / "part-0.parquet",
            compression="zstd",
        )
        mine = own.filter(pc.is_in(own.column("request_id"), pa.array(sorted(used), pa.string())))
        wanted = int(_positive(pc.list_flatten(mine.column("labels"))).sum())
        returned = int(_positive(part.column("label")).sum())
        metrics[name] = {
            "requests": len(mine),
            "candidates": len(part),
            "positives": wanted,
            f"recall@{scene.recall.keep}": round(returned / max(wanted, 1), 4),
        }
    return metrics


def _positive(labels: pa.ChunkedArray) -> Array:
    positive: Array = labels.to_numpy() > 0
    return positive


if __name__ == "__main__":
    command(run, __doc__, from_log=True)
