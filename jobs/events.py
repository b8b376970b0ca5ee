"""
The events as the other jobs read them: items as rows, actions as codes, in partitions of days.

Writes tables/events/day=<first day>/: user_id, row, action (code), timestamp, event_id, session_id,
request_id, scene, query, position; each file in the order of timestamp and event id. A partition is
as many whole days (UTC, a power of two) as make `build.day_events` events, and there are at most
`MOST` of them. Files that are added to the data set's events, or to the archive of the live log
(jobs/happened.py), are all that is read the next time, as long as the items are the same and no
file has changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

from pyspark.sql import Column, DataFrame, Observation
from pyspark.sql import functions as F

from features.fold import DAY_MS
from funnel.errors import BadData
from funnel.generation import write_text
from jobs.command import command
from jobs.fresh import removed
from jobs.happened import forgot, happened, lasting
from jobs.happened import sources as all_sources
from jobs.tables import literal
from jobs.work import Work

KEPT = ("event_id", "session_id", "request_id", "scene", "query", "position")
ORDER = ("timestamp", "event_id", "user_id", "row", "action")  # total, so that builds repeat
MOST = 256  # partitions
ABOUT = "_about.json"


@dataclass(frozen=True, slots=True)
class Table:
    """What the table was made from: `made` of items and actions, `sources` are the files, by their
    digests. `since` and `last` are the times of its first and last event, None without any."""

    made: str
    width: int  # ms, whole days
    sources: tuple[str, ...] = ()
    since: int | None = None
    last: int | None = None
    counts: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Day:
    """A partition: the events in [begin, end), epoch ms. `key` says what is in it."""

    name: str
    begin: int
    end: int
    key: str


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


def read(work: Work, since: int | None = None, before: int | None = None) -> DataFrame:
    """The table that this job writes; of the partitions only those that may hold events in
    [since, before). Raises `BadData` before it ran."""
    found = work.spark.read.parquet(literal(_there(work)))
    if since is not None or before is not None:
        chosen = [
            day.name
            for day in days(work)
            if (since is None or day.end > since) and (before is None or day.begin < before)
        ]
        found = found.where(F.date_format("day", "yyyy-MM-dd").isin(chosen))
    return found.drop("day")


def days(work: Work) -> list[Day]:
    """The partitions, oldest first. Raises `BadData` before the job ran."""
    path = _there(work)
    width = _about(path).width
    return [_day(folder, width) for folder in sorted(path.glob("day=*"))]


def _day(folder: Path, width: int) -> Day:
    name = folder.name.removeprefix("day=")
    begin = int(datetime.fromisoformat(f"{name}T00:00:00+00:00").timestamp()) * 1000
    files = sorted(f"{file.name}:{file.stat().st_size}" for file in folder.glob("*.parquet"))
    key = blake2b("\n".join([str(width), *files]).encode(), digest_size=12).hexdigest()
    return Day(name, begin, begin + width, key)


def _there(work: Work) -> Path:
    path = work.tables / "events"
    if not path.is_dir():
        raise BadData(f"{path} is missing: run `python -m jobs.events {work.data}` first")
    return path


def _about(path: Path) -> Table:
    try:
        found = json.loads((path / ABOUT).read_text())
        return Table(**found | {"sources": tuple(found["sources"])})
    except (FileNotFoundError, ValueError, TypeError, KeyError) as error:
        raise BadData(f"{path} was not finished: run the job `events` again") from error


def positives(weights: Mapping[str, float], actions: Sequence[str]) -> Column:
    """The weight of the column `action` as a label: 0 for what is not positive."""
    weight = F.lit(0.0)
    for name, value in weights.items():
        weight = F.when(F.col("action") == actions.index(name), float(value)).otherwise(weight)
    return weight


def item_rows(work: Work) -> DataFrame:
    """item_id and row of every item. Raises `BadData` before the job `items` ran."""
    return work.spark.read.parquet(literal(_item_rows(work)))


def _item_rows(work: Work) -> Path:
    path = work.tables / "item_rows"
    if not path.is_dir():
        raise BadData(f"{path} is missing: run `python -m jobs.items {work.data}` first")
    return path


def made_of(work: Work) -> str:
    """What rows and codes mean: the items, by their ids, and the actions; and who is left out."""
    state = blake2b(json.dumps(work.config.all_actions).encode(), digest_size=12)
    for file in sorted(_item_rows(work).glob("*.parquet")):
        state.update(file.read_bytes())
    state.update(Path(__file__).read_bytes())
    state.update(json.dumps(sorted(forgot(work.config).items())).encode())
    return state.hexdigest()


def wide(count: int, since: int, last: int, enough: int) -> int:
    """How many ms a partition is: days by the power of two that makes `enough` events of
    `count`, and no more than `MOST` partitions."""
    span, width = (last - since) // DAY_MS + 1, 1
    while span / width > 1 and (span / width > MOST // 2 or count * width / span < enough):
        width *= 2
    return width * DAY_MS


def run(work: Work) -> dict[str, Any]:
    target = work.tables / "events"
    if not work.has("events"):
        removed(target)
        return {}
    sources, made = all_sources(work.data, work.config), made_of(work)
    about = _kept(target, made, set(sources))
    if about is None:
        removed(target)
        about = Table(made, 0)
    new = {id: file for id, file in sources.items() if id not in about.sources}
    if new:
        about = _added(work, target, about, new)
    return dict(about.counts or {})


def _kept(target: Path, made: str, sources: set[str]) -> Table | None:
    """What the table is, if files may be added to it; None where it must be made anew."""
    try:
        about = _about(target)
    except BadData:
        return None
    same = about.made == made and set(about.sources) <= sources
    few = about.since is None or (_last(about) - about.since) // about.width < MOST
    return about if same and few and about.since is not None else None


def _last(about: Table) -> int:
    return about.last or 0


def _added(work: Work, target: Path, about: Table, new: Mapping[str, Path]) -> Table:
    """The table with what is in the `new` files too."""
    present = work.spark.read.parquet(literal(target)) if about.width else None
    kept = [id for id, file in new.items() if lasting(file, work.config)]
    every = happened(work.spark, work.data, work.config, [*new.values()], present)
    found = resolved(every, item_rows(work), work.config.all_actions)
    seen, fresh = _seen(every), about.width == 0
    if not seen["events"] and not fresh:  # all of them were there
        about = replace(about, sources=(*about.sources, *sorted(kept)))
        write_text(target / ABOUT, json.dumps(asdict(about)))
        return about
    since = min(seen["since"], about.since if about.since is not None else seen["since"])
    last = max(seen["last"], _last(about))
    width = about.width
    if fresh:
        width = wide(seen["events"], since, last, work.config.build.day_events)
    counted = Observation("events")
    unknown = F.col("action").isNull()
    found = found.observe(
        counted,
        F.count(F.lit(1)).alias("events"),
        F.count(F.when(unknown, 1)).alias("unknown_actions"),
        F.count(F.when(F.col("row").isNull(), 1)).alias("unknown_items"),
    )
    known = found.where(F.col("action").isNotNull() & F.col("row").isNotNull())
    begin = F.floor(F.col("timestamp") / F.lit(width)) * F.lit(width)
    day = F.date_format(F.timestamp_millis(begin), "yyyy-MM-dd")
    known = known.withColumn("day", day)
    draft = removed(work.tables / ".events")
    known.sortWithinPartitions("day", *ORDER).write.partitionBy("day").parquet(str(draft))
    name = blake2b("".join([about.made, str(width), *sorted(new)]).encode(), digest_size=8)
    target.mkdir(parents=True, exist_ok=True)
    (target / ABOUT).unlink(missing_ok=True)  # half-way through it is nobody's table
    for folder, number, file in _numbered(draft):
        (target / folder).mkdir(exist_ok=True)
        file.rename(target / folder / f"{name.hexdigest()}-{number:04}.parquet")
    removed(draft)
    counts = {key: int(counted.get[key]) + (about.counts or {}).get(key, 0) for key in counted.get}
    about = replace(
        about,
        width=width,
        sources=(*about.sources, *sorted(kept)),
        since=since,
        last=last,
        counts=counts,
    )
    write_text(target / ABOUT, json.dumps(asdict(about)))
    return about


def _seen(every: DataFrame) -> dict[str, int]:
    row = every.agg(
        F.count(F.lit(1)).alias("events"),
        F.coalesce(F.min("timestamp"), F.lit(0)).alias("since"),
        F.coalesce(F.max("timestamp"), F.lit(0)).alias("last"),
    ).first()
    assert row is not None  # an aggregate over everything has one row
    return {name: int(value) for name, value in row.asDict().items()}


def _numbered(draft: Path) -> Iterator[tuple[str, int, Path]]:
    for folder in sorted(draft.glob("day=*")):
        for number, file in enumerate(sorted(folder.glob("*.parquet"))):
            yield folder.name, number, file


if __name__ == "__main__":
    command(run, __doc__)
