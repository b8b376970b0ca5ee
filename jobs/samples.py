"""
What prerank and rank learn from: training requests with the candidates that recall gave them.

The generation that is asked knows what came before `past`, the history and the live counters of a
request what came before it, so a sample sees nothing of its future. Only candidates that recall
returned are there, as in serving; how many of the positive ones it returned is a metric. With
`build.from_log` (`--from-log DIR`) the samples are what a log says was scored (jobs/logged.py).

Writes samples/<scene>/{requests,candidates}/, in the form of the request log.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
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
from jobs.spark import map_batches
from jobs.tables import literal
from jobs.work import Work


def recalled(work: Work, path: Path) -> DataFrame:
    """The candidates of the requests in `path`, one row each, from Spark's workers."""
    config = work.config
    channels = {name for scene in config.scenes.values() for name in scene.recall.channels}
    recall = Recalled(
        str(work.past_draft),
        evidence(sorted(channels)),
        config.build.negatives,
        config.build.seed,
        {str(kind): share for kind, share in config.build.negative_kinds.items()},
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
    work.progress(f"samples: recall for {len(asked)} requests")
    frame = recalled(work, requests.path(work))
    if work.has("events"):
        middle = (work.past + work.until) // 2
        before = events.read(work).where(F.col("timestamp") < work.until)
        frame = counters_at(frame, before, config, middle)
        if config.features.pairs:
            said = work.spark.read.parquet(literal(requests.path(work)))
            frame = frame.join(said.select("request_id", "text"), "request_id", "left")
            frame = pairs_at(frame, before, config, middle).drop("text")
    candidates = frame.toArrow()
    candidates = candidates.sort_by(
        [("request_id", "ascending"), ("score", "descending"), ("row", "ascending")]
    )
    return _split(work, asked, candidates)


def _split(work: Work, table: pa.Table, candidates: pa.Table) -> dict[str, Any]:
    """Writes each scene's part, and says how much of what was wanted is there."""
    metrics: dict[str, Any] = {}
    names = [name for name, _ in requests.OUTCOME]
    counters = live_names(work.config)
    for name, scene in work.config.scenes.items():
        own = table.filter(pc.equal(table.column("scene"), name))
        if not len(own):
            continue
        part = candidates.filter(pc.equal(candidates.column("scene"), name))
        used = set(evidence(list(scene.recall.channels))) | set(counters)
        used |= {"request_id", "row", "score", "label", "position"}
        part = part.select([column for column in part.column_names if column in used])
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
        wanted = int(_positive(pc.list_flatten(own.column("labels"))).sum())
        returned = int(_positive(part.column("label")).sum())
        metrics[name] = {
            "requests": len(own),
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
