"""
Long descriptions as passages: a data set whose items are the parts of its documents.

An item whose description has more than `words` words becomes passages of about as many, each
`overlap` words into the one before, cut at the end of a sentence where one is near. A passage is an
item with the document's other columns, the id `<document>#0001`, `parent_id` the document, and
`start` and `end`, characters of the document's description: the passage is exactly that part of it.
Events of a split document become those of its first passage, grades those of every passage. What is
not split stays as it is.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from funnel.dataset import has
from funnel.errors import BadData, BadQuery
from jobs.tables import load

# Scripts without spaces: every character is a word.
SINGLE = "぀-ヿ㐀-䶿一-鿿가-힯豈-﫿"
WORD = re.compile(rf"[{SINGLE}]|[^\W{SINGLE}]+(?:['’.-][^\W{SINGLE}]+)*|[^\w\s]")
SENTENCE = re.compile(r"[.!?…。！？]+[\"'”’)\]」』]*|\n\s*\n")
NEAR = 0.25  # share of a passage that may be given up for the end of a sentence
COLUMNS = (("parent_id", "string"), ("start", "long"), ("end", "long"))


def spans(text: str, words: int, overlap: int) -> list[tuple[int, int]]:
    """Where the passages of a text lie, as (start, end) in characters; one if it is short."""
    places = [match.span() for match in WORD.finditer(text)]
    if len(places) <= words:
        return [(0, len(text))]
    ends = {match.end() for match in SENTENCE.finditer(text)}
    ends |= {match.start() for match in SENTENCE.finditer(text)}
    found, first = [], 0
    while True:
        last = min(first + words, len(places))
        if last < len(places):
            lowest = max(last - int(NEAR * words), first + overlap + 1)
            closing = (n for n in range(last, lowest - 1, -1) if places[n - 1][1] in ends)
            last = next(closing, last)
        found.append((places[first][0], places[last - 1][1]))
        if last == len(places):
            return found
        first = last - overlap


def split_items(items: DataFrame, words: int, overlap: int) -> DataFrame:
    """Items with passages in the place of long ones. Raises `BadQuery` for a bad length."""
    if words < 1 or not 0 <= overlap < words:
        raise BadQuery(f"--words {words} --overlap {overlap}: the overlap is less than the words")
    if "description" not in items.columns:
        raise BadData("items/ has no column 'description': there is nothing to split")
    for name, kind in COLUMNS:
        if name not in items.columns:
            items = items.withColumn(name, F.lit(None).cast(kind))
    kinds = dict(items.dtypes)
    for name, kind in COLUMNS[1:]:
        if kinds[name] not in ("bigint", "int", "double"):
            raise BadData(f"items/ has a column '{name}' of {kinds[name]}: rename it")
        items = items.withColumn(name, F.col(name).cast(kind))

    places = T.ArrayType(T.StructType([T.StructField(n, T.LongType()) for n in ("start", "end")]))

    @F.udf(places, useArrow=False)
    def cut(text: str) -> list[tuple[int, int]]:
        return spans(text, words, overlap)

    whole = items.withColumn("__parts", cut(F.coalesce("description", F.lit(""))))
    long = (F.size("__parts") > 1) & F.col("parent_id").isNull()
    kept = whole.where(~long).select(items.columns)
    part = whole.where(long).select("*", F.posexplode("__parts").alias("__n", "__part"))
    start, end = F.col("__part.start"), F.col("__part.end")
    passages = part.select(
        *(
            {
                "item_id": passage_id(F.col("item_id"), F.col("__n")).alias("item_id"),
                "parent_id": F.col("item_id").alias("parent_id"),
                "description": F.substring(F.col("description"), start + 1, end - start).alias(
                    "description"
                ),
                "start": start.alias("start"),
                "end": end.alias("end"),
            }.get(name, F.col(f"`{name}`"))
            for name in items.columns
        )
    )
    return kept.unionByName(passages)


def passage_id(document: Any, number: Any) -> Any:
    return F.concat(document, F.lit("#"), F.lpad((number + 1).cast("string"), 4, "0"))


def split(
    spark: SparkSession, data: Path, target: Path, words: int, overlap: int
) -> dict[str, int]:
    """Writes the data set `target`, which must not be there; what it has, by table."""
    if target.exists():
        raise BadData(f"{target} is there already: name another directory, or remove it")
    items = load(spark, data, "items")
    made = split_items(items, words, overlap).cache()
    scratch = target.with_name(f".{target.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        made.write.parquet(str(scratch / "items"))
        found = {"items": items.count(), "passages and items": made.count()}
        parts = made.where("parent_id is not null").select(
            F.col("parent_id").alias("__document"), F.col("item_id").alias("__passage"), "start"
        )
        documents = items.select(F.col("item_id").alias("__document"))
        parts = parts.join(documents, "__document", "left_semi")
        first = parts.where("start = 0 or __passage like '%#0001'").select(
            "__document", "__passage"
        )
        found["documents split"] = first.count()
        for table in ("users", "queries", "events", "qrels"):
            if not has(data, table):
                continue
            frame = load(spark, data, table)
            if table in ("events", "qrels"):
                stand_in = first if table == "events" else parts.select("__document", "__passage")
                joined = frame.join(stand_in, frame["item_id"] == F.col("__document"), "left")
                own = F.coalesce("__passage", "item_id")
                frame = joined.withColumn("item_id", own).drop("__document", "__passage")
            frame.write.parquet(str(scratch / table))
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        made.unpersist()
    return found


def lines(found: dict[str, int]) -> Iterator[str]:
    for name, count in found.items():
        yield f"{name:20} {count:,}"
