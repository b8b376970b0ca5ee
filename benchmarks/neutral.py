"""
Retrieval sets as three tables, whatever files they came in.

The neutral form, which any set can be brought to:

    docs.parquet     doc_id, and text columns (all are searched, `title` with its usual boost)
    queries.parquet  query_id, query
    qrels.parquet    query_id, doc_id, grade; 0 is judged and not relevant, below 0 is taken out of
                     the lists before they are measured

`python -m benchmarks.neutral SRC DIR` writes it. Some published sets are recognised by their own
files: Icecat (products, judgments), QBQTC (dev: distinct titles, those of label 2 relevant) and
Cranfield (the paper that a question was drawn from is taken out).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer

from benchmarks import harness


@dataclass(frozen=True)
class Texts:
    docs: pa.Table  # sorted by doc_id
    queries: pa.Table
    qrels: pa.Table


def read(path: Path) -> Texts:
    """Raises `BadData` naming the file or column that is missing."""
    if (path / "products.parquet").exists() and (path / "judgments.parquet").exists():
        return icecat(path)
    if (path / "dev.parquet").exists() and not (path / "docs.parquet").exists():
        return qbqtc(path)
    docs = _table(path, "docs", "doc_id")
    queries = _table(path, "queries", "query_id", "query")
    qrels = _table(path, "qrels", "query_id", "doc_id", "grade")
    if "is_source_document" in qrels.column_names:
        grade = pc.if_else(qrels["is_source_document"], pa.scalar(-1, pa.int32()), qrels["grade"])
        qrels = qrels.set_column(qrels.column_names.index("grade"), "grade", grade)
        docs = docs.select(["doc_id", "title", "text"])
        queries = queries.set_column(  # the mark of the field is no word of the question
            queries.column_names.index("query"),
            "query",
            pc.replace_substring_regex(queries["query"], r"^\.W ", ""),
        )
    text = [name for name in docs.column_names if pa.types.is_string(docs.schema.field(name).type)]
    return Texts(
        docs.select(text).sort_by("doc_id"),
        queries.select(["query_id", "query"]),
        qrels.select(["query_id", "doc_id", "grade"]),
    )


def icecat(path: Path) -> Texts:
    products = _table(path, "products", "doc_id", "title", "supplier", "short_description")
    docs = products.select(["doc_id", "title", "supplier", "short_description"])
    queries, qrels = _table(path, "queries", "query"), _table(path, "judgments", "grade")
    return Texts(docs.sort_by("doc_id"), queries.select(["query_id", "query"]), qrels)


def qbqtc(path: Path) -> Texts:
    pairs = _table(path, "dev", "query", "title", "label")
    titles = sorted(set(pairs["title"].to_pylist()))
    best = pairs.filter(pc.equal(pairs["label"], 2))
    asked = list(dict.fromkeys(best["query"].to_pylist()))
    doc = {title: f"d{place:06}" for place, title in enumerate(titles)}
    query = {text: f"q{place:06}" for place, text in enumerate(asked)}
    found = list(zip(best["query"].to_pylist(), best["title"].to_pylist(), strict=True))
    return Texts(
        pa.table({"doc_id": list(doc.values()), "title": titles}),
        pa.table({"query_id": list(query.values()), "query": asked}),
        pa.table(
            {
                "query_id": [query[text] for text, _ in found],
                "doc_id": [doc[title] for _, title in found],
                "grade": pa.array([1] * len(found), pa.int32()),
            }
        ),
    )


def _table(path: Path, name: str, *columns: str) -> pa.Table:
    return harness.read(path / f"{name}.parquet", columns)


def main(
    source: Annotated[Path, typer.Argument(help="directory of a set's own files")],
    target: Annotated[Path, typer.Argument(help="directory for the neutral files")],
) -> None:
    found = read(source)
    target.mkdir(parents=True, exist_ok=True)
    for name in ("docs", "queries", "qrels"):
        pq.write_table(getattr(found, name), target / f"{name}.parquet", compression="zstd")


if __name__ == "__main__":
    main.__doc__ = __doc__
    harness.run(main)
