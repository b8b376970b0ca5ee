"""What every benchmark prints: a table for people, or one JSON object."""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


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
