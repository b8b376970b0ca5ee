"""Passages are exactly parts of their documents, whatever the text."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from funnel.errors import BadData, BadQuery
from jobs.split import WORD, spans, split
from jobs.validate import validate

TEXTS = st.text(alphabet="ab c.!?\n,'中文字。😀é", max_size=300)


@given(TEXTS, st.integers(1, 12), st.integers(0, 11))
def test_passages_cover_every_word_in_order_with_the_overlap_asked_for(
    text: str, words: int, overlap: int
) -> None:
    overlap = min(overlap, words - 1)
    found = spans(text, words, overlap)
    places = [match.span() for match in WORD.finditer(text)]
    inside = [[p for p in places if start <= p[0] and p[1] <= end] for start, end in found]
    assert {p for part in inside for p in part} == set(places)
    assert all(len(part) <= words for part in inside)
    assert found == sorted(found)
    if len(found) > 1:
        for before, after in pairwise(inside):
            assert len([p for p in before if p in after]) == overlap
            assert after[-1] > before[-1]  # it goes on


def test_a_cut_lies_at_the_end_of_a_sentence_where_one_is_near() -> None:
    text = "One two three four five six seven. Eight nine ten eleven twelve."
    assert [text[a:b] for a, b in spans(text, 9, 0)] == [
        "One two three four five six seven.",
        "Eight nine ten eleven twelve.",
    ]


def written(path: Path) -> dict[str, str]:
    texts = {
        "long": "Tea is a drink 😀 from leaves. " * 30,
        "中": "茶是一种饮料，来自叶子。" * 30,
        "short": "Tea.",
        "none": None,
    }
    items = {"item_id": list(texts), "title": ["Tea"] * 4, "description": list(texts.values())}
    tables = {
        "items": items | {"price": [1.0, 2.0, 3.0, None]},
        "events": {
            "user_id": ["u", "u"],
            "item_id": ["long", "short"],
            "action": ["click", "click"],
            "timestamp": [1_700_000_000_000, 1_700_000_001_000],
        },
        "queries": {"query_id": ["q"], "query": ["tea"]},
        "qrels": {"query_id": ["q", "q"], "item_id": ["long", "short"], "grade": [2, 1]},
    }
    for name, columns in tables.items():
        (path / name).mkdir(parents=True)
        pq.write_table(pa.table(columns), path / name / "part.parquet")
    return {name: text for name, text in texts.items() if text}


def test_the_data_set_of_passages_is_one_that_builds_take(
    spark: SparkSession, tmp_path: Path
) -> None:
    texts = written(tmp_path / "data")
    validate(spark, tmp_path / "data")
    found = split(spark, tmp_path / "data", tmp_path / "out", 40, 8)
    assert found["documents split"] == 2
    items = pq.read_table(tmp_path / "out/items").sort_by("item_id").to_pylist()
    assert len(items) == found["passages and items"]
    for item in items:
        if item["parent_id"]:
            assert texts[item["parent_id"]][item["start"] : item["end"]] == item["description"]
            assert item["title"] == "Tea"
    own = [item for item in items if item["parent_id"] is None]
    assert [(item["item_id"], item["description"]) for item in own] == [
        ("none", None),
        ("short", "Tea."),
    ]
    events = pq.read_table(tmp_path / "out/events").sort_by("timestamp").to_pylist()
    assert [event["item_id"] for event in events] == ["long#0001", "short"]
    judged = {row["item_id"] for row in pq.read_table(tmp_path / "out/qrels").to_pylist()}
    assert judged == {"short", *(i["item_id"] for i in items if i["parent_id"] == "long")}
    validate(spark, tmp_path / "out")
    with pytest.raises(BadData, match="is there already"):
        split(spark, tmp_path / "data", tmp_path / "out", 40, 8)
    with pytest.raises(BadQuery, match="overlap is less"):
        split(spark, tmp_path / "data", tmp_path / "other", 40, 40)
