"""What validation found: plain values that turn into JSON, and a table for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset as ds
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from funnel.dataset import REJECTED

EXAMPLES = 3
REASONS = "; "  # between the rules that one row breaks


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule that rows break. `error`: they are rejected; `warning`: they stay."""

    table: str
    rule: str
    level: str
    count: int
    examples: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Counts:
    table: str
    rows: int
    accepted: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Report:
    """`actions`, `not_before` and `not_after` (epoch ms) are what the rows were held against."""

    data: str
    actions: tuple[str, ...]
    not_before: int
    not_after: int
    tables: tuple[Counts, ...]
    findings: tuple[Finding, ...]

    @property
    def rejected(self) -> int:
        return sum(counts.rejected for counts in self.tables)

    def count(self, table: str, rule: str) -> int:
        """How many rows of the table break the rule."""
        return sum(f.count for f in self.findings if (f.table, f.rule) == (table, rule))

    def __rich__(self) -> RenderableType:
        tables = Table(title=f"data set {self.data}", title_justify="left", header_style="bold")
        for name in ("table", "rows", "accepted", "rejected"):
            tables.add_column(name, justify="left" if name == "table" else "right")
        for t in self.tables:
            tables.add_row(t.table, f"{t.rows:,}", f"{t.accepted:,}", f"{t.rejected:,}")
        if not self.findings:
            return Group(tables, Text("Every row keeps the contract."))
        found = Table(header_style="bold")
        for name in ("level", "table", "rule", "rows", "examples"):
            found.add_column(name, justify="right" if name == "rows" else "left", overflow="fold")
        for f in self.findings:
            level = Text(f.level, style="red" if f.level == "error" else "yellow")
            said = Text("\n".join(_said(example) for example in f.examples))
            found.add_row(level, f.table, Text(f.rule), f"{f.count:,}", said)
        where = Path(self.data) / REJECTED
        last = f"{self.rejected:,} rows were rejected: {where}/ has them, with the reasons."
        return Group(tables, found, Text(last if self.rejected else "No row was rejected."))


def _said(example: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in example.items())


def plain_value(value: Any) -> Any:
    """As JSON has it, and not longer than a line."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else str(value)
    text = str(value)
    return text if len(text) <= 60 else text[:59] + "…"


def errors(table: str, path: Path, shows: dict[str, tuple[str, ...]]) -> Iterator[Finding]:
    """The rules that the rejected rows in `path` break, those of most rows first.

    `shows`: rule -> the columns that an example of it shows. Memory does not grow with the rows.
    """
    source = ds.dataset(path, format="parquet")
    columns = {name for names in shows.values() for name in names} & set(source.schema.names)
    counts: dict[str, int] = {}
    examples: dict[str, list[dict[str, Any]]] = {rule: [] for rule in shows}
    for batch in source.to_batches(columns=[*sorted(columns), "reason", "file", "row"]):
        for pair in pc.value_counts(batch.column("reason")).to_pylist():
            for rule in pair["values"].split(REASONS):
                counts[rule] = counts.get(rule, 0) + pair["counts"]
                if len(examples[rule]) < EXAMPLES:
                    some = batch.filter(pc.equal(batch.column("reason"), pair["values"]))
                    names = [*(n for n in shows[rule] if n in columns), "file", "row"]
                    for row in some.select(names).slice(0, EXAMPLES).to_pylist():
                        examples[rule].append({k: plain_value(v) for k, v in row.items()})
    for rule, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])):
        yield Finding(table, rule, "error", count, tuple(examples[rule][:EXAMPLES]))
