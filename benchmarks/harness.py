"""How every benchmark is run, and what it prints: a table for people, or one JSON object."""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.table import Table

from funnel.errors import BadData, FunnelError


def run(main: Callable[..., None]) -> None:
    """The command line; what is wrong with the input is one line and exit code 2."""
    try:
        typer.run(main)
    except FunnelError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def read(path: Path, columns: Sequence[str] = ()) -> pa.Table:
    """A Parquet file that must have the columns. Raises `BadData`."""
    if not path.is_file():
        raise BadData(f"{path} is missing; --help says which files are read")
    try:
        table = pq.read_table(path)
    except pa.ArrowException as error:
        raise BadData(f"{path} is not a Parquet file: {error}") from error
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise BadData(f"{path} has no column {', '.join(missing)}; it has {table.column_names}")
    return table


def show(task: str, data: str, rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """`rows` have the same keys, `method` first; numbers are printed as they are measured."""
    if as_json:
        found = {"task": task, "data": data, "machine": machine(), "rows": list(rows)}
        print(json.dumps(found, default=float))
        return
    table = Table(title=f"{task} · {data}", caption=machine(), title_justify="left")
    for place, name in enumerate(rows[0]):
        table.add_column(name, justify="right" if place else "left")
    for row in rows:
        table.add_row(*(shown(value) for value in row.values()))
    Console(width=max(Console().width, 130)).print(table)


def shown(value: Any) -> str:
    if isinstance(value, str | int):
        return f"{value:,}" if isinstance(value, int) else value
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def machine() -> str:
    """What it was measured on."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            names = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
        model = names[0] if names else model
    except OSError:  # not Linux: the architecture has to do
        pass
    python = platform.python_version()
    return f"{model}, {os.cpu_count()} cores, {platform.system()}, Python {python}"


def peak_mb() -> int:
    """The most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (
        1 << 20 if sys.platform == "darwin" else 1 << 10
    )
