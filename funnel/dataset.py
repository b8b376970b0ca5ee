"""
A data set: a directory of Parquet tables with agreed columns.

    <data>/items/ users/ events/ queries/ qrels/    as they came; `items` must be there
    <data>/rejected/<table>/                        rows that break the contract, with the reason
    <data>/accepted/<table>/                        the others, where any were rejected or recast
    <data>/validation.json                          what `funnel validate` found

Columns that are not listed here are allowed and become attributes. `funnel validate` writes the
last three; everything that builds or measures reads the accepted rows, by `accepted` or `read`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pyarrow.types as pt

from funnel.errors import BadData

VALIDATION = "validation.json"
ACCEPTED, REJECTED = "accepted", "rejected"
TAIL = 1 << 13  # bytes of a file's end in its digest: a Parquet footer says what is in the file


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type: pa.DataType
    meaning: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """`key` tells rows apart (where it is not null); accepted rows lie in the order of `order`,
    then of arrival: by file name, then by row."""

    name: str
    key: tuple[str, ...]
    order: tuple[str, ...]
    columns: tuple[Column, ...]

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([(column.name, column.type) for column in self.columns])

    @property
    def required(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns if column.required)


_S, _F, _T, _N, _B = pa.string(), pa.float64(), pa.int64(), pa.int32(), pa.bool_()

ITEMS = Table(
    "items",
    ("item_id",),
    ("item_id",),
    (
        Column("item_id", _S, "the item's id", required=True),
        Column("title", _S, "what it is called", required=True),
        Column("description", _S, "longer text"),
        Column("category", _S, "path with '/', from the general to the special"),
        Column("brand", _S, "who makes it"),
        Column("price", _F, "price, 0 or more"),
        Column("created_at", _T, "when it came into the catalogue, UTC ms"),
        Column("available", _B, "whether it can be had now"),
        Column("image_url", _S, "address of a picture"),
        Column("parent_id", _S, "the document that a passage is of"),
        Column("sponsor_id", _S, "who pays for showing it"),
        Column("bid", _F, "what the sponsor pays for a click, 0 or more"),
    ),
)
USERS = Table("users", ("user_id",), ("user_id",), (Column("user_id", _S, "the id", True),))
EVENTS = Table(
    "events",
    ("event_id",),
    ("timestamp", "event_id"),
    (
        Column("user_id", _S, "who", required=True),
        Column("item_id", _S, "with what", required=True),
        Column("action", _S, "did what", required=True),
        Column("timestamp", _T, "when, UTC ms", required=True),
        Column("event_id", _S, "the same event sent twice has the same id and counts once"),
        Column("session_id", _S, "the visit it belongs to"),
        Column("request_id", _S, "the request whose page it happened on"),
        Column("scene", _S, "the scene of that request"),
        Column("query", _S, "what the user had typed"),
        Column("position", _N, "place on the page, from 1"),
        Column("value", _F, "worth of the action: a rating, a price paid"),
        Column("propensity", _F, "chance that this item was shown there, in (0, 1]"),
    ),
)
QUERIES = Table(
    "queries",
    ("query_id",),
    ("query_id",),
    (
        Column("query_id", _S, "the query's id", required=True),
        Column("query", _S, "its text", required=True),
        Column("user_id", _S, "who asks"),
        Column("split", _S, "train, valid or test"),
    ),
)
QRELS = Table(
    "qrels",
    ("query_id", "item_id"),
    ("query_id", "item_id"),
    (
        Column("query_id", _S, "of which query", required=True),
        Column("item_id", _S, "which item", required=True),
        Column("grade", _N, "how relevant, 0 (not at all) or more", required=True),
        Column("user_id", _S, "who judged"),
        Column("split", _S, "train, valid or test"),
    ),
)
TABLES: Mapping[str, Table] = {t.name: t for t in (ITEMS, USERS, EVENTS, QUERIES, QRELS)}
TIMES = frozenset({"created_at", "timestamp"})  # may be stored as Parquet timestamps too


def table_of(name: str) -> Table:
    if name not in TABLES:
        raise BadData(f"unknown table '{name}'; known: {', '.join(TABLES)}")
    return TABLES[name]


def has(data: Path, table: str) -> bool:
    """Whether the data set has the table."""
    return bool(_files(data / table_of(table).name))


def accepted(data: Path, table: str) -> Path:
    """The directory with the accepted rows of a table, all in canonical types.

    Raises `BadData` where the table is missing, not validated, or changed since.
    """
    if not has(data, table):
        raise BadData(f"the data set {data} has no table {table}/")
    try:
        found = json.loads((data / VALIDATION).read_text(encoding="utf-8"))
        state = found["tables"].get(table)
    except FileNotFoundError:
        state = None
    except (ValueError, KeyError, AttributeError) as error:
        raise BadData(
            f"{data / VALIDATION} is not a validation report: run `funnel validate {data}`"
        ) from error
    if state is None:
        raise BadData(f"{data / table} was never validated: run `funnel validate {data}`")
    if state["digest"] != digest(data, table):
        raise BadData(f"{data / table} was changed since: run `funnel validate {data}` again")
    path = data / str(state["path"])
    if not _files(path):
        raise BadData(f"{path} is missing: run `funnel validate {data}` again")
    return path


def read(data: Path, table: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The accepted rows in canonical types, in the order of the contract, as one Arrow table.

    Of `columns` those that are known by name but absent come as nulls; others are an error.
    """
    known, path = table_of(table), accepted(data, table)
    stored = schema_of(path)
    names = list(columns) if columns is not None else stored.names
    if lost := [n for n in names if n not in stored.names and known.column(n) is None]:
        raise BadData(f"{path} has no column '{lost[0]}'; it has: {', '.join(stored.names)}")
    order = [name for name in known.order if name in stored.names]
    wanted = list(dict.fromkeys([*(n for n in names if n in stored.names), *order]))
    source = ds.dataset(path, schema=stored, format="parquet", partitioning="hive")
    rows = source.to_table(columns=wanted)
    keys = [(name, "ascending", "at_start") for name in order]  # nulls first, as Spark has them
    rows = rows.take(pc.sort_indices(rows, sort_keys=keys))  # a stable sort
    return pa.table({name: _canonical(rows, name, known) for name in names})


def _canonical(rows: pa.Table, name: str, known: Table) -> pa.ChunkedArray:
    column = known.column(name)
    if name not in rows.column_names:
        assert column is not None
        return pa.chunked_array([pa.nulls(len(rows), column.type)])
    wanted = column.type if column else plain(rows.schema.field(name).type)
    return rows.column(name).cast(wanted)


def structure(data: Path) -> dict[str, pa.Schema]:
    """The tables that are there, with the columns they have.

    Raises `BadData` with everything that makes checking single rows pointless: tables and required
    columns that are missing, columns of a type that cannot be converted, unreadable files.
    """
    if not data.is_dir():
        raise BadData(f"no data set in {data}: no such directory; make one with `funnel import`")
    there = [name for name in TABLES if has(data, name)]
    problems = []
    if "items" not in there:
        problems.append(f"the table items/ is missing; found: {', '.join(there) or 'no table'}")
    if "qrels" in there and "queries" not in there:
        problems.append("the table queries/ is missing, qrels/ needs it")
    schemas: dict[str, pa.Schema] = {}
    for name in there:
        try:
            schemas[name] = schema_of(data / name)
        except BadData as error:
            problems.append(str(error))
        else:
            problems += _problems(TABLES[name], schemas[name])
    if problems:
        raise BadData(f"the data set {data} breaks its contract:\n  " + "\n  ".join(problems))
    return schemas


def _problems(table: Table, schema: pa.Schema) -> list[str]:
    where, names = f"{table.name}/", schema.names
    found = []
    for name in table.required:
        if name not in names:
            kind = shown(_known(table, name).type)
            found.append(
                f"{where} lacks the required column '{name}' ({kind}); it has: {', '.join(names)}"
            )
    folded: dict[str, str] = {}
    for name in names:
        twin = folded.setdefault(name.lower(), name)
        if twin != name or names.count(name) > 1:
            found.append(f"{where} has the columns '{twin}' and '{name}': rename one of them")
        stored, column = plain(schema.field(name).type), table.column(name)
        if pt.is_time(stored) or pt.is_float16(stored):
            found.append(f"{where} column '{name}' is {stored}: store it as a number or a string")
        elif column is not None and not convertible(stored, column.type, name):
            kind = shown(column.type)
            found.append(
                f"{where} column '{name}' is {shown(stored)} and cannot become {kind}: "
                "convert it, or rename it if it means something else"
            )
    return found


def _known(table: Table, name: str) -> Column:
    column = table.column(name)
    assert column is not None
    return column


def schema_of(path: Path) -> pa.Schema:
    """The columns of all the files of a table, partitions included, without Arrow's encodings.

    Raises `BadData` where a file is unreadable or two files disagree on a type.
    """
    fields: dict[str, tuple[pa.DataType, Path]] = {}
    for file in _files(path):
        try:
            schema = pq.read_schema(file)
        except (OSError, pa.ArrowInvalid) as error:
            raise BadData(f"{file} is not a readable Parquet file: {error}") from error
        for field in schema:
            kind, first = fields.setdefault(field.name, (plain(field.type), file))
            if kind != plain(field.type):
                raise BadData(
                    f"column '{field.name}' is {shown(kind)} in {first} and "
                    f"{shown(plain(field.type))} in {file}: write both alike"
                )
    listed = ds.dataset(path, format="parquet", partitioning="hive").schema
    for field in listed:
        fields.setdefault(field.name, (plain(field.type), path))
    return pa.schema([(name, kind) for name, (kind, _) in fields.items()])


def row_count(path: Path) -> int:
    """Rows of a table, by its files' footers."""
    return sum(pq.read_metadata(file).num_rows for file in _files(path))


def digest(data: Path, table: str) -> str:
    """What a table's files are, by names, sizes and ends: it survives copying the data set."""
    state = blake2b(digest_size=16)
    root = data / table
    for file in _files(root):
        with file.open("rb") as stream:
            size = file.stat().st_size
            stream.seek(max(size - TAIL, 0))
            state.update(f"{file.relative_to(root)}\0{size}\0".encode() + stream.read())
    return state.hexdigest()


def digests(path: Path) -> dict[str, Path]:
    """The Parquet files of a table, each by what it is: its name, size and end."""
    found = {}
    for file in _files(path):
        with file.open("rb") as stream:
            size = file.stat().st_size
            stream.seek(max(size - TAIL, 0))
            about = f"{file.relative_to(path)}\0{size}\0".encode() + stream.read()
        found[blake2b(about, digest_size=12).hexdigest()] = file
    return found


def _files(path: Path) -> list[Path]:
    """The Parquet files in order of their names; hidden and `_` files and folders do not count."""
    return [
        file
        for file in sorted(path.rglob("*.parquet"))
        if not any(part[0] in "._" for part in file.relative_to(path).parts) and file.is_file()
    ]


def plain(kind: pa.DataType) -> pa.DataType:
    """The type of the values, without Arrow's ways of encoding them."""
    if pt.is_dictionary(kind):
        return plain(kind.value_type)
    if pt.is_large_string(kind) or pt.is_string_view(kind):
        return pa.string()
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        return pa.list_(plain(kind.value_type))
    return kind


def shown(kind: pa.DataType) -> str:
    """A type's name as in the documentation."""
    if pt.is_list(kind):
        return f"list<{shown(kind.value_type)}>"
    return {"double": "float64", "float": "float32"}.get(str(kind), str(kind))


def convertible(stored: pa.DataType, wanted: pa.DataType, name: str = "") -> bool:
    """Whether values of one type can, one by one, become the other without guessing."""
    stored, wanted = plain(stored), plain(wanted)
    if stored == wanted or pt.is_null(stored):
        return True
    number = pt.is_integer(stored) or pt.is_floating(stored) or pt.is_decimal(stored)
    if pt.is_string(wanted):  # a float is no id: 7 would become 7.0
        return bool(pt.is_integer(stored) or pt.is_boolean(stored) or pt.is_date(stored))
    if pt.is_list(stored) and pt.is_list(wanted):
        return convertible(stored.value_type, wanted.value_type)
    if pt.is_timestamp(stored) or pt.is_date(stored):
        return name in TIMES and bool(pt.is_int64(wanted))
    if pt.is_boolean(wanted):
        return bool(pt.is_string(stored) or pt.is_integer(stored))
    if pt.is_integer(wanted) or pt.is_floating(wanted):
        return bool(number or pt.is_string(stored))
    return False
