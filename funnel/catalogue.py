"""
The catalogue of a generation: every item column in one memory-mapped Arrow file, and the attributes
that stages use as NumPy arrays. Row numbers are the order of the ids. The users of a generation
have the same form under `users/`, with `user_id` as their key.

    items/table.arrow             all columns, one record batch, sorted by the key
    items/hash.npy, hash_rows.npy 64-bit hashes of the ids, sorted, and their rows
    items/<name>.codes.npy        categorical: (n,) int32 into <name>.values.arrow, -1 where missing
    items/<name>.offsets.npy      multi-valued: (n + 1,) int64 into <name>.codes.npy
    items/<name>.number.npy       numeric: (n,) float64, NaN where missing
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from funnel.errors import BadData, BadGeneration
from funnel.types import NO_ITEM, Array, Rows


def id_hash(item_id: str) -> int:
    """A stable 64-bit hash of an id."""
    return int.from_bytes(blake2b(item_id.encode(), digest_size=8).digest(), "little")


class Catalogue:
    """The items (or users) of one generation, opened from its `items/` (`users/`) directory.

    `version` changes with what is in it: only a live catalogue's does (funnel.overlay). `base` is
    the number of rows that the generation has.
    """

    version = 0

    def __init__(self, path: Path, key: str = "item_id"):
        self.path = path
        self.key = key
        try:
            source = pa.memory_map(str(path / "table.arrow"))
            self.table: pa.Table = pa.ipc.open_file(source).read_all()
        except (OSError, pa.ArrowInvalid) as error:
            raise BadGeneration(f"cannot read the catalogue in {path}: {error}") from error
        self.base = len(self.table)
        self._hashes: NDArray[np.uint64] = np.load(path / "hash.npy", mmap_mode="r")
        self._hash_rows: Rows = np.load(path / "hash_rows.npy", mmap_mode="r")

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def ids(self) -> pa.StringArray:
        return one_chunk(self.table.column(self.key))

    @cached_property
    def titles(self) -> pa.StringArray:
        return one_chunk(self.table.column("title"))

    def item_id(self, row: int) -> str:
        return str(self.ids[row].as_py())

    def item_ids(self, rows: Array) -> list[str]:
        return list(self.ids.take(pa.array(np.asarray(rows, np.int64))).to_pylist())

    def row(self, item_id: str) -> int:
        """The row of an item, `NO_ITEM` where the catalogue does not have it."""
        return int(self.rows([item_id])[0])

    def rows(self, item_ids: Sequence[str]) -> Rows:
        """(k,) rows, `NO_ITEM` where the catalogue does not have the item."""
        if not len(item_ids) or not len(self):
            return np.full(len(item_ids), NO_ITEM, np.int32)
        hashes = np.fromiter((id_hash(i) for i in item_ids), np.uint64, len(item_ids))
        place = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        found = self._hashes[place] == hashes
        return np.where(found, self._hash_rows[place], NO_ITEM).astype(np.int32)

    def take(self, rows: Array) -> pa.Table:
        """The rows with all their columns, for a page."""
        return self.table.take(pa.array(np.asarray(rows, np.int64)))

    def still(self) -> AbstractContextManager[object]:
        """Within it nothing changes, for readers of more than one column; short, please."""
        return nullcontext()

    @property
    def alive(self) -> NDArray[np.bool_] | None:
        """(n,) False for deleted items; None while there are none."""
        return None

    @property
    def fresh_hashes(self) -> NDArray[np.uint64]:
        """The hashed ids of the rows from `base` on."""
        return np.empty(0, np.uint64)

    def has(self, kind: str, name: str) -> bool:
        """Whether attribute `name` is there as `codes`, `offsets` or `number`."""
        return (self.path / f"{name}.{kind}.npy").exists()

    def codes(self, name: str) -> NDArray[np.int32]:
        """Categorical: (n,) codes, -1 where missing; multi-valued: all codes, see `offsets`."""
        return self._array(f"{name}.codes")

    def bounds(self, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Multi-valued: the codes of row r are `codes[starts[r]:ends[r]]`."""
        offsets = self.offsets(name)
        return offsets[:-1], offsets[1:]

    def offsets(self, name: str) -> NDArray[np.int64]:
        """Multi-valued: the bounds as they are stored, by themselves only of use to the build."""
        return self._array(f"{name}.offsets")

    def numbers(self, name: str) -> NDArray[np.float64]:
        """(n,) values, NaN where missing."""
        return self._array(f"{name}.number")

    def values(self, name: str) -> list[str]:
        """The values that the codes of `name` stand for."""
        if name not in self._values:
            with pa.memory_map(str(self.path / f"{name}.values.arrow")) as source:
                table = pa.ipc.open_file(source).read_all()
            self._values[name] = table.column(0).to_pylist()
        return self._values[name]

    def ordered(self, name: str) -> int:
        """How many of the values are sorted, from the first; others came later."""
        return len(self.values(name))

    @cached_property
    def _values(self) -> dict[str, list[str]]:
        return {}

    @cached_property
    def _arrays(self) -> dict[str, Array]:
        return {}

    def _array(self, name: str) -> Array:
        if name not in self._arrays:
            path = self.path / f"{name}.npy"
            if not path.exists():
                raise BadGeneration(f"{path} is missing: build the generation again")
            self._arrays[name] = np.load(path, mmap_mode="r")
        return self._arrays[name]


def one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def write_catalogue(
    path: Path,
    items: pa.Table,
    categorical: Iterable[str],
    multi: Iterable[str],
    numeric: Iterable[str],
    key: str = "item_id",
) -> None:
    """Writes `items/` (or `users/`). The table must be sorted by `key`, without repeats.

    Attributes that the table does not have are an error that names those it has.
    """
    path.mkdir(parents=True, exist_ok=True)
    items = items.combine_chunks()
    ids = one_chunk(items.column(key)).to_pylist()
    if any(a >= b for a, b in pairwise(ids)):
        raise BadData(f"the table is not sorted by {key}, or one repeats")
    schema = items.schema
    with pa.OSFile(str(path / "table.arrow"), "wb") as sink, pa.ipc.new_file(sink, schema) as out:
        out.write_table(items, max_chunksize=max(len(items), 1))
    hashes = np.fromiter((id_hash(i) for i in ids), np.uint64, len(ids))
    order = np.argsort(hashes, kind="stable")
    if np.any(np.diff(hashes[order]) == 0):
        raise BadData("two ids have the same 64-bit hash; rename one of them")
    np.save(path / "hash.npy", hashes[order])
    np.save(path / "hash_rows.npy", order.astype(np.int32))
    for name in categorical:
        encoded = one_chunk(_column(items, name).cast(pa.string())).dictionary_encode()
        _write_codes(path, name, encoded)
    for name in multi:
        lists = one_chunk(_column(items, name))
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
        np.save(path / f"{name}.offsets.npy", np.concatenate([[0], np.cumsum(lengths)]))
        _write_codes(path, name, pc.list_flatten(lists).cast(pa.string()).dictionary_encode())
    for name in numeric:
        column = one_chunk(_column(items, name).cast(pa.float64()))
        np.save(path / f"{name}.number.npy", column.to_numpy(zero_copy_only=False))


def _column(items: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in items.column_names:
        known = ", ".join(items.column_names)
        raise BadData(f"the config names the column '{name}'; the data set has: {known}")
    return items.column(name)


def _write_codes(path: Path, name: str, encoded: pa.DictionaryArray) -> None:
    """Codes in the order of the values, so that they do not depend on the order of the items."""
    order = pc.array_sort_indices(encoded.dictionary).to_numpy()
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
    ranked = np.where(codes >= 0, rank[codes], -1) if len(order) else np.full(len(codes), -1)
    np.save(path / f"{name}.codes.npy", ranked.astype(np.int32))
    values = pa.table({"value": encoded.dictionary.take(pa.array(order))})
    target = str(path / f"{name}.values.arrow")
    with pa.OSFile(target, "wb") as sink, pa.ipc.new_file(sink, values.schema) as out:
        out.write_table(values)
