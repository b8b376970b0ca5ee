"""The rules of the data contract, as Spark columns that are true where a row breaks one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.types as pt
from pyspark.sql import Column
from pyspark.sql import functions as F

from funnel.dataset import Table, shown
from jobs.tables import col, converted

PATH = r"^[^/\s]([^/]*[^/\s])?(/[^/\s]([^/]*[^/\s])?)*$"  # no empty part, no blank at an end
REFERENCES: Mapping[str, Mapping[str, tuple[str, str]]] = {  # column -> what it names, its table
    "events": {"item_id": ("item", "items"), "user_id": ("user", "users")},
    "qrels": {"query_id": ("query", "queries"), "item_id": ("item", "items")},
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What depends on who validates: the actions there are and the span of time (epoch ms)."""

    actions: tuple[str, ...]
    not_before: int
    not_after: int


@dataclass(frozen=True, slots=True)
class Rule:
    """`broken` is true for rows that break it; `column` is the one to look at."""

    name: str
    column: str
    broken: Column


def values(table: Table, stored: pa.Schema) -> dict[str, Column]:
    """The table's known columns in canonical types, null where a value cannot be converted."""
    return {
        column.name: converted(col(column.name), stored.field(column.name).type, column.type)
        for column in table.columns
        if column.name in stored.names
    }


def recast(table: Table, stored: pa.Schema) -> dict[str, tuple[pa.DataType, pa.DataType]]:
    """The known columns whose stored type is not the canonical one, with both types."""
    both = {
        column.name: (stored.field(column.name).type, column.type)
        for column in table.columns
        if column.name in stored.names
    }
    return {name: (old, new) for name, (old, new) in both.items() if old != new}


def row_rules(table: Table, stored: pa.Schema, limits: Limits) -> list[Rule]:
    """The errors that a row shows by itself."""
    typed = values(table, stored)
    rules = []
    for column in table.columns:
        if column.name not in typed:
            continue
        given, value = col(column.name), typed[column.name]
        if column.required:
            blank = pt.is_string(column.type) and column.name != "title"
            empty = given.isNull() | (F.trim(value) == "") if blank else given.isNull()
            rules.append(Rule(f"{column.name} is missing", column.name, empty))
        if column.name in recast(table, stored):
            wrong = given.isNotNull() & value.isNull()
            rules.append(Rule(f"{column.name} is not {shown(column.type)}", column.name, wrong))
        rules += [
            Rule(name, column.name, broken(value, limits))
            for name, broken in VALUE_RULES.get(column.name, ())
        ]
    return rules


def _outside(value: Column, limits: Limits) -> Column:
    return (value < limits.not_before) | (value > limits.not_after)


def _infinite(value: Column) -> Column:
    return F.isnan(value) | (F.abs(value) == float("inf"))


def _amount(name: str) -> tuple[tuple[str, Callable[[Column, Limits], Column]], ...]:
    return (
        (f"{name} is negative", lambda value, _: value < 0),
        (f"{name} is not finite", lambda value, _: _infinite(value) & ~(value < 0)),
    )


VALUE_RULES: Mapping[str, tuple[tuple[str, Callable[[Column, Limits], Column]], ...]] = {
    "price": _amount("price"),
    "bid": _amount("bid"),
    "value": (("value is not finite", lambda value, _: _infinite(value)),),
    "grade": (("grade is negative", lambda value, _: value < 0),),
    "category": (("bad category path", lambda value, _: ~value.rlike(PATH)),),
    "created_at": (("created_at out of range", _outside),),
    "timestamp": (("timestamp out of range", _outside),),
    "action": (
        (
            "unknown action",
            lambda value, limits: (F.trim(value) != "") & ~value.isin(*limits.actions),
        ),
    ),
    "position": (("position below 1", lambda value, _: value < 1),),
    "propensity": (
        (
            "propensity outside (0, 1]",
            lambda value, _: F.isnan(value) | (value <= 0) | (value > 1),
        ),
    ),
}


def soft_rules(table: Table, stored: pa.Schema) -> list[Rule]:
    """The warnings that a row shows by itself: it stays, but somebody should look."""
    typed = values(table, stored)
    rules = []
    if table.name == "items":
        rules.append(Rule("blank title", "title", F.trim(typed["title"]) == ""))
    if "split" in typed:
        known = typed["split"].isin("train", "valid", "test")
        rules.append(Rule("unknown split", "split", ~known))
    return rules
