"""
The file that says how any tables become a data set: `funnel import parquet SRC DATA --map FILE`.

    [[items]]                            # one entry a slice; slices of one table are appended
    from = "products.parquet"            # file, folder or pattern below SRC
    where = "title is not null"          # Spark SQL over the source's columns
    distinct = ["item_id"]               # the first row of each, in the order of the source

    [items.columns]
    item_id = "doc_id"                                   # a column of the source
    price = { expr = "price_cents / 100" }               # a Spark SQL expression
    currency = { const = "EUR" }
    pages = { from = "page_count", type = "int32" }      # any of them with a type
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from funnel.dataset import TABLES, shown
from funnel.errors import BadConfig

TYPES: dict[str, pa.DataType] = {
    "string": pa.string(),
    "bool": pa.bool_(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "list<string>": pa.list_(pa.string()),
    "list<int64>": pa.list_(pa.int64()),
    "list<float64>": pa.list_(pa.float64()),
}
FORMATS = ("parquet", "csv", "json")
Scalar = bool | int | float | str


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Made(Part):
    """How one column is made: of a source column, a constant or an expression."""

    source: str | None = Field(None, alias="from")
    const: Scalar | None = None
    expr: str | None = None
    type: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Made:
        given = [name for name in ("source", "const", "expr") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of: from, const, expr")
        if self.type is not None and self.type not in TYPES:
            raise ValueError(f"unknown type '{self.type}'; known: {', '.join(TYPES)}")
        return self


class Slice(Part):
    """A part of a table. Without `columns` it takes the source's columns under their own names."""

    source: str = Field(alias="from")
    format: Literal["parquet", "csv", "json"] | None = None  # by the file's ending
    where: str | None = None
    distinct: tuple[str, ...] = Field((), strict=False)
    columns: dict[str, Made] = Field(default_factory=dict)

    @field_validator("columns", mode="before")
    @classmethod
    def _short(cls, columns: Any) -> Any:
        """A string is the name of a source column."""
        if not isinstance(columns, dict):
            return columns
        return {
            name: {"from": made} if isinstance(made, str) else made
            for name, made in columns.items()
        }


class Mapping(Part):
    items: tuple[Slice, ...] = Field((), strict=False)
    users: tuple[Slice, ...] = Field((), strict=False)
    events: tuple[Slice, ...] = Field((), strict=False)
    queries: tuple[Slice, ...] = Field((), strict=False)
    qrels: tuple[Slice, ...] = Field((), strict=False)

    @property
    def tables(self) -> dict[str, tuple[Slice, ...]]:
        """The tables that are written, with their slices."""
        every: dict[str, tuple[Slice, ...]] = {name: getattr(self, name) for name in TABLES}
        return {name: slices for name, slices in every.items() if slices}


def load(path: Path) -> Mapping:
    """The mapping in a TOML file. Raises `BadConfig` naming the key and what is known."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadConfig(f"cannot read the mapping {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadConfig(f"{path} is not valid TOML: {error}") from error
    try:
        mapping = Mapping.model_validate(table)
    except ValidationError as error:
        raise BadConfig("\n".join(_said(path, problem) for problem in error.errors())) from error
    if not mapping.items:
        raise BadConfig(f"{path}: no [[items]]: every data set has items")
    for name, slices in mapping.tables.items():
        for number, part in enumerate(slices, 1):
            _check(f"{path}: [[{name}]] no. {number}", name, part)
    return mapping


def _check(where: str, table: str, part: Slice) -> None:
    known = TABLES[table]
    if part.columns:
        for name in (*known.required, *part.distinct):
            if name not in part.columns:
                makes = ", ".join(part.columns)
                raise BadConfig(f"{where}: the column '{name}' is missing; it makes: {makes}")
    for name, made in part.columns.items():
        column = known.column(name)
        if column is not None and made.type not in (None, shown(column.type)):
            raise BadConfig(
                f"{where}, column '{name}': its type is {shown(column.type)}, not {made.type}; "
                "leave `type` out"
            )


def _said(path: Path, problem: Any) -> str:
    """One problem that pydantic found, in the words of the file."""
    loc = [f"no. {part + 1}" if isinstance(part, int) else part for part in problem["loc"]]
    where = " ".join(str(part) for part in loc)
    if problem["type"] == "extra_forbidden":
        parent = problem["loc"][:-1]
        known: list[str] = list(TABLES)
        if parent:
            kind = Made if "columns" in parent else Slice
            known = [field.alias or name for name, field in kind.model_fields.items()]
        return f"{path}: unknown key {where}; known: {', '.join(known)}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{path}: {where}: {message}" + (
        "" if problem["type"] == "missing" else f" (found {problem['input']!r})"
    )
