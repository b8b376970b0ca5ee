"""
Items that come in between generations: held against the data contract, one by one, and packed.

An item is a mapping of column names to values, whole: columns that it does not name are missing. It
may have the columns of the published generation, in their types; anything else is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from funnel.dataset import ITEMS, plain, shown
from funnel.errors import BadQuery
from funnel.wire import made
from protos import catalog_pb2

ID_BYTES = 500
TEXT_BYTES = 64 << 10
LIST_VALUES = 1000
PATH = re.compile(r"[^/\s]([^/]*[^/\s])?(/[^/\s]([^/]*[^/\s])?)*")  # as in the data contract
PLAIN = ("description", "category", "brand", "price", "created_at", "available")
REFUSALS = 100  # told one by one

Item = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Refused:
    """An item that was not taken: its place among those sent, its id, and why."""

    index: int
    item_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Upserted:
    """What became of the items sent: the first refusals, and how many there were."""

    accepted: int = 0
    refused: tuple[Refused, ...] = ()
    refusals: int = 0


class Intake:
    """Takes items with the columns of `schema`, that of the published generation's items."""

    def __init__(self, schema: pa.Schema):
        self.schema = pa.schema([(field.name, plain(field.type)) for field in schema])
        self._kinds = {field.name: field.type for field in self.schema}

    def problem(self, item: Item) -> str:
        """Why the item is refused, naming the value; empty when nothing is wrong with it."""
        for name in (column.name for column in ITEMS.columns if column.required):
            if item.get(name) is None:
                return f"{name} is missing"
        for name, value in item.items():
            if name not in self._kinds:
                return f"no column '{name[:50]}' here; there are: {', '.join(self._kinds)}"
            if value is not None and (said := _wrong(value, self._kinds[name])):
                return f"{name} {said}"
        return _broken(item)

    def table(self, items: Sequence[Item]) -> pa.Table:
        """The items, none of which has a problem, as rows."""
        rows = [{name: item.get(name) for name in self.schema.names} for item in items]
        return pa.Table.from_pylist(rows, self.schema)


def _wrong(value: Any, kind: pa.DataType) -> str:
    """What is wrong with a value of a type; empty when nothing is."""
    if pt.is_list(kind):
        if not isinstance(value, list | tuple):
            return f"must be a list, not {_called(value)}"
        if len(value) > LIST_VALUES:
            return f"has {len(value):,} values; at most {LIST_VALUES:,} are taken"
        said = (_wrong(one, kind.value_type) for one in value)
        return next((f"has a value that {one}" for one in said if one), "")
    if pt.is_string(kind):
        return _wrong_text(value)
    if pt.is_boolean(kind):
        return "" if isinstance(value, bool) else f"must be true or false, not {_called(value)}"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if pt.is_integer(kind):
        if not number or value != value or abs(value) >= 1 << (kind.bit_width - 1):
            return f"must be a whole number of {kind.bit_width} bits, not {_called(value)}"
        return "" if value == int(value) else f"must be a whole number, not {value}"
    if pt.is_floating(kind):
        return "" if number else f"must be a number, not {_called(value)}"
    return f"is {shown(kind)}, which cannot be upserted; build a generation instead"


def _wrong_text(value: Any) -> str:
    if not isinstance(value, str):
        return f"must be a string, not {_called(value)}"
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return "is not valid Unicode"
    return f"has {size:,} bytes; at most {TEXT_BYTES:,} are taken" if size > TEXT_BYTES else ""


def _called(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:50]!r}"


def _broken(item: Item) -> str:
    """The rules of the contract beyond types."""
    item_id = item["item_id"]
    if not item_id.strip():
        return "item_id is missing"
    if len(item_id.encode()) > ID_BYTES:
        return f"item_id has {len(item_id.encode()):,} bytes; at most {ID_BYTES} are taken"
    for name in ("price", "bid"):
        value = item.get(name)
        if value is not None and not (math.isfinite(value) and value >= 0):
            return f"{name} {value} is not a finite number from 0"
    category = item.get("category")
    if isinstance(category, str) and not PATH.fullmatch(category):
        return f"category '{category[:50]}' is not a path like Shoes/Running"
    return ""


def message(item: Item) -> catalog_pb2.Item:
    """The item for the wire. Raises `BadQuery` for a value that cannot be sent."""
    for name in ("item_id", "title"):
        if not isinstance(item.get(name), str):
            raise BadQuery(f"an item needs {name}, a string; here it is {item.get(name)!r:.80}")
    told = {name: item[name] for name in PLAIN if item.get(name) is not None}
    rest = {
        name: _value(name, value)
        for name, value in item.items()
        if value is not None and name not in (*PLAIN, "item_id", "title")
    }
    fields = {"item_id": item["item_id"], "title": item["title"], **told}
    return made(catalog_pb2.Item, **fields, attributes=rest)


def _value(name: str, value: Any) -> catalog_pb2.Value:
    if isinstance(value, bool):
        return catalog_pb2.Value(truth=value)
    if isinstance(value, int | float):
        return catalog_pb2.Value(number=value)
    if isinstance(value, str):
        return made(catalog_pb2.Value, text=value)
    if isinstance(value, list | tuple):
        values = catalog_pb2.Values(values=[_value(name, one) for one in value])
        return catalog_pb2.Value(list=values)
    raise BadQuery(f"'{name}' is {_called(value)}: send strings, numbers, truths or lists of them")


def item_of(sent: catalog_pb2.Item) -> dict[str, Any]:
    """The item of a message; empty strings are missing, but for the title."""
    item: dict[str, Any] = {name: _plain(value) for name, value in sent.attributes.items()}
    item |= {name: text for name in PLAIN[:3] if (text := getattr(sent, name))}
    item |= {name: getattr(sent, name) for name in PLAIN[3:] if sent.HasField(name)}
    return item | {"item_id": sent.item_id or None, "title": sent.title}


def _plain(value: catalog_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "list":
        return [_plain(one) for one in value.list.values]
    return None if kind is None else getattr(value, kind)


def taken_in(
    items: Iterable[Item], intake: Intake, append: Callable[[pa.Table], object], batch: int = 200
) -> Upserted:
    """Appends what is sound in tables of at most `batch` items, in order; the others are refused
    one by one. Raises what `append` raises: then send all of them again, it does no harm."""
    accepted, refusals = 0, 0
    refused: list[Refused] = []
    held: list[Item] = []
    for index, item in enumerate(items):
        if reason := intake.problem(item):
            refusals += 1
            if len(refused) < REFUSALS:
                refused.append(Refused(index, str(item.get("item_id") or ""), reason))
            continue
        held.append(item)
        if len(held) == batch:
            append(intake.table(held))
            accepted, held = accepted + len(held), []
    if held:
        append(intake.table(held))
    return Upserted(accepted + len(held), tuple(refused), refusals)
