"""Small data sets, validated as real ones are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from funnel.config import Config, parse
from jobs.validate import validate
from jobs.work import Work

Rows = list[dict[str, Any]]


@pytest.fixture(scope="session")
def data_set(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`data_set(items=[{...}], events=[...])` writes and validates the tables."""

    def write(**tables: Rows) -> Path:
        data = tmp_path_factory.mktemp("set")
        for name, rows in tables.items():
            (data / name).mkdir()
            pq.write_table(pa.Table.from_pylist(rows), data / name / "part-0.parquet")
        validate(spark, data)
        return data

    return write


@pytest.fixture(scope="session")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Work]:
    """`opened(data, config, until)`: the work on a data set, in a directory of its own."""

    def work(data: Path, config: dict[str, Any] | None = None, until: int | None = None) -> Work:
        return Work.open(data, settled(config, tmp_path_factory.mktemp("root")), until)

    return work


def settled(config: dict[str, Any] | None, root: Path) -> Config:
    table = config or {}
    build = {"master": "local[2]", "driver_memory": "1g", "partitions": 2, "root": str(root)}
    alone = {"log": {"dir": ""}}  # no archive of this machine's own is folded in
    return parse({**alone, **table, "build": {**build, **table.get("build", {})}})


@pytest.fixture(scope="session")
def goods() -> Rows:
    """Twelve items, i00 to i11, not in order."""
    names = [f"i{n:02d}" for n in range(12)]
    return [
        {
            "item_id": name,
            "title": f"Lamp {name}",
            "category": "Home/Lamps" if n % 2 else "Home",
            "price": float(n) if n else None,
            "available": n != 3,
            "created_at": 1_000_000_000_000 + n,
        }
        for n, name in sorted(enumerate(names), key=lambda entry: -entry[0] % 5)
    ]
