"""
A lexical index that lives: the memory-mapped one of a generation and, beside it, small ones of what
changed since.

Each batch of changed rows is a segment of its own; segments of like size are merged, so there are
few. A row counts where it was written last. What a word is worth (its idf) and the mean length are
those of the generation until a new one is built; a word that the generation does not know has the
df that it has in the segments. `merged` is all of it as one index, equal to one built afresh.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import pyarrow as pa

from funnel.types import Array, Candidates, Rows, best
from recall.masks import Mask
from recall.postings import Coder, Forward, Postings, Words, inverted, joined, sorted_words
from recall.scan import Asked, Scan
from recall.text import Analyzer


@dataclass(frozen=True, eq=False)
class Segment:
    """Some rows of the catalogue: place i of the segment is rows[i]."""

    forward: Forward  # in terms of the whole lexicon
    scan: Scan
    rows: Rows | None = None  # rising; None: place i is row i
    terms: Array | None = None  # (v,) int32 rising, of the whole; None: they are the same
    alive: Mask | None = None  # False where a later segment has the row; None: nowhere

    def __len__(self) -> int:
        return len(self.forward)

    def own(self, asked: Asked) -> Asked:
        """In terms of the segment, without those that it does not have."""
        if self.terms is None:
            return asked.take(np.flatnonzero(asked.terms < len(self.scan.tops)))
        place = np.searchsorted(self.terms, asked.terms)
        here = np.flatnonzero(place < len(self.terms))
        here = here[self.terms[place[here]] == asked.terms[here]]
        return replace(asked.take(here), terms=place[here].astype(np.int64))

    def mask(self, allowed: Mask | None) -> Mask | None:
        """What is allowed, by place. A row beyond the mask came after it, and is not."""
        n = len(self)
        if allowed is None:
            return self.alive
        if self.rows is None:
            own = allowed[:n] if len(allowed) >= n else np.append(allowed, np.zeros(n, bool))[:n]
        else:
            own = np.zeros(n, bool)
            known = np.searchsorted(self.rows, len(allowed))
            own[:known] = allowed[self.rows[:known]]
        return own if self.alive is None else own & self.alive

    def global_rows(self, places: Array) -> Rows:
        rows: Rows = places if self.rows is None else self.rows[places]
        return rows

    def places(self, rows: Rows) -> Array:
        """(k,) where the rows are in here and alive, -1 for others."""
        if self.rows is None:
            place = np.where((rows >= 0) & (rows < len(self)), rows, -1)
        elif not len(self):
            return np.full(len(rows), -1)
        else:
            at = np.minimum(np.searchsorted(self.rows, rows), len(self) - 1)
            place = np.where(self.rows[at] == rows, at, -1)
        if self.alive is not None and len(self):
            place = np.where((place >= 0) & self.alive[place], place, -1)
        return place

    def without(self, rows: Rows) -> Segment:
        """Dead where another segment has the rows now."""
        place = self.places(rows)
        place = place[place >= 0]
        if not len(place):
            return self
        alive = np.ones(len(self), bool) if self.alive is None else self.alive.copy()
        alive[place] = False
        return replace(self, alive=alive)


Norms = Callable[[Postings, Array], Array]  # postings and the idf of their terms -> (n,) norms
Bonus = Callable[[Segment, Array, Array], Array]  # segment, places, scores -> new scores


class Lexicon:
    """`norms` and `k1` say what an impact is; see `recall.scan`."""

    def __init__(
        self,
        words: Words,
        postings: Postings,
        forward: Forward,
        analyze: Analyzer,
        repeats: Mapping[str, int],
        norms: Norms,
        k1: float,
    ):
        self.words, self.repeats, self.norms, self.k1 = words, repeats, norms, k1
        self.coder = Coder(analyze, words)
        self.rows = len(forward)
        self.df = np.diff(postings.starts)
        base = Segment(forward, Scan(postings, norms(postings, self._idf(self.df)), k1))
        self.segments: tuple[Segment, ...] = (base,)
        self._writer = threading.Lock()

    def _idf(self, df: Array) -> Array:
        """ln(1 + (n − df + ½) / (df + ½)), above 0 (Robertson and Spärck Jones 1976, as Lucene)."""
        n = max(self.rows, 1)
        df = np.clip(df, 1, n)
        idf: Array = np.log1p((n - df + 0.5) / (df + 0.5)).astype(np.float32)
        return idf

    def counts(self, terms: Array) -> Array:
        """(k,) in how many rows each term is: of the generation, or else of the segments."""
        terms = np.asarray(terms, np.int64)
        df = np.zeros(len(terms), np.int64)
        known = (terms >= 0) & (terms < len(self.df))
        df[known] = self.df[terms[known]]
        for n in np.flatnonzero(terms >= len(self.df)):
            for segment in self.segments[1:]:
                assert segment.terms is not None
                place = int(np.searchsorted(segment.terms, terms[n]))
                if place < len(segment.terms) and segment.terms[place] == terms[n]:
                    df[n] += segment.scan.postings.df(np.array([place]))[0]
        return df

    def idf(self, terms: Array) -> Array:
        """(k,) float32 what each term is worth."""
        return self._idf(self.counts(terms))

    def terms(self, words: Sequence[str]) -> list[int]:
        """The term of each word, -1 where nothing has it."""
        found = self.words.find(words)
        return [
            t if t >= 0 else self.coder.new.get(w, -1) for w, t in zip(words, found, strict=True)
        ]

    def word(self, term: int) -> str:
        if term < len(self.words):
            return self.words[term]
        return list(self.coder.new)[term - len(self.words)]

    def find(
        self,
        asked: Asked,
        allowed: Mask | None,
        limit: int,
        least: int = 1,
        bonus: Bonus | None = None,
    ) -> Candidates:
        """The best `limit` rows with `least` of the query's words, best first, ties by row."""
        found = []
        for segment in self.segments:
            own = segment.own(asked)
            if not len(own):
                continue
            places, scores = segment.scan.find(own, segment.mask(allowed), limit, least)
            if bonus is not None and len(places):
                scores = bonus(segment, places, scores)
            found.append((segment.global_rows(places), scores))
        if not found:
            return Candidates.empty()
        rows = np.concatenate([rows for rows, _ in found]).astype(np.int32, copy=False)
        scores = np.concatenate([scores for _, scores in found])
        order = best(scores, rows, limit)
        return Candidates(rows[order], scores[order])

    def sequences(self, rows: Rows) -> list[Array]:
        """The terms of each row, with the marks of the columns; empty for a row nothing has."""
        found: list[Array] = [np.empty(0, np.int32)] * len(rows)
        for segment in self.segments:
            forward = segment.forward
            for n, place in enumerate(segment.places(rows)):
                if place >= 0:
                    found[n] = forward.terms[forward.ends[place] : forward.ends[place + 1]]
        return found

    def upsert(self, rows: Rows, items: pa.Table) -> None:
        """Row rows[i] is items[i] now; of a row that comes twice the last one counts."""
        if not len(rows):
            return
        with self._writer:
            rows = np.asarray(rows, np.int32)
            last = len(rows) - 1 - np.unique(rows[::-1], return_index=True)[1]
            kept = np.take(rows, last)
            there = [name for name in self.repeats if name in items.column_names]
            items = items.select(there).take(pa.array(last))
            columns = {name: items.column(name).combine_chunks() for name in there}
            repeats = {name: self.repeats[name] for name in there}
            segment = self._segment(kept, self.coder.code(columns, repeats))
            segments = [part.without(kept) for part in self.segments] + [segment]
            while len(segments) > 2 and len(segments[-2]) <= 2 * len(segments[-1]):
                segments[-2:] = [self._together(segments[-2], segments[-1])]
            self.segments = tuple(segments)

    def _segment(self, rows: Rows, forward: Forward) -> Segment:
        own = forward.terms >= 0
        terms, places = np.unique(forward.terms[own], return_inverse=True)
        local = forward.terms.copy()
        local[own] = places
        postings = inverted(Forward(forward.ends, local), len(terms))
        norms = self.norms(postings, self.idf(terms))
        return Segment(forward, Scan(postings, norms, self.k1), rows, terms)

    def _together(self, *segments: Segment) -> Segment:
        return self._segment(*_alive(segments))

    def merged(self) -> tuple[pa.StringArray, Forward]:
        """Everything as the vocabulary and the forward half of one index (`postings.write`). Rows
        that nobody wrote are empty."""
        with self._writer:
            rows, forward = _alive(self.segments)
        n = max(self.rows, int(rows[-1]) + 1 if len(rows) else 0)
        sizes = np.zeros(n, np.int64)
        sizes[rows] = np.diff(forward.ends)
        whole = Forward(np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]), forward.terms)
        words = [*chain(self.words.words.to_pylist(), self.coder.new)]
        return sorted_words(words, whole)


def _alive(segments: Sequence[Segment]) -> tuple[Rows, Forward]:
    """The rows that count, rising, and their terms."""
    rows, parts = [], []
    for segment in segments:
        alive = np.arange(len(segment)) if segment.alive is None else np.flatnonzero(segment.alive)
        rows.append(segment.global_rows(alive.astype(np.int32)))
        parts.append(_taken(segment.forward, alive))
    every, forward = np.concatenate(rows), joined(parts)
    order = np.argsort(every, kind="stable")
    return every[order], _taken(forward, order)


def _taken(forward: Forward, places: Array) -> Forward:
    """The rows at `places`, in that order."""
    sizes = np.diff(forward.ends)[places]
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    index = np.arange(ends[-1]) + np.repeat(forward.ends[places] - ends[:-1], sizes)
    return Forward(ends, forward.terms[index])
