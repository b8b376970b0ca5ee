"""
Items of a file, sent to the running catalogue: JSON lines, or Parquet (a file or a folder).

Both are read in pieces, so a file may be larger than memory. Columns of a Parquet file are the
item's by name; a `created_at` that is a timestamp becomes UTC ms.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.types as pt

from funnel.dataset import TIMES, plain, schema_of
from funnel.errors import BadData
from funnel.intake import REFUSALS, Item, Upserted
from funnel.remote import RemoteCatalog

BATCH = 2000  # items in a call
JSON_LINES = (".jsonl", ".ndjson", ".json")


def items(path: Path) -> Iterator[Item]:
    """The items in their order, without the columns that are null.

    Raises `BadData` where the file cannot be read, naming the line that is no JSON object.
    """
    if path.suffix.lower() in JSON_LINES:
        return _lines(path)
    if path.suffix.lower() == ".parquet" or path.is_dir():
        return _rows(path)
    raise BadData(
        f"{path} is neither JSON lines ({', '.join(JSON_LINES)}) nor Parquet (.parquet, a folder)"
    )


def _lines(path: Path) -> Iterator[Item]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _object(line, f"{path}, line {number}")
    except UnicodeDecodeError as error:
        raise BadData(f"{path} is not UTF-8: {error}") from error
    except OSError as error:
        raise BadData(f"cannot read {path}: {error.strerror}") from error


def _object(line: str, place: str) -> Item:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise BadData(f"{place} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise BadData(f"{place} must be one item, a JSON object, not {type(found).__name__}")
    return {name: value for name, value in found.items() if value is not None}


def _rows(path: Path) -> Iterator[Item]:
    if not path.exists():
        raise BadData(f"cannot read {path}: no such file")
    schema = schema_of(path) if path.is_dir() else None
    try:
        source = ds.dataset(path, schema=schema, format="parquet")
        for batch in source.to_batches(batch_size=BATCH):
            columns = {n: _column(n, batch.column(n)) for n in batch.schema.names}
            for place in range(len(batch)):
                yield {name: c[place] for name, c in columns.items() if c[place] is not None}
    except (OSError, pa.ArrowInvalid) as error:
        raise BadData(f"{path} is not a readable Parquet file: {error}") from error


def _column(name: str, column: pa.Array) -> list[Any]:
    if name in TIMES and pt.is_timestamp(plain(column.type)):
        column = pc.cast(column, pa.timestamp("ms"), safe=False).cast(pa.int64())
    found: list[Any] = column.to_pylist()
    return found


def sent(
    remote: RemoteCatalog, items: Iterable[Item], tell: Callable[[int], None], batch: int = BATCH
) -> Upserted:
    """Upserts all of them, a call for each `batch`; `tell` hears how many were sent so far.

    After `Unavailable` or `Late` send all of them again: it does no harm.
    """
    source, total, done = iter(items), Upserted(), 0
    while part := list(islice(source, batch)):
        told = remote.upsert(part)
        refused = [replace(one, index=done + one.index) for one in told.refused]
        total = Upserted(
            total.accepted + told.accepted,
            (*total.refused, *refused)[:REFUSALS],
            total.refusals + told.refusals,
        )
        done += len(part)
        tell(done)
    return total
