"""
Vectors of what changed since the generation was built, beside the base and its index.

Each write is a new slot; the slot or base row that it replaces carries the version from which on it
is gone. A reader holds one `State` and compares with its version, so nothing is copied for it and
it sees each batch whole or not at all. Once the newest slots are many, a thread builds a graph over
them: a sealed segment. Until it is done, and for the slots after it, the exact scan answers.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

import numpy as np

from funnel.types import Array, Candidates, Rows
from recall.channel import ranked
from recall.exact import scan
from recall.masks import Mask
from recall.nearest import Nearest, built, fitted

NEVER = np.iinfo(np.int32).max
SEGMENT = 1 << 16  # slots that get a graph of their own
ROOM = 1024  # slots at first


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What one reader sees; arrays may have more than `count` slots, filled by later writes."""

    vectors: Array  # (room, d) float32
    rows: Array  # (room,) int32, the row that a slot is of
    gone: Array  # (room,) int32, the version from which on the slot is replaced
    base: Array  # (n,) int32, the same of the base's rows; empty before the first write
    count: int = 0
    version: int = 0
    segments: tuple[Nearest, ...] = ()  # over SEGMENT slots each, from the first

    @staticmethod
    def empty(width: int) -> State:
        none = np.empty(0, np.int32)
        return State(np.empty((0, width), np.float32), none, none, none)

    def allows(self, mask: Mask | None, start: int, end: int) -> Mask:
        """(end - start,) which of these slots hold, and are allowed; the mask is by row."""
        held = self.gone[start:end] > self.version
        if mask is not None:
            rows = self.rows[start:end]
            held &= np.where(rows < len(mask), mask[np.minimum(rows, len(mask) - 1)], False)
        return np.asarray(held, np.bool_)

    def allowed_of_base(self, mask: Mask | None, n: int) -> Mask | None:
        """(n,) `mask` without the base rows that were replaced."""
        mask = fitted(mask, n)
        if not len(self.base):
            return mask
        held = self.base > self.version
        return np.asarray(held if mask is None else held & mask, np.bool_)


class Delta:
    """A base that never changes and what was written since."""

    def __init__(self, base: Nearest) -> None:
        self.base = base
        self.state = State.empty(base.vectors.shape[1])
        self.slots: dict[int, int] = {}  # row -> its newest slot, for the writer
        self.lock = threading.Lock()  # of `state`, between the writer and the builder of segments
        self.builder: threading.Thread | None = None

    def upsert(self, rows: Rows, vectors: Array) -> None:
        """Row rows[i] has vectors[i] (d,) from now on; rows may lie beyond the base."""
        last = {int(row): place for place, row in enumerate(rows)}  # the last of a batch holds
        rows, vectors = np.fromiter(last, np.int32, len(last)), vectors[list(last.values())]
        with self.lock:
            state = self._grown(len(rows))
            first, version = state.count, state.version + 1
            slots = np.arange(first, first + len(rows))
            state.vectors[slots], state.rows[slots], state.gone[slots] = vectors, rows, NEVER
            old = [self.slots[row] for row in last if row in self.slots]
            state.gone[old] = version
            within = rows[rows < len(self.base)]
            state.base[within] = np.minimum(state.base[within], version)
            self.slots.update(zip(rows.tolist(), slots.tolist(), strict=True))
            self.state = replace(state, count=first + len(rows), version=version)
        self._seal()

    def _grown(self, more: int) -> State:
        """The state with room for `more` slots; what readers hold stays as it is."""
        state = self.state
        if not len(state.base):
            state = replace(state, base=np.full(len(self.base), NEVER, np.int32))
        need, room = state.count + more, len(state.rows)
        if need <= room:
            return state
        room = max(ROOM, 2 * room, need)

        def wider(array: Array) -> Array:
            copy = np.empty((room, *array.shape[1:]), array.dtype)
            copy[: state.count] = array[: state.count]
            return copy

        return replace(
            state, vectors=wider(state.vectors), rows=wider(state.rows), gone=wider(state.gone)
        )

    def _seal(self) -> None:
        if self.builder is not None and self.builder.is_alive():
            return
        if self.state.count - SEGMENT * len(self.state.segments) >= SEGMENT:
            self.builder = threading.Thread(target=self._build, name="vector-segment", daemon=True)
            self.builder.start()

    def _build(self) -> None:
        while True:
            state, settings = self.state, self.base.settings
            start = SEGMENT * len(state.segments)
            if state.count - start < SEGMENT:
                return
            part = state.vectors[start : start + SEGMENT]
            segment = Nearest(part, built(part, "hnsw", settings), settings)
            with self.lock:
                self.state = replace(self.state, segments=(*self.state.segments, segment))

    def search(self, query: Array, mask: Mask | None, limit: int) -> Candidates:
        """The allowed rows of highest cosine, whether they changed or not, best first."""
        state = self.state
        rows, scores = self.base.search(query, state.allowed_of_base(mask, len(self.base)), limit)
        if not state.count or not np.any(query):
            return ranked(rows, scores, None, limit)
        found = [(rows, scores)]
        for number, segment in enumerate(state.segments):
            start = number * SEGMENT
            held = state.allows(mask, start, start + SEGMENT)
            slots, scores = segment.search(query, None if held.all() else held, limit)
            found.append((state.rows[start + slots], scores))
        start = SEGMENT * len(state.segments)
        held = state.allows(mask, start, state.count)
        slots, scores = scan(state.vectors[start : state.count], query, held, limit)
        found.append((state.rows[start + slots], scores))
        rows, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return ranked(rows, scores, None, limit)

    def vectors_of(self, rows: Array) -> Array:
        """(k, d) the newest vectors of these rows; zeros for rows never seen."""
        state, n = self.state, len(self.base)
        found = np.zeros((len(rows), self.base.vectors.shape[1]), np.float32)
        old = np.flatnonzero((rows >= 0) & (rows < n))
        found[old] = self.base.vectors[rows[old]]
        if state.count:
            held = np.flatnonzero(
                (state.gone[: state.count] > state.version)
                & np.isin(state.rows[: state.count], rows)
            )
            for place in held.tolist():
                found[rows == state.rows[place]] = state.vectors[place]
        return found


__all__ = ["Delta", "State"]
