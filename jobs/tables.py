"""The tables of a data set as Spark frames, in canonical types: what every job reads."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_type, to_arrow_type

from funnel.dataset import TABLES, accepted, plain, schema_of

FILE, ROW = "__file", "__row"  # where a row lay: the order of arrival
COMPLETE = ("events", "queries", "qrels")  # these have all their known columns, null where absent


def load(spark: SparkSession, data: Path, table: str, files: Sequence[Path] = ()) -> DataFrame:
    """The rows of a table (or of some of its files) that `funnel validate` accepted, in canonical
    types.

    Events, queries and qrels have every column that the contract knows (null where the data set
    lacks it); items and users those that the data set has. Other columns come along as they are.
    Rows have no order in Spark: sort events by `timestamp`, then `event_id`.
    Raises `BadData` where the data set was not validated or has changed since.
    """
    path = accepted(data, table)
    frame = raw(spark, path, schema_of(path), files).drop(FILE, ROW)
    known = TABLES[table]
    if table in COMPLETE:
        for column in known.columns:
            if column.name not in frame.columns:
                null = F.lit(None).cast(from_arrow_type(column.type))
                frame = frame.withColumn(column.name, null)
        names = [column.name for column in known.columns]
        frame = frame.select(*names, *(col(n) for n in frame.columns if n not in names))
    return frame


def raw(
    spark: SparkSession, path: Path, schema: pa.Schema, files: Sequence[Path] = ()
) -> DataFrame:
    """A table (or some of its files) as it is stored, with the columns FILE (a URI) and ROW.

    `schema` is `schema_of(path)`. Timestamps of any precision come as Spark timestamps in UTC.
    """
    spark.conf.set("spark.sql.session.timeZone", "UTC")
    spark.conf.set("spark.sql.legacy.parquet.nanosAsLong", "true")
    reader = spark.read.option("mergeSchema", "true")
    if files:  # what the folders between say is a part of the rows
        reader = reader.option("basePath", str(path.absolute()))
    frame = reader.parquet(*(literal(file) for file in files or [path]))
    place = [F.col("_metadata.file_path").alias(FILE), F.col("_metadata.row_index").alias(ROW)]
    return _micros(frame.select("*", *place), schema)


def instants(frame: DataFrame, paths: Sequence[Path]) -> DataFrame:
    """A frame read from Parquet files or folders, its timestamps of nanoseconds as Spark's own.

    Spark reads these as whole numbers, when told to by `spark.sql.legacy.parquet.nanosAsLong`.
    """
    for path in paths:
        files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
        frame = _micros(frame, pq.read_schema(files[0])) if files else frame
    return frame


def _micros(frame: DataFrame, schema: pa.Schema) -> DataFrame:
    kinds = dict(frame.dtypes)
    for field in schema:
        nanos = pt.is_timestamp(field.type) and field.type.unit == "ns"
        if nanos and kinds.get(field.name) == "bigint":
            micros = F.call_function("div", col(field.name), F.lit(1000))
            frame = frame.withColumn(field.name, F.timestamp_micros(micros))
            kinds = dict(frame.dtypes)
    return frame


def literal(path: Path) -> str:
    """The path for a Spark reader, which would take brackets and stars for patterns."""
    return re.sub(r"([\[\]{}*?\\])", r"\\\1", str(path.absolute()))


def col(name: str) -> Column:
    """A column by its whole name, dots included."""
    return F.col("`" + name.replace("`", "``") + "`")


def arrow_types(frame: DataFrame) -> dict[str, pa.DataType]:
    """The frame's columns and types in the words of the contract."""
    return {f.name: plain(to_arrow_type(f.dataType, timezone="UTC")) for f in frame.schema.fields}


def converted(value: Column, stored: pa.DataType, wanted: pa.DataType) -> Column:
    """The value as another type, null where it cannot be: `funnel.dataset.convertible` types."""
    if stored == wanted:
        return value
    target = from_arrow_type(wanted)
    if pt.is_timestamp(stored) or pt.is_date(stored):
        instant = F.unix_millis(value.cast("timestamp"))
        return instant if pt.is_integer(wanted) else value.cast(target)
    if pt.is_string(stored):
        return F.trim(value).try_cast(target)
    if pt.is_integer(wanted) and (pt.is_floating(stored) or pt.is_decimal(stored)):
        return F.when(value == F.floor(value), value.try_cast(target))
    return value.try_cast(target)


def write(frame: DataFrame, path: Path, order: Sequence[str]) -> None:
    """Writes Parquet files whose names and rows follow `order`, and nothing beside them."""
    if order:
        frame = frame.orderBy(*order)
    frame.drop(FILE, ROW).write.option(
        "mapreduce.fileoutputcommitter.marksuccessfuljobs", "false"
    ).parquet(str(path.absolute()))
    for checksum in path.rglob(".*.crc"):  # they make Spark refuse files that others rewrote
        checksum.unlink()


def replace(fresh: Path, target: Path) -> None:
    """Puts a finished directory (or nothing, where there is none) in the place of another."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    if fresh.exists():
        fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)
