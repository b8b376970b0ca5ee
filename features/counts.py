"""
All that is counted, of one generation: items by half-lives and in windows, and pairs of a query
and an item. What a request reads of it are the columns of its candidates.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from features.fold import ItemCounters, pair_keys, text_hash
from features.pairs import ItemHashes, Pairs
from features.windows import ItemWindows
from funnel.generation import Generation
from funnel.types import Array, Floats, Query, Rows

NO_TEXT = 0  # the hash of an event without a query


class Counts:
    """Counters, windows and pairs: a `Hydrator` for work that has no live store; the caller applies
    the events that the moment of the query may know. Changed by one thread at a time."""

    def __init__(
        self, items: ItemCounters, windows: ItemWindows, pairs: Pairs, hashes: ItemHashes
    ) -> None:
        self.items, self.windows, self.pairs, self.hashes = items, windows, pairs, hashes
        self.names = (*items.names, *windows.names, *pairs.names)

    @staticmethod
    def open(generation: Generation) -> Counts:
        """The generation's, as of its cut; changes stay in this process."""
        return Counts(
            ItemCounters.open(generation),
            ItemWindows.open(generation),
            Pairs.open(generation),
            ItemHashes(generation),
        )

    def apply(self, rows: Array, actions: Array, times: Array, texts: Array) -> None:
        """Adds events: rows (k,), action codes (k,), epoch ms (k,), `text_of` their queries (k,).

        Unknown rows are left out; those of new items make room for themselves.
        """
        rows = np.asarray(rows, np.int64)
        if not len(rows):
            return
        self.items.grow(int(rows.max()) + 1)
        self.items.apply(rows, actions, times)
        self.windows.apply(rows, actions, times)
        asked = np.flatnonzero((rows >= 0) & (texts != NO_TEXT))
        if len(asked) and self.pairs.names:
            keys = pair_keys(texts[asked], self.hashes.of(rows[asked].astype(np.int32)))
            self.pairs.apply(keys, np.asarray(actions)[asked], np.asarray(times)[asked])

    def hydrate(self, query: Query, rows: Rows) -> Mapping[str, Floats]:
        """One column (k,) float32 a counter, as of the query; those of pairs where it has a text.

        Zero for items that nothing was counted for.
        """
        found = self.items.columns(self.items.read(rows, query.at))
        found |= named(self.windows.names, self.windows.read(rows, query.at))
        if self.pairs.names and query.text:
            keys = self.hashes.keys(query.text, rows)
            found |= named(self.pairs.names, self.pairs.read(keys, query.at))
        return found


def named(names: tuple[str, ...], values: Floats) -> dict[str, Floats]:
    """(k, C) as columns."""
    return dict(zip(names, np.ascontiguousarray(values.T), strict=True))


def text_of(query: str) -> int:
    """The hash of an event's query, `NO_TEXT` where it has none."""
    return text_hash(query) if query.strip() else NO_TEXT
