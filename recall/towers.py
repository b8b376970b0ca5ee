"""
Two towers, as they are served: queries, histories and items as vectors of one space, in NumPy.

    item     i = unit(g_item(Σ_w e_w/|text| + Σ_c e_c/|codes| + e_id))
    query    q = unit(g_query(Σ_f a_f·e_f / Σ_f a_f))        f: words, and character n-grams
    user     u = unit(g_user(Σ_h a_h·i_h / Σ_h a_h))         h: the items of the history
    g(x)     = x + relu(x·W + b)·V + c

All words, n-grams and category codes share one table of embeddings by hash, so that a query finds
a word of a text before anybody clicked, and an item that nobody ever saw has a vector by what it
is (e_id = 0). Trained by `jobs.two_tower`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from funnel.errors import BadGeneration
from funnel.types import Array
from recall.encoder import documents, unit_rows
from recall.text import Analyzer, analyzer, texts

GRAM = 0.2  # weight of a character n-gram against a word
WORDS = 64  # different words of a text that count, the first ones


@dataclass(frozen=True, slots=True, eq=False)
class Bags:
    """k bags of weighted embeddings, as CSR arrays."""

    indptr: Array  # (k + 1,) int64
    indices: Array  # (m,) int64, places in the table
    weights: Array  # (m,) float32

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @staticmethod
    def of(found: Iterable[dict[int, float]]) -> Bags:
        sizes, places, weights = [0], [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        for bag in found:
            sizes.append(len(bag))
            places.append(np.fromiter(bag, np.int64, len(bag)))
            weights.append(np.fromiter(bag.values(), np.float32, len(bag)))
        return Bags(np.cumsum(sizes), np.concatenate(places), np.concatenate(weights))

    def take(self, chosen: Array) -> Bags:
        sizes = np.diff(self.indptr)[chosen]
        indptr = np.concatenate([[0], np.cumsum(sizes)])
        at = np.repeat(self.indptr[chosen] - indptr[:-1], sizes) + np.arange(indptr[-1])
        return Bags(indptr, self.indices[at], self.weights[at])

    def sums(self, table: Array) -> Array:
        """(k, d) float32 weighted sums of the table's rows."""
        matrix = sp.csr_matrix(
            (self.weights, self.indices, self.indptr), shape=(len(self), len(table))
        )
        return np.asarray(matrix @ table, np.float32)


@dataclass(frozen=True, slots=True)
class Reader:
    """What the towers see of queries and items."""

    buckets: int  # rows of the table
    language: str
    columns: tuple[str, ...]  # of an item, that are its text
    codes: tuple[str, ...]  # columns of an item with values out of a set, or lists of such
    words: Analyzer = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", analyzer(self.language))

    def query(self, text: str) -> dict[int, float]:
        """Buckets of the words and their n-grams; weights add up to 1."""
        bag: dict[int, float] = {}
        for word in self.words(text):
            self._add(bag, "w" + word, 1.0)
            marked = f"<{word}>"
            for n in (3, 4, 5):
                for start in range(len(marked) - n + 1):
                    self._add(bag, "g" + marked[start : start + n], GRAM)
        return shared(bag)

    def queries(self, texts: Sequence[str]) -> Bags:
        return Bags.of(map(self.query, texts))

    def items(self, items: pa.Table) -> Bags:
        """Of each item the words of its text, which add up to 1, and its codes, which do too."""
        columns = [(name, items.column(name)) for name in self.codes if name in items.column_names]
        listed = [(name, values(column)) for name, column in columns]
        return Bags.of(
            self._item(text, [(name, column[row]) for name, column in listed])
            for row, text in enumerate(documents(items, self.columns))
        )

    def _item(self, text: str, codes: Sequence[tuple[str, list[str]]]) -> dict[int, float]:
        bag: dict[int, float] = {}
        for word in list(dict.fromkeys(self.words(text)))[:WORDS]:
            self._add(bag, "w" + word, 1.0)
        coded: dict[int, float] = {}
        for name, found in codes:
            for value in found:
                parts = value.split("/")
                for end in range(1, len(parts) + 1):  # a path says each of its beginnings
                    self._add(coded, f"c{name}={'/'.join(parts[:end])}", 1.0)
        bag = shared(bag)
        for bucket, weight in shared(coded).items():
            bag[bucket] = bag.get(bucket, 0.0) + weight
        return bag

    def _add(self, bag: dict[int, float], name: str, weight: float) -> None:
        bucket = crc32(name.encode()) % self.buckets
        bag[bucket] = bag.get(bucket, 0.0) + weight


def shared(bag: dict[int, float]) -> dict[int, float]:
    """The same with weights that add up to 1."""
    total = sum(bag.values())
    return {bucket: weight / total for bucket, weight in bag.items()}


def values(column: pa.ChunkedArray) -> list[list[str]]:
    """Each item's values of a column, with a list or one value an item."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return [[str(v) for v in many if v] if many else [] for many in column.to_pylist()]
    return [[one] if one else [] for one in texts(column)]


@dataclass(frozen=True, slots=True, eq=False)
class Layers:
    """g: two layers beside the identity."""

    w: Array  # (d, h)
    b: Array  # (h,)
    v: Array  # (h, d)
    c: Array  # (d,)

    def unit(self, x: Array) -> Array:
        """unit(g(x)) of each row (k, d); a row of zeros stays zero."""
        out = x + np.maximum(x @ self.w + self.b, 0) @ self.v + self.c
        out[~np.any(x != 0, axis=1)] = 0
        return np.asarray(unit_rows(out), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Towers:
    reader: Reader
    table: Array  # (buckets, d) float32
    ids: Array  # (n, d) float32, of the items known in training
    query: Layers
    user: Layers
    item: Layers

    def of_text(self, text: str) -> Array:
        """(d,) the query's vector; zeros for a text without words."""
        bag = self.reader.query(text)
        if not bag:
            return np.zeros(self.table.shape[1], np.float32)
        places, weights = np.fromiter(bag, np.int64), np.fromiter(bag.values(), np.float32)
        found: Array = self.query.unit((weights @ self.table[places])[None])[0]
        return found

    def of_history(self, items: Array, weights: Array) -> Array:
        """(d,) the user's vector: items (k, d) are vectors of what they wanted, weights (k,)."""
        mean = (weights @ items) / max(float(weights.sum()), 1e-12)
        found: Array = self.user.unit(np.asarray(mean, np.float32)[None])[0]
        return found

    def of_items(self, bags: Bags, rows: Array) -> Array:
        """(k, d) vectors of items; rows from len(ids) on are judged by what they are alone."""
        x = bags.sums(self.table)
        known = rows < len(self.ids)
        x[known] += self.ids[rows[known]]
        return self.item.unit(x)

    def save(self, path: Path) -> None:
        """Into a new directory."""
        path.mkdir(parents=True)
        for name in ("table", "ids"):
            np.save(path / f"{name}.npy", getattr(self, name))
        for tower in ("query", "user", "item"):
            for part in Layers.__slots__:
                np.save(path / f"{tower}.{part}.npy", getattr(getattr(self, tower), part))
        reader = self.reader
        names = {"columns": list(reader.columns), "codes": list(reader.codes)}
        about = {"buckets": reader.buckets, "language": reader.language, **names}
        (path / "towers.json").write_text(json.dumps(about))

    @staticmethod
    def load(path: Path) -> Towers:
        """Memory-mapped. Raises `BadGeneration` where a file is missing or corrupt."""
        try:
            about = json.loads((path / "towers.json").read_text())
            reader = Reader(
                about["buckets"], about["language"], tuple(about["columns"]), tuple(about["codes"])
            )
            table, ids = (np.load(path / f"{n}.npy", mmap_mode="r") for n in ("table", "ids"))
            towers = {
                tower: Layers(*(np.load(path / f"{tower}.{n}.npy") for n in Layers.__slots__))
                for tower in ("query", "user", "item")
            }
        except (OSError, ValueError, KeyError) as error:
            raise BadGeneration(
                f"cannot read the towers in {path}: {error}; build the generation again"
            ) from error
        return Towers(reader, table, ids, **towers)


__all__ = ["Bags", "Layers", "Reader", "Towers"]
