"""Mappings: any tables become a data set, and what is wrong with one is said."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from funnel.dataset import read
from funnel.errors import BadConfig, BadData
from jobs.import_tables import import_tables
from jobs.validate import validate

EXAMPLES = Path(__file__).parents[2] / "examples"
MAP = """
[[items]]
from = "goods.parquet"
where = "name is not null"
distinct = ["item_id"]

[items.columns]
item_id = { from = "code", type = "string" }
title = "name"
price = { expr = "cents / 100" }
currency = { const = "EUR" }
created_at = { expr = "unix_millis(made)" }

[[events]]
from = "log.csv"

[events.columns]
user_id = "who"
item_id = "what"
action = { const = "impression" }
timestamp = { expr = "1000L * cast(at as bigint)" }

[[events]]
from = "log.csv"
where = "clicked = 'yes'"

[events.columns]
user_id = "who"
item_id = "what"
action = { const = "click" }
timestamp = { expr = "1000L * cast(at as bigint) + 1" }
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    place = tmp_path / "source"
    place.mkdir()
    made = datetime(2024, 1, 2, tzinfo=UTC)
    goods = pa.table(
        {
            "code": [1, 2, 2, 3],
            "name": ["Hat", "Shoe", "Shoe again", None],
            "cents": [999, 5000, 1, 1],
            "made": pa.array([made] * 4, pa.timestamp("ns", "UTC")),
        }
    )
    pq.write_table(goods, place / "goods.parquet")
    lines = ["who,what,at,clicked", "ann,1,1700000000,yes", "bob,2,1700000005,no"]
    (place / "log.csv").write_text("\n".join(lines) + "\n")
    return place


def mapped(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "map.toml"
    file.write_text(text)
    return file


def test_slices_become_tables_with_constants_casts_and_expressions(
    spark: SparkSession, source: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    import_tables(spark, source, data, mapped(tmp_path, MAP), lambda text: None)
    report = validate(spark, data)
    assert report.rejected == 0
    items = read(data, "items").to_pylist()
    assert [(i["item_id"], i["title"], i["price"], i["currency"]) for i in items] == [
        ("1", "Hat", 9.99, "EUR"),
        ("2", "Shoe", 50.0, "EUR"),
    ]
    assert items[0]["created_at"] == 1_704_153_600_000
    events = read(data, "events", ["user_id", "item_id", "action", "timestamp"]).to_pylist()
    assert [tuple(event.values()) for event in events] == [
        ("ann", "1", "impression", 1_700_000_000_000),
        ("ann", "1", "click", 1_700_000_000_001),
        ("bob", "2", "impression", 1_700_000_005_000),
    ]


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ('title = "name"', 'title = "nam"', BadConfig, "no column 'nam'; it has: code, name"),
        ("cents / 100", "cent / 100", BadConfig, "cent"),
        ('from = "goods.parquet"', 'from = "good.parquet"', BadData, "goods.parquet, log.csv"),
        ("where =", "wher =", BadConfig, "unknown key .*wher; known: from"),
        ('title = "name"', "", BadConfig, "the column 'title' is missing"),
        ('type = "string"', 'type = "text"', BadConfig, "unknown type 'text'; known: string"),
    ],
)
def test_what_is_wrong_with_a_mapping_is_named(
    spark: SparkSession,
    source: Path,
    tmp_path: Path,
    old: str,
    new: str,
    error: type[Exception],
    message: str,
) -> None:
    file = mapped(tmp_path, MAP.replace(old, new, 1))
    with pytest.raises(error, match=message):
        import_tables(spark, source, tmp_path / "data", file, lambda text: None)
    assert not (tmp_path / "data").exists()  # nothing is half done


@pytest.mark.parametrize(
    ("example", "folder", "rows"),
    [
        ("icecat", "icecat-ecommerce-search", {"items": 19_406, "queries": 135, "qrels": 3_668}),
        ("ml-100k", "ml-100k", {"items": 1_682, "users": 943, "events": 100_000}),
    ],
)
def test_the_examples_import_and_keep_the_contract(
    spark: SparkSession,
    shared_data: Callable[[str], Path],
    tmp_path: Path,
    example: str,
    folder: str,
    rows: dict[str, int],
) -> None:
    source, data = shared_data(folder), tmp_path / example
    import_tables(spark, source, data, EXAMPLES / example / "map.toml", lambda text: None)
    report = validate(spark, data)
    assert {counts.table: counts.accepted for counts in report.tables} == rows
    assert report.findings == ()
    if example == "ml-100k":
        ratings = pq.read_table(source / "ratings.parquet")
        liked = sum(rating >= 4 for rating in ratings.column("rating").to_pylist())
        actions = read(data, "events", ["action"]).column("action").to_pylist()
        assert actions.count("like") == liked
