"""
What was counted of each partition of days, kept, so that another day costs about a day.

Sums by forward decay can be added up: those of a partition have its end as their landmark, and fall
to the cut when they are read. A partition that a cut lies in is summed up to the cut, each time.

    tables/partials/<kind>/<day>-<digest of what it is made of>.parquet
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema

from jobs import events
from jobs.events import Day
from jobs.fresh import removed
from jobs.work import Work

PART, LANDMARK = "part", "landmark"


@dataclass(frozen=True, slots=True)
class Kind:
    """A way of summing up. `make` gets events with the columns `part` and `landmark` (epoch ms, one
    for each part) and gives rows with `part`; `recipe` is all that it depends on beside them."""

    name: str
    recipe: str
    make: Callable[[DataFrame], DataFrame]


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of some days (without `part`) and the moment that their sums are of."""

    landmark: int
    rows: pa.Table


def before(work: Work, kind: Kind, cuts: Sequence[int]) -> list[list[Part]]:
    """For every cut what came before it, oldest first. Only days that are not kept are read."""
    days = events.days(work)
    needed = [day for day in days if day.end <= max(cuts)]
    kept = _kept(work, kind, needed)
    inside = _inside(work, kind, days, cuts)
    return [
        [Part(day.end, kept[day.name]) for day in needed if day.end <= cut]
        + [Part(cut, rows) for rows in inside[place : place + 1] if len(rows)]
        for place, cut in enumerate(cuts)
    ]


def _kept(work: Work, kind: Kind, days: Sequence[Day]) -> dict[str, pa.Table]:
    """Name -> rows of whole days, made where they are not there."""
    folder = work.tables / "partials" / kind.name
    folder.mkdir(parents=True, exist_ok=True)
    paths = {day.name: folder / f"{day.name}-{_digest(kind, day)}.parquet" for day in days}
    lacking = [day for day in days if not paths[day.name].is_file()]
    if lacking:
        _make(work, kind, lacking, paths)
    known = {day.name for day in events.days(work)}
    for file in folder.glob("*.parquet"):
        day = file.name.rsplit("-", 1)[0]
        if file != paths.get(day, file) or day not in known:
            file.unlink()  # of other events than there are
    return {name: pq.read_table(path) for name, path in paths.items()}


def _digest(kind: Kind, day: Day) -> str:
    return blake2b(f"{kind.recipe}\n{day.key}".encode(), digest_size=10).hexdigest()


def _make(work: Work, kind: Kind, days: Sequence[Day], paths: Mapping[str, Path]) -> None:
    begin, end = min(day.begin for day in days), max(day.end for day in days)
    width = days[0].end - days[0].begin
    start = F.floor(F.col("timestamp") / F.lit(width)) * F.lit(width)
    happened = events.read(work, begin, end).withColumns(
        {
            PART: F.date_format(F.timestamp_millis(start), "yyyy-MM-dd"),
            LANDMARK: start + F.lit(width),
        }
    )
    happened = happened.where(F.col(PART).isin([day.name for day in days]))
    found, draft = kind.make(happened), removed(work.tables / "partials" / f".{kind.name}")
    # One file a day; days are many, so they spread over the workers by themselves.
    found.repartition(PART).write.partitionBy(PART).parquet(str(draft))
    empty = to_arrow_schema(found.drop(PART).schema).empty_table()
    for day in days:
        files = sorted((draft / f"{PART}={day.name}").glob("*.parquet"))
        tables = [pq.ParquetFile(file).read() for file in files] or [empty]
        fresh = paths[day.name].with_suffix(".new")
        pq.write_table(pa.concat_tables(tables), fresh, compression="zstd")
        fresh.replace(paths[day.name])
    removed(draft)


def _inside(work: Work, kind: Kind, days: Sequence[Day], cuts: Sequence[int]) -> list[pa.Table]:
    """For every cut the part of its day before it, in one run."""
    frames = []
    for place, cut in enumerate(cuts):
        for day in days:
            if day.begin < cut < day.end:
                frame = events.read(work, day.begin, day.end)
                frame = frame.where(F.col("timestamp").between(day.begin, cut - 1))
                about = {PART: F.lit(str(place)), LANDMARK: F.lit(cut)}
                frames.append(frame.withColumns(about))
    if not frames:
        return [pa.table({})] * len(cuts)
    found = kind.make(reduce(DataFrame.unionByName, frames)).toArrow()
    part = found.column(PART)
    found = found.drop_columns([PART])
    return [found.filter(pc.equal(part, str(place))) for place in range(len(cuts))]
