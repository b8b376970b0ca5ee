"""
An inverted index as flat arrays: which rows have a term, and how often.

    <path>/words.arrow       the vocabulary, sorted; a term is its place in it
    <path>/hashes.npy        (v,) uint64, sorted, and hash_terms.npy (v,) int32: a word's term
    <path>/starts.npy        (v + 1,) int64 into rows.npy int32 (rising within a term) and tf.npy
    <path>/lengths.npy       (n,) float32, how many words a row has, counted like tf
    <path>/ends.npy          (n + 1,) int64 into terms.npy int32: the terms of a row, in order

In `terms` a number -w says that what follows counts w times (a column with its boost): it
separates columns and makes the counts of the inverted half follow from the forward half alone.
Everything is made from the forward half, so what is merged equals what is built afresh.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numba
import numpy as np
import pyarrow as pa

from funnel.errors import BadData, BadGeneration
from funnel.types import Array
from recall.text import Analyzer, texts

META = "lexical.json"
FORMAT = 2
BATCH = 10_000  # rows read at once
MOST = 65_535  # that a word is counted in a row


def word_hash(word: str) -> int:
    """A stable 64-bit hash of a word."""
    return int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True, eq=False)
class Forward:
    """The terms of every row in order, with the marks of the columns."""

    ends: Array  # (n + 1,) int64
    terms: Array  # (m,) int32

    def __len__(self) -> int:
        return len(self.ends) - 1


@dataclass(frozen=True, eq=False)
class Postings:
    """Term t is in rows[starts[t]:starts[t + 1]], tf times in each."""

    starts: Array  # (v + 1,) int64
    rows: Array  # (m,) int32
    tf: Array  # (m,) uint16
    lengths: Array  # (n,) float32

    def df(self, terms: Array) -> Array:
        """In how many rows each term is."""
        counts: Array = self.starts[terms + 1] - self.starts[terms]
        return counts


class Words:
    """The vocabulary of an index; read by hash, so that nothing is loaded."""

    def __init__(self, words: pa.StringArray, hashes: Array, terms: Array):
        self.words, self.hashes, self.terms = words, hashes, terms

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, term: int) -> str:
        return str(self.words[int(term)].as_py())

    def find(self, words: Sequence[str]) -> list[int]:
        """The term of each word, -1 where it is not known."""
        if not words or not len(self.hashes):
            return [-1] * len(words)
        hashes = np.fromiter((word_hash(word) for word in words), np.uint64, len(words))
        place = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        known = self.hashes[place] == hashes
        return [int(t) if k else -1 for t, k in zip(self.terms[place], known, strict=True)]

    @staticmethod
    def of(words: pa.StringArray) -> Words:
        """`words` are sorted and distinct."""
        hashes = np.fromiter((word_hash(w) for w in words.to_pylist()), np.uint64, len(words))
        order = np.argsort(hashes, kind="stable")
        if np.any(np.diff(hashes[order]) == 0):
            raise BadData("two words have the same 64-bit hash; leave one of them out")
        return Words(words, hashes[order], order.astype(np.int32))


class Coder:
    """Words to terms, while texts are read: known ones keep theirs, new ones get the next."""

    def __init__(self, analyze: Analyzer, known: Words | None = None):
        self.analyze, self.known = analyze, known
        self.first = len(known) if known else 0
        self.new: dict[str, int] = {}

    def code(self, columns: Mapping[str, pa.Array], repeats: Mapping[str, int]) -> Forward:
        """The rows of a batch; all columns are equally long."""
        ends, terms = [0], list[int]()
        for row in zip(*(texts(columns[name]) for name in repeats), strict=True):
            for text, count in zip(row, repeats.values(), strict=True):
                words = self.analyze(text) if text else ()
                if words:
                    terms.append(-count)
                    terms += self.terms(words)
            ends.append(len(terms))
        return Forward(np.array(ends, np.int64), np.array(terms, np.int32))

    def terms(self, words: Sequence[str]) -> list[int]:
        new = self.new
        if self.known is None:
            return [new.setdefault(word, len(new)) for word in words]
        found = self.known.find(words)
        return [
            term if term >= 0 else new.setdefault(word, self.first + len(new))
            for word, term in zip(words, found, strict=True)
        ]


def joined(parts: Iterable[Forward]) -> Forward:
    """One after the other."""
    parts = list(parts)
    if not parts:
        return Forward(np.zeros(1, np.int64), np.empty(0, np.int32))
    shift = np.cumsum([0, *(len(part.terms) for part in parts)])
    ends = [part.ends[1:] + add for part, add in zip(parts, shift[:-1], strict=True)]
    return Forward(
        np.concatenate([np.zeros(1, np.int64), *ends]),
        np.concatenate([part.terms for part in parts]),
    )


def sorted_words(words: Sequence[str], forward: Forward) -> tuple[pa.StringArray, Forward]:
    """Terms renumbered in the order of the words; words that no row has are left out."""
    used = np.zeros(len(words), bool)
    used[forward.terms[forward.terms >= 0]] = True
    kept = sorted((words[int(place)], int(place)) for place in np.flatnonzero(used))
    renumbered = np.full(max(len(words), 1), -1, np.int32)
    for term, (_, place) in enumerate(kept):
        renumbered[place] = term
    terms = np.where(
        forward.terms < 0, forward.terms, renumbered[np.maximum(forward.terms, 0)]
    ).astype(np.int32)
    return pa.array([word for word, _ in kept], pa.string()), Forward(forward.ends, terms)


def inverted(forward: Forward, v: int) -> Postings:
    """The other half, for terms below v."""
    df, lengths = _counts(forward.ends, forward.terms, v)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(df)])
    rows, tf = _fill(forward.ends, forward.terms, starts)
    return Postings(starts, rows, tf, lengths)


def write_index(
    path: Path, batches: Iterable[pa.RecordBatch], repeats: Mapping[str, int], analyze: Analyzer
) -> int:
    """Indexes the rows of all batches, in their order; how many of them have a word."""
    coder = Coder(analyze)
    parts = []
    for batch in batches:
        columns = {name: batch.column(name) for name in repeats}
        parts.append(coder.code(columns, repeats))
    words, forward = sorted_words(list(coder.new), joined(parts))
    return write(path, words, forward)


def write(path: Path, words: pa.StringArray, forward: Forward) -> int:
    """Writes both halves; how many rows have a word."""
    path.mkdir(parents=True, exist_ok=True)
    table, known = pa.table({"word": words}), Words.of(words)
    target = str(path / "words.arrow")
    with pa.OSFile(target, "wb") as sink, pa.ipc.new_file(sink, table.schema) as out:
        out.write_table(table, max_chunksize=max(len(table), 1))
    postings = inverted(forward, len(words))
    arrays = {
        "hashes": known.hashes,
        "hash_terms": known.terms,
        "starts": postings.starts,
        "rows": postings.rows,
        "tf": postings.tf,
        "lengths": postings.lengths,
        "ends": forward.ends,
        "terms": forward.terms,
    }
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array)
    (path / META).write_text(json.dumps({"format": FORMAT, "rows": len(forward)}))
    return int((postings.lengths > 0).sum())


def open_index(path: Path) -> tuple[Words, Postings, Forward]:
    """Memory-mapped. Raises `BadGeneration` for what is missing, corrupt or of another version."""
    try:
        meta = json.loads((path / META).read_text())
        if meta["format"] != FORMAT:
            raise ValueError(f"format {meta['format']}, not {FORMAT}")
        with pa.memory_map(str(path / "words.arrow")) as source:
            column = pa.ipc.open_file(source).read_all().column("word")

        def array(name: str) -> Array:
            found: Array = np.load(path / f"{name}.npy", mmap_mode="r")
            return found

        words = column.chunk(0) if column.num_chunks else pa.array([], pa.string())
        return (
            Words(words, array("hashes"), array("hash_terms")),
            Postings(array("starts"), array("rows"), array("tf"), array("lengths")),
            Forward(array("ends"), array("terms")),
        )
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowInvalid) as error:
        raise BadGeneration(
            f"cannot open the lexical index {path}: {error}; build the generation again"
        ) from error


@numba.njit(nogil=True, cache=True)
def _counts(ends, terms, v):  # type: ignore[no-untyped-def]  # pragma: no cover
    df = np.zeros(v, np.int64)
    lengths = np.zeros(len(ends) - 1, np.float32)
    seen = np.full(v, -1, np.int32)
    for row in range(len(ends) - 1):
        weight = 1
        for place in range(ends[row], ends[row + 1]):
            term = terms[place]
            if term < 0:
                weight = -term
            else:
                lengths[row] += weight
                if seen[term] != row:
                    seen[term] = row
                    df[term] += 1
    return df, lengths


@numba.njit(nogil=True, cache=True)
def _fill(ends, terms, starts):  # type: ignore[no-untyped-def]  # pragma: no cover
    rows = np.empty(starts[-1], np.int32)
    tf = np.empty(starts[-1], np.uint16)
    last = starts[:-1].copy() - 1
    for row in range(len(ends) - 1):
        weight = 1
        for place in range(ends[row], ends[row + 1]):
            term = terms[place]
            if term < 0:
                weight = -term
                continue
            at = last[term]
            if at < starts[term] or rows[at] != row:
                last[term] = at = at + 1
                rows[at] = row
                tf[at] = weight
            else:
                tf[at] = min(np.int64(tf[at]) + weight, MOST)
    return rows, tf
