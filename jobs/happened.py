"""
All events that a build may know: those of the data set, and those that the live log's archive has.

An event id counts once, wherever it is from; what the data set says of it goes. Events of users who
were forgotten meanwhile are left out of both.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from hashlib import blake2b
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from funnel.config import Config
from funnel.dataset import accepted, digests, has
from funnel.forgotten import marks
from funnel.log import first_of
from jobs.tables import literal, load

COLUMNS = (
    "event_id",
    "user_id",
    "item_id",
    "action",
    "timestamp",
    "session_id",
    "request_id",
    "scene",
    "query",
    "position",
    "value",
)


def archive(config: Config) -> Path | None:
    """The folder of the archived events; None where there is none, or the config says so."""
    if not (config.build.archive and config.log.dir):
        return None
    folder = Path(config.log.dir) / "events"
    return folder if any(folder.glob("[0-9]*.parquet")) else None


def known(data: Path, config: Config) -> bool:
    """Whether there is any event."""
    return has(data, "events") or archive(config) is not None


def state(config: Config) -> str:
    """What the archive has and whom it forgot, as a digest: it changes when a build would."""
    folder, gone = archive(config), forgot(config)
    if folder is None and not gone:
        return ""
    files = sorted(digests(folder)) if folder is not None else []
    return blake2b(json.dumps([files, sorted(gone.items())]).encode(), digest_size=12).hexdigest()


def sources(data: Path, config: Config) -> dict[str, Path]:
    """All files, each by what it is: those of the data set, then those of the archive."""
    found = digests(accepted(data, "events")) if has(data, "events") else {}
    folder = archive(config)
    return found | (digests(folder) if folder is not None else {})


def lasting(file: Path, config: Config) -> bool:
    """Whether the file will be there the next time too: files of an hour of the archive that is not
    over become one. What was read of them is known by its event ids then."""
    return file.parent != archive(config) or bool(first_of(file))


def forgot(config: Config) -> dict[str, int]:
    """Whom the build must not read, and up to when."""
    return marks(Path(config.log.dir)) if config.build.archive and config.log.dir else {}


def happened(
    spark: SparkSession,
    data: Path,
    config: Config,
    files: Collection[Path] = (),
    present: DataFrame | None = None,
) -> DataFrame:
    """The events (of some of the files), with `COLUMNS` and what else the data set has. There must
    be any. `present` has the event ids that are there already: what the archive has of them does
    not come again."""
    folder = archive(config)
    theirs = [file for file in files if folder is not None and file.parent == folder]
    own = [file for file in files if file not in theirs]
    parts: list[DataFrame] = []
    if has(data, "events") and (own or not files):
        parts.append(load(spark, data, "events", own))
    if folder is not None and (theirs or not files):
        fresh = _archived(spark, theirs or [folder])
        for known in (*parts, *([present] if present is not None else [])):
            ids = known.select("event_id").where(F.coalesce("event_id", F.lit("")) != "")
            fresh = fresh.join(ids.distinct(), "event_id", "left_anti")
        parts.append(fresh)
    found = parts[0]
    for part in parts[1:]:
        found = found.unionByName(part, allowMissingColumns=True)
    return without(spark, found, forgot(config))


def without(spark: SparkSession, events: DataFrame, gone: dict[str, int]) -> DataFrame:
    """The events that do not belong to users who are gone."""
    if not gone:
        return events
    users = spark.createDataFrame(sorted(gone.items()), "__user string, __until long")
    found = events.withColumn("__user", F.sha2("user_id", 256))
    found = found.join(F.broadcast(users), "__user", "left")
    stays = F.col("__until").isNull() | (F.col("timestamp") > F.col("__until"))
    return found.where(stays).drop("__user", "__until")


def _archived(spark: SparkSession, files: Sequence[Path]) -> DataFrame:
    """Each event of the archive once: the one that arrived first."""
    frame = spark.read.parquet(*(literal(file) for file in files))
    first = Window.partitionBy("event_id").orderBy("received_at", "timestamp", "user_id", "item_id")
    once = frame.withColumn("__n", F.row_number().over(first)).where(F.col("__n") == 1)
    return once.select(*COLUMNS)
