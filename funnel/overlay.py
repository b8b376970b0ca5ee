"""
The live catalogue: a generation's items with everything that was upserted and deleted since.

An item that the generation has keeps its row; a new one gets the next row, in the order in which
the log names them first, so every process counts alike. A deleted item keeps its row as well, dead
until an upsert revives it. Columns are the generation's own, memory-mapped, until the first change;
from then on they are copies with room at the end.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.tokens import codes as word_codes
from funnel.catalogue import Catalogue, id_hash, one_chunk
from funnel.types import NO_ITEM, Array, Rows

log = logging.getLogger(__name__)

TOKENS = "tokens"
ROOM = 1024  # the least that a column grows by
SEGMENTS = 64  # tables of changed items before they become one


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """One entry of the catalogue's log: whole items, with columns of items/, or ids that go."""

    items: pa.Table | None = None
    deleted: tuple[str, ...] = ()

    def __len__(self) -> int:
        return (0 if self.items is None else len(self.items)) + len(self.deleted)


@dataclass(frozen=True, slots=True, eq=False)
class Applied:
    """What a batch of changes came to: the items that are there now, each once, with their rows."""

    rows: Rows
    items: pa.Table


class LiveCatalogue(Catalogue):
    """The items of a generation that change. One thread calls `apply`, any number read."""

    def __init__(self, path: Path, key: str = "item_id"):
        super().__init__(path, key)
        self.version = 0
        self._n = self.base
        self._lock = threading.RLock()
        self._fresh: dict[str, int] = {}  # new ids -> rows
        self._fresh_ids: list[str] = []
        self._hashes_fresh = _Column(np.empty(0, np.uint64))
        self._alive: _Column | None = None
        self._columns: dict[str, _Column] = {}
        self._starts: dict[str, _Column] = {}
        self._ends: dict[str, _Column] = {}
        self._codes_by_value: dict[str, dict[str, int]] = {}
        self._sorted: dict[str, int] = {}  # values that the generation has
        self._changed = _Items(self.table.schema)
        names = sorted(file.name for file in path.glob("*.npy"))
        self._numeric = tuple(n.removesuffix(".number.npy") for n in names if ".number." in n)
        self._ragged = tuple(n.removesuffix(".offsets.npy") for n in names if ".offsets." in n)
        coded = tuple(n.removesuffix(".codes.npy") for n in names if ".codes." in n)
        self._coded = tuple(name for name in coded if name not in self._ragged)

    def __len__(self) -> int:
        return self._n

    def still(self) -> AbstractContextManager[object]:
        return self._lock

    @property
    def alive(self) -> NDArray[np.bool_] | None:
        return None if self._alive is None else self._alive.here

    @property
    def fresh_hashes(self) -> NDArray[np.uint64]:
        return self._hashes_fresh.here

    def item_ids(self, rows: Array) -> list[str]:
        rows = np.asarray(rows, np.int64)
        known = super().item_ids(np.minimum(rows, self.base - 1)) if self.base else [""] * len(rows)
        for place in np.flatnonzero(rows >= self.base).tolist():
            known[place] = self._fresh_ids[rows[place] - self.base]
        return known

    def item_id(self, row: int) -> str:
        return self.item_ids(np.array([row]))[0]

    def rows(self, item_ids: Sequence[str]) -> Rows:
        found = super().rows(item_ids)
        if self._fresh:
            with self._lock:  # a row that is told has its columns
                for place in np.flatnonzero(found == NO_ITEM).tolist():
                    found[place] = self._fresh.get(item_ids[place], NO_ITEM)
        return found

    def take(self, rows: Array) -> pa.Table:
        with self._lock:
            rows = np.asarray(rows, np.int64)
            places = self._changed.places(rows)
            old, new = places < 0, places >= 0
            if not new.any():
                return super().take(rows)
            parts = [super().take(rows[old]), self._changed.take(places[new])]
        order = np.empty(len(rows), np.int64)
        order[np.concatenate([np.flatnonzero(old), np.flatnonzero(new)])] = np.arange(len(rows))
        return pa.concat_tables(parts).take(pa.array(order))

    def codes(self, name: str) -> Array:
        return self._column(f"{name}.codes")

    def numbers(self, name: str) -> NDArray[np.float64]:
        return self._column(f"{name}.number")

    def bounds(self, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        with self._lock:
            if name in self._starts:
                return self._starts[name].here, self._ends[name].here
        return super().bounds(name)

    def ordered(self, name: str) -> int:
        return self._sorted.get(name, len(self.values(name)))

    def apply(self, changes: Sequence[Change]) -> Applied:
        """Takes the changes, in their order; readers see all of them or, under `still`, none.

        How the changes are cut into calls makes no difference to what is there afterwards.
        """
        parts = [fitted(c.items, self.table.schema) for c in changes if c.items is not None]
        table = pa.concat_tables([self.table.schema.empty_table(), *parts]).combine_chunks()
        ids = table.column(self.key).to_pylist()
        with self._lock:
            rows = self._placed(ids)
            fate = self._fates(changes, rows)
            last = _last(rows)
            self._patch(table, rows, last)
            self._bury(fate)
            self._changed.put(rows[last], table.take(pa.array(last)))
            self._n = self.base + len(self._fresh_ids)
            self.version += 1
        there = np.array([fate[int(row)] for row in rows[last]], bool)
        return Applied(rows[last][there], table.take(pa.array(last[there])))

    def _placed(self, ids: Sequence[str]) -> Rows:
        """The rows of the ids; those that are new get theirs."""
        rows = self.rows(ids)
        hashes: list[int] = []
        for place in np.flatnonzero(rows == NO_ITEM).tolist():
            id = ids[place]
            if id not in self._fresh:
                self._fresh_ids.append(id)
                self._fresh[id] = self.base + len(self._fresh_ids) - 1
                hashes.append(id_hash(id))
            rows[place] = self._fresh[id]
        before = len(self._hashes_fresh.here)
        new = np.arange(before, before + len(hashes))
        self._hashes_fresh.put(new, np.array(hashes, np.uint64), before + len(hashes))
        return rows

    def _fates(self, changes: Sequence[Change], rows: Rows) -> dict[int, bool]:
        """Row -> whether it is there in the end, of every row that the changes name."""
        fate: dict[int, bool] = {}
        place = 0
        for change in changes:
            if change.items is not None:
                fate |= dict.fromkeys(rows[place : place + len(change.items)].tolist(), True)
                place += len(change.items)
            # An id that a later change upserts for the first time has its row already: it is there
            # in the end, as that change says.
            gone = self.rows(list(change.deleted))
            fate |= dict.fromkeys(gone[gone != NO_ITEM].tolist(), False)
        return fate

    def _patch(self, table: pa.Table, rows: Rows, last: NDArray[np.int64]) -> None:
        n, own = self.base + len(self._fresh_ids), rows[last]
        for name in self._numeric:
            column = one_chunk(table.column(name).cast(pa.float64()))
            values = column.to_numpy(zero_copy_only=False)
            self._grown(f"{name}.number", np.nan).put(own, values[last], n)
        for name in self._coded:
            codes = self._encoded(name, one_chunk(table.column(name).cast(pa.string())))
            self._grown(f"{name}.codes", -1).put(own, codes[last], n)
        for name in self._ragged:
            if name == TOKENS:
                titles = table.column("title").to_pylist()
                lists = [word_codes(titles[place] or "") for place in last.tolist()]
                lengths = np.array([len(one) for one in lists], np.int64)
                codes = np.concatenate([np.empty(0, np.uint32), *lists])
            else:
                column = one_chunk(table.column(name))
                self._encoded(
                    name, pc.list_flatten(column).cast(pa.string())
                )  # in order of arrival
                column = column.take(pa.array(last))
                filled = pc.fill_null(pc.list_value_length(column), 0)
                lengths = filled.to_numpy(zero_copy_only=False).astype(np.int64)
                codes = self._encoded(name, pc.list_flatten(column).cast(pa.string()))
            self._put_lists(name, own, lengths, codes, n)

    def _put_lists(self, name: str, rows: Rows, lengths: Array, codes: Array, n: int) -> None:
        """New lists go to the end of the codes; what a changed row had before stays, unreached."""
        if name not in self._starts:
            starts, ends = super().bounds(name)
            self._starts[name], self._ends[name] = _Column(starts, 0), _Column(ends, 0)
        column = self._grown(f"{name}.codes", 0)
        stop = len(column.here)
        ends = stop + np.cumsum(lengths)
        column.put(np.arange(stop, stop + len(codes)), codes, stop + len(codes))
        self._starts[name].put(rows, ends - lengths, n)
        self._ends[name].put(rows, ends, n)

    def _encoded(self, name: str, column: pa.Array) -> NDArray[np.int32]:
        """The codes of the values; new values get the next ones."""
        encoded = column.dictionary_encode()
        known = self._codes_by_value.get(name)
        if known is None:
            known = {value: code for code, value in enumerate(self.values(name))}
            self._codes_by_value[name], self._sorted[name] = known, len(known)
        found = encoded.dictionary.to_pylist()
        new = [value for value in found if value is not None and value not in known]
        if new:
            known |= {value: code for code, value in enumerate(new, len(known))}
            self._values[name] = [*self.values(name), *new]
        table = np.array([known.get(value, -1) for value in [*found, None]], np.int32)
        codes = pc.fill_null(encoded.indices, len(found)).to_numpy(zero_copy_only=False)
        found_codes: NDArray[np.int32] = table[codes]
        return found_codes

    def _bury(self, fate: dict[int, bool]) -> None:
        if self._alive is None:
            if all(fate.values()):
                return
            self._alive = _Column(np.ones(self._n, bool), True)
        n = self.base + len(self._fresh_ids)
        rows = np.fromiter(fate, np.int64, len(fate))
        self._alive.put(rows, np.fromiter(fate.values(), bool, len(fate)), n)

    def _column(self, name: str) -> Array:
        column = self._columns.get(name)
        return self._array(name) if column is None else column.here

    def _grown(self, name: str, missing: float) -> _Column:
        if name not in self._columns:
            self._columns[name] = _Column(self._array(name), missing)
        return self._columns[name]


def fitted(items: pa.Table, schema: pa.Schema) -> pa.Table:
    """The items with the columns of a schema; what it does not name is left out."""
    columns = []
    for field in schema:
        column = pa.nulls(len(items), field.type)
        if field.name in items.column_names:
            try:
                column = items.column(field.name).cast(field.type)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                log.warning("upserted items go without '%s': %s", field.name, error)
        columns.append(column)
    return pa.table(columns, schema=schema)


class _Column:
    """An array that grows. `here` is what it holds; the first one is never written to."""

    def __init__(self, first: Array, missing: float = 0):
        self.here = first
        self._missing = missing
        self._room: Array | None = None

    def put(self, rows: Array, values: Array, n: int) -> None:
        """values[i] at rows[i], which are distinct; n rows in the end, new ones missing."""
        before = len(self.here)
        if not len(rows) and n == before:
            return
        if self._room is None or len(self._room) < n:
            room = np.empty(n + max(n // 4, ROOM), self.here.dtype)
            room[:before] = self.here
            self._room = room
        self._room[before:n] = self._missing
        self._room[rows] = values
        self.here = self._room[:n]


class _Items:
    """The changed items, whole, for pages: where each row's last version lies in some tables."""

    def __init__(self, schema: pa.Schema):
        self.table: pa.Table = schema.empty_table()
        self._where: dict[int, int] = {}

    def places(self, rows: Array) -> NDArray[np.int64]:
        """(k,) places in `table`, -1 for rows that never changed."""
        where = self._where
        return np.fromiter((where.get(row, -1) for row in rows.tolist()), np.int64, len(rows))

    def take(self, places: Array) -> pa.Table:
        return self.table.take(pa.array(places))

    def put(self, rows: Rows, items: pa.Table) -> None:
        start = len(self.table)
        self.table = pa.concat_tables([self.table, items])
        self._where |= {row: start + place for place, row in enumerate(rows.tolist())}
        if self.table.column(0).num_chunks > SEGMENTS:
            rows = np.fromiter(self._where, np.int64, len(self._where))
            held = np.fromiter(self._where.values(), np.int64, len(self._where))
            if len(held) < len(self.table) // 2:  # most of it is old versions
                self.table = self.table.take(pa.array(held))
                self._where = {row: place for place, row in enumerate(rows.tolist())}
            self.table = self.table.combine_chunks()


def _last(rows: Rows) -> NDArray[np.int64]:
    """The last place of every distinct row, rising."""
    _, first = np.unique(rows[::-1], return_index=True)
    return np.sort(len(rows) - 1 - first).astype(np.int64)
