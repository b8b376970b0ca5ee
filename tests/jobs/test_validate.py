"""Every rule of the data contract against rows that break it, written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from funnel.dataset import REJECTED, VALIDATION, accepted, read
from funnel.errors import BadData
from jobs.report import Report
from jobs.validate import validate

AT = 1_600_000_000_000
ITEM: dict[str, Any] = {
    "item_id": "i1",
    "title": "Lamp",
    "category": "Home/Lamps",
    "price": 1.0,
    "bid": 0.5,
    "created_at": AT,
}
EVENT: dict[str, Any] = {
    "user_id": "u1",
    "item_id": "i1",
    "action": "click",
    "timestamp": AT,
    "event_id": "e1",
    "scene": "home",
    "position": 1,
    "value": 1.0,
    "propensity": 0.5,
}
BROKEN_ITEMS = [
    ({"item_id": None}, "item_id is missing"),
    ({"item_id": "  "}, "item_id is missing"),
    ({"title": None}, "title is missing"),
    ({"price": -1.0}, "price is negative"),
    ({"price": float("nan")}, "price is not finite"),
    ({"bid": float("inf")}, "bid is not finite"),
    ({"bid": -0.1}, "bid is negative"),
    ({"category": "Home//Lamps"}, "bad category path"),
    ({"category": "/Home"}, "bad category path"),
    ({"category": "Home / Lamps"}, "bad category path"),
    ({"created_at": AT // 1000}, "created_at out of range"),
    ({"created_at": AT * 1000}, "created_at out of range"),
]
BROKEN_EVENTS = [
    ({"user_id": None}, "user_id is missing"),
    ({"item_id": "i9"}, "unknown item"),
    ({"user_id": "u9"}, "unknown user"),
    ({"action": "stare"}, "unknown action"),
    ({"action": None}, "action is missing"),
    ({"timestamp": None}, "timestamp is missing"),
    ({"timestamp": AT // 1000}, "timestamp out of range"),
    ({"position": 0}, "position below 1"),
    ({"value": float("inf")}, "value is not finite"),
    ({"propensity": 0.0}, "propensity outside (0, 1]"),
    ({"propensity": 1.5}, "propensity outside (0, 1]"),
    ({"propensity": float("nan")}, "propensity outside (0, 1]"),
]
Rows = list[dict[str, Any]]


def written(data: Path, **tables: Rows) -> Path:
    for name, rows in tables.items():
        (data / name).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), data / name / "part-0.parquet")
    return data


def rejects(data: Path, table: str) -> list[dict[str, Any]]:
    found = pq.read_table(data / REJECTED / table).to_pylist()
    return sorted(found, key=lambda row: int(row["row"]))


@pytest.fixture(scope="module")
def broken(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """One sound row of each table, and one row for every way to break it."""
    items = [
        ITEM,
        *({**ITEM, "item_id": f"i{n + 20}", **c} for n, (c, _) in enumerate(BROKEN_ITEMS)),
    ]
    events = [EVENT]
    events += [{**EVENT, "event_id": f"b{n}", **c} for n, (c, _) in enumerate(BROKEN_EVENTS)]
    data = written(
        tmp_path_factory.mktemp("broken"),
        items=items,
        users=[{"user_id": "u1"}],
        events=events,
        queries=[{"query_id": "q1", "query": "lamp", "split": "holiday"}],
        qrels=[
            {"query_id": "q1", "item_id": "i1", "grade": 2},
            {"query_id": "q1", "item_id": "i1", "grade": 1},
            {"query_id": "q2", "item_id": "i1", "grade": 1},
            {"query_id": "q1", "item_id": "i9", "grade": -1},
        ],
    )
    return data, validate(spark, data)


@pytest.mark.parametrize("table", ["items", "events"])
def test_every_rule_rejects_the_row_that_breaks_it(broken: tuple[Path, Report], table: str) -> None:
    cases = BROKEN_ITEMS if table == "items" else BROKEN_EVENTS
    found = rejects(broken[0], table)
    assert [row["reason"] for row in found] == [reason for _, reason in cases]
    assert [int(row["row"]) for row in found] == list(range(1, len(cases) + 1))
    assert {row["file"] for row in found} == {"part-0.parquet"}


def test_a_row_that_breaks_several_rules_has_all_the_reasons(broken: tuple[Path, Report]) -> None:
    reasons = [row["reason"] for row in rejects(broken[0], "qrels")]
    assert reasons[0] == "duplicate query_id, item_id"
    assert reasons[1] == "unknown query"
    assert set(reasons[2].split("; ")) == {"grade is negative", "unknown item"}


def test_what_is_kept_and_what_is_rejected_are_all_there_is(broken: tuple[Path, Report]) -> None:
    data, report = broken
    for counts in report.tables:
        kept = pq.read_metadata(next(accepted(data, counts.table).glob("*.parquet"))).num_rows
        assert kept == counts.accepted
        assert counts.rows == counts.accepted + counts.rejected
    assert read(data, "items").to_pylist() == [ITEM]
    assert read(data, "events").to_pylist() == [EVENT]


def test_the_report_counts_rows_and_shows_examples(broken: tuple[Path, Report]) -> None:
    data, report = broken
    finding = next(f for f in report.findings if f.rule == "unknown action")
    assert (finding.level, finding.count) == ("error", 1)
    assert finding.examples[0]["event_id"] == "b3"
    assert finding.examples[0]["action"] == "stare"
    kept = json.loads((data / VALIDATION).read_text())["report"]
    assert len(kept["findings"]) == len(report.findings)


def test_an_unknown_split_is_a_warning_and_the_row_stays(broken: tuple[Path, Report]) -> None:
    finding = next(f for f in broken[1].findings if f.rule == "unknown split")
    assert (finding.level, finding.count) == ("warning", 1)


def test_the_first_sound_row_of_a_key_stays(spark: SparkSession, tmp_path: Path) -> None:
    rows = [{**ITEM, "price": -1.0}, {**ITEM, "title": "first"}, {**ITEM, "title": "second"}]
    data = written(tmp_path, items=rows)
    validate(spark, data)
    assert [row["title"] for row in read(data, "items").to_pylist()] == ["first"]
    reasons = [row["reason"] for row in rejects(data, "items")]
    assert "price is negative" in reasons[0]
    assert reasons[1] == "duplicate item_id"


def test_a_sound_table_is_read_where_it_is_and_nothing_is_copied(
    spark: SparkSession, tmp_path: Path
) -> None:
    data = written(tmp_path, items=[ITEM])
    report = validate(spark, data)
    assert report.rejected == 0
    assert accepted(data, "items") == data / "items"
    assert not (data / REJECTED).exists()


def test_a_column_of_another_type_is_read_as_the_contracts(
    spark: SparkSession, tmp_path: Path
) -> None:
    rows = [{**ITEM, "price": "1.5"}, {**ITEM, "item_id": "i2", "price": "cheap"}]
    data = written(tmp_path, items=rows)
    report = validate(spark, data)
    assert [row["price"] for row in read(data, "items").to_pylist()] == [1.5]
    assert rejects(data, "items")[0]["reason"] == "price is not float64"
    assert rejects(data, "items")[0]["price"] == "cheap"
    assert any(f.rule == "price is string: read as float64" for f in report.findings)


@pytest.mark.parametrize(("lost", "said"), [("item_id", "item_id"), ("title", "title")])
def test_a_missing_column_stops_and_says_which_there_are(
    spark: SparkSession, tmp_path: Path, lost: str, said: str
) -> None:
    data = written(tmp_path, items=[{k: v for k, v in ITEM.items() if k != lost}])
    with pytest.raises(BadData, match=rf"(?s)items.*{said}.*category"):
        validate(spark, data)
    assert not (data / VALIDATION).exists()


def test_no_items_at_all_stops(spark: SparkSession, tmp_path: Path) -> None:
    data = written(tmp_path, users=[{"user_id": "u1"}])
    with pytest.raises(BadData, match="items"):
        validate(spark, data)


@pytest.mark.parametrize(
    ("click", "impression", "alone"),
    [
        ({}, {}, 0),
        ({"request_id": "r1"}, {"request_id": "r1"}, 0),
        ({"request_id": "r1"}, {"request_id": "r2"}, 1),
        ({"session_id": "s1"}, {"session_id": "s2"}, 1),
        ({"scene": "home"}, {"scene": "search"}, 0),  # home logs no impressions at all
        ({}, {"item_id": "i2"}, 1),
    ],
)
def test_a_click_without_an_impression_is_a_warning(
    spark: SparkSession, tmp_path: Path, click: Any, impression: Any, alone: int
) -> None:
    nothing = {"request_id": None, "session_id": None}
    rows = [
        {**EVENT, **nothing, **click},
        {**EVENT, **nothing, "event_id": "e2", "action": "impression", **impression},
    ]
    table = pa.Table.from_pylist(
        rows,
        pa.schema(
            [
                *pa.Table.from_pylist([EVENT]).schema,
                ("request_id", "string"),
                ("session_id", "string"),
            ]
        ),
    )
    data = written(tmp_path, items=[ITEM, {**ITEM, "item_id": "i2"}], users=[{"user_id": "u1"}])
    (data / "events").mkdir()
    pq.write_table(table, data / "events" / "part-0.parquet")
    report = validate(spark, data)
    found = [f.count for f in report.findings if f.rule == "click without impression"]
    assert found == ([alone] if alone else [])
    assert report.rejected == 0
