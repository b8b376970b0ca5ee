"""
Makes a data set out of any Parquet, CSV or JSON tables, by a mapping file (`jobs.mapping`).

The data set appears whole or not at all. Rows come in the order of the contract: events by
timestamp, event id and arrival. Nothing is lost silently: the summary says how many rows each
slice read, left out and wrote, and how many values could not be converted and are null now.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from rich.console import Console, Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from funnel.config import load as load_config
from funnel.dataset import ACCEPTED, REJECTED, TABLES, VALIDATION, convertible, row_count, shown
from funnel.errors import BadConfig, BadData, FunnelError
from jobs.mapping import FORMATS, TYPES, Made, Slice, load
from jobs.tables import FILE, ROW, arrow_types, col, converted, instants, literal, replace, write

SLICE = "__slice"
SUFFIXES = {
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), "json"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
}


@dataclass(frozen=True, slots=True)
class Read:
    """What one slice did. `lost`: column -> values that could not be converted."""

    table: str
    source: str
    rows: int
    left_out: int  # by `where`
    repeated: int  # by `distinct`
    written: int
    lost: dict[str, int]


@dataclass(frozen=True, slots=True)
class Summary:
    """Plain values all the way, so that it turns into JSON. `tables`: name -> rows."""

    data: str
    tables: dict[str, int]
    slices: tuple[Read, ...]

    def __rich__(self) -> RenderableType:
        grid = Grid(title=f"data set {self.data}", title_justify="left", header_style="bold")
        for name in ("table", "from", "rows", "left out", "repeated", "written", "became null"):
            right = name not in ("table", "from", "became null")
            grid.add_column(name, justify="right" if right else "left", overflow="fold")
        for s in self.slices:
            numbers = (f"{n:,}" for n in (s.rows, s.left_out, s.repeated, s.written))
            lost = ", ".join(f"{name}: {count:,}" for name, count in s.lost.items())
            grid.add_row(s.table, Text(s.source), *numbers, Text(lost))
        return Group(grid, Text(f"Next: funnel validate {self.data}"))


def import_tables(
    spark: SparkSession,
    source: Path,
    data: Path,
    mapping: Path,
    progress: Callable[[str], None] = lambda _: None,
) -> Summary:
    """Writes the data set `data` from the tables in (or the one file) `source`.

    A data set that is there already is replaced. Raises `BadConfig` where the mapping is wrong or
    names what the source does not have, `BadData` where the source cannot be read or converted.
    """
    spark.conf.set("spark.sql.session.timeZone", "UTC")
    spark.conf.set("spark.sql.legacy.parquet.nanosAsLong", "true")
    _replaceable(source, data)
    cut = {
        name: [
            Cut.of(spark, source, f"{mapping}: [[{name}]] no. {number}", name, part)
            for number, part in enumerate(slices, 1)
        ]
        for name, slices in load(mapping).tables.items()
    }
    for cuts in cut.values():
        _agree(cuts)
    fresh = data.with_name(f".{data.name}.importing")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir(parents=True)
    except OSError as error:
        raise BadData(f"cannot write {fresh}: {error}") from error
    try:
        slices, rows = [], {}
        for name, cuts in cut.items():
            progress(f"importing {name}")
            slices += [one.count() for one in cuts]
            path = fresh / name
            with _blamed(cuts[0].where if len(cuts) == 1 else f"{mapping}: [[{name}]]"):
                frames = [
                    one.rows().withColumn(SLICE, F.lit(place)) for place, one in enumerate(cuts)
                ]
                both = reduce(_append, frames)
                order = [key for key in TABLES[name].order if key in both.columns]
                write(both, path, [*order, SLICE, FILE, ROW])
            rows[name] = row_count(path)
        replace(fresh, data)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return Summary(str(data), rows, tuple(slices))


def _replaceable(source: Path, data: Path) -> None:
    """Only what an import or a validation wrote may be replaced."""
    if not source.exists():
        raise BadData(f"no source in {source}: no such file or directory")
    if data.resolve() == source.resolve() or data.resolve() in source.resolve().parents:
        raise BadData(f"the data set {data} must lie outside of its source {source}")
    if data.exists() and not data.is_dir():
        raise BadData(f"{data} is a file: name a directory for the data set")
    ours = {*TABLES, ACCEPTED, REJECTED, VALIDATION}
    foreign = sorted(path.name for path in data.iterdir()) if data.exists() else []
    foreign = [name for name in foreign if name not in ours]
    if foreign:
        raise BadData(
            f"{data} holds '{foreign[0]}', which no import wrote: name another directory, "
            "or move it away"
        )


@contextmanager
def _blamed(where: str) -> Iterator[None]:
    """Spark's errors as ours, with the place in the mapping."""
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        raise BadData(f"{where}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The part of a Spark error that says what is wrong, on one line."""
    if isinstance(error, Py4JJavaError):
        cause = error.java_exception
        while cause.getCause() is not None:
            cause = cause.getCause()
        text = str(cause.getMessage())
    else:
        text = str(error)
    lines = (line.strip() for line in text.splitlines())
    said = [line for line in lines if line and not line.startswith(("==", "JVM stack", "at "))]
    return " ".join(said[:2]) + "; `try_cast` and `try_to_timestamp` give null instead of an error"


def _append(first: DataFrame, second: DataFrame) -> DataFrame:
    return first.unionByName(second, allowMissingColumns=True)


@dataclass(frozen=True, eq=False)
class Cut:
    """One slice, ready to run: its source, its columns before and after the conversion."""

    where: str
    table: str
    part: Slice
    frame: DataFrame  # the source, with FILE and ROW
    keep: Column  # rows for which it is true
    made: dict[str, Column]
    types: dict[str, pa.DataType]  # of `made`
    wanted: dict[str, pa.DataType]

    @staticmethod
    def of(spark: SparkSession, source: Path, where: str, table: str, part: Slice) -> Cut:
        frame = _source(spark, source, where, part)
        keep = F.lit(True)
        if part.where is not None:
            keep = _expression(frame, f"{where}, where", part.where)
        columns = part.columns or {
            name: Made.model_validate({"from": name})
            for name in frame.columns
            if name not in (FILE, ROW)
        }
        made = {n: _column(frame, f"{where}, column '{n}'", m) for n, m in columns.items()}
        for name in (*TABLES[table].required, *part.distinct):
            if name not in made:
                raise BadConfig(
                    f"{where}: the column '{name}' is missing; it makes: {', '.join(made)}"
                )
        types = arrow_types(frame.select(*(c.alias(name) for name, c in made.items())))
        wanted = {}
        for name, stored in types.items():
            known, asked = TABLES[table].column(name), columns[name].type
            wanted[name] = known.type if known else TYPES[asked] if asked else stored
            if not convertible(stored, wanted[name], name):
                raise BadConfig(
                    f"{where}, column '{name}': {shown(stored)} cannot become "
                    f"{shown(wanted[name])}; convert it in an `expr`"
                )
        return Cut(where, table, part, frame, keep, made, types, wanted)

    def typed(self) -> dict[str, Column]:
        return {n: converted(c, self.types[n], self.wanted[n]) for n, c in self.made.items()}

    def rows(self) -> DataFrame:
        """The rows to write, with FILE and ROW."""
        columns = (value.alias(name) for name, value in self.typed().items())
        rows = self.frame.where(self.keep).select(*columns, FILE, ROW)
        if not self.part.distinct:
            return rows
        first = Window.partitionBy(*map(col, self.part.distinct)).orderBy(FILE, ROW)
        ranked = rows.withColumn("__place", F.row_number().over(first))
        return ranked.where("__place = 1").drop("__place")

    def count(self) -> Read:
        """What the slice reads and writes."""
        typed = self.typed()
        changed = [n for n in typed if self.types[n] != self.wanted[n]]
        lost = [
            F.count_if(self.keep & self.made[n].isNotNull() & typed[n].isNull()) for n in changed
        ]
        distinct = F.lit(0)
        if self.part.distinct:
            key = F.struct(*(typed[name] for name in self.part.distinct))
            distinct = F.count_distinct(F.when(self.keep, key))
        with _blamed(self.where):
            row = self.frame.agg(F.count(F.lit(1)), F.count_if(self.keep), distinct, *lost).first()
        assert row is not None
        rows, kept = row[0], row[1]
        written = row[2] if self.part.distinct else kept
        nulls = {name: n for name, n in zip(changed, row[3:], strict=True) if n}
        source = self.part.source
        return Read(self.table, source, rows, rows - kept, kept - written, written, nulls)


def _agree(cuts: list[Cut]) -> None:
    """A column has one type in all the slices of a table."""
    first: dict[str, Cut] = {}
    for cut in cuts:
        for name, kind in cut.wanted.items():
            other = first.setdefault(name, cut)
            if other.wanted[name] != kind:
                raise BadConfig(
                    f"{cut.where}, column '{name}' is {shown(kind)}, but "
                    f"{shown(other.wanted[name])} in {other.where}: give both the same `type`"
                )


def _source(spark: SparkSession, source: Path, where: str, part: Slice) -> DataFrame:
    """The file, folder or files of a slice, with FILE and ROW: the order of arrival."""
    root = source if source.is_dir() else source.parent
    found = sorted(root.glob(part.source)) if not (root / part.source).exists() else []
    paths = found or [root / part.source]
    if not paths[0].exists():
        there = ", ".join(sorted(path.name for path in root.iterdir())) or "nothing"
        raise BadData(f"{where}: there is no '{part.source}' in {root}; there is: {there}")
    kind = part.format or _format(paths[0])
    if kind is None:
        raise BadConfig(
            f"{where}: cannot tell the format of '{part.source}' by its name; "
            f"set `format` to one of: {', '.join(FORMATS)}"
        )
    spark.conf.set("spark.sql.session.timeZone", "UTC")
    spark.conf.set("spark.sql.legacy.parquet.nanosAsLong", "true")
    reader = spark.read.option("mergeSchema", "true")
    if kind != "parquet":  # a line that does not fit is an error, not a row of nulls
        reader = reader.option("mode", "FAILFAST")
    if kind == "csv":
        tab = ".tsv" in paths[0].suffixes
        reader = reader.options(header=True, multiLine=True, escape='"', sep="\t" if tab else ",")
    with _blamed(where):
        frame = reader.format(kind).load([literal(path) for path in paths])
        place = F.col("_metadata.row_index")
        if kind != "parquet":  # rises within a block; a block's number is its place in the file
            place = F.struct("_metadata.file_block_start", F.monotonically_increasing_id())
        frame = frame.select("*", F.col("_metadata.file_path").alias(FILE), place.alias(ROW))
        return instants(frame, paths) if kind == "parquet" else frame


def _format(path: Path) -> str | None:
    if path.is_dir():
        inside = (p for p in sorted(path.rglob("*")) if p.is_file() and p.name[0] not in "._")
        return next((kind for kind in map(_format, inside) if kind), None)
    return next((SUFFIXES[s] for s in reversed(path.suffixes) if s in SUFFIXES), None)


def _column(frame: DataFrame, where: str, made: Made) -> Column:
    if made.const is not None:
        return F.lit(made.const)
    if made.expr is not None:
        return _expression(frame, where, made.expr)
    if made.source not in frame.columns:
        known = ", ".join(name for name in frame.columns if name not in (FILE, ROW))
        raise BadConfig(f"{where}: the source has no column '{made.source}'; it has: {known}")
    return col(str(made.source))


def _expression(frame: DataFrame, where: str, text: str) -> Column:
    """The expression, checked against the columns that there are."""
    try:
        expression = F.expr(text)
        frame.select(expression).schema  # noqa: B018  # analyses it
        return expression
    except PySparkException as error:
        said = _reason(error).split("; `try_cast`")[0]
        raise BadConfig(f"{where}: `{text}`: {said}") from error


def main(
    source: Annotated[Path, typer.Argument(help="Directory (or one file) of the source.")],
    data: Annotated[Path, typer.Argument(help="Data set to write.")],
    mapping: Annotated[Path, typer.Option("--map", help="TOML file that maps the columns.")],
    config: Annotated[Path | None, typer.Option("--config", "-c", help="TOML file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, no tables.")] = False,
) -> None:
    """Make a data set out of any Parquet, CSV or JSON tables."""
    from jobs.spark import session

    build = load_config(config).build
    spark = session(build.master, build.driver_memory)
    summary = import_tables(spark, source, data, mapping, Console(stderr=True).print)
    if as_json:
        print(json.dumps(asdict(summary)))
    else:
        Console().print(summary)


if __name__ == "__main__":
    try:
        typer.run(main)
    except FunnelError as error:
        sys.exit(f"error: {error}")
