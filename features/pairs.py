"""
A query's text and an item, counted together: what people who searched for this did with that.

A generation has pairs/keys.npy (m,) uint64, `features.fold.pair_keys` of the texts' and the items'
hashes, rising; and pairs/state.npy (m, A) float64: decayed counts of the actions of
`features.fold.counted`, by the longest half-life, with the cut as their landmark.

At most `features.pairs` pairs are kept: those with the largest sum of decayed counts, which is to
say the most used and the newest ones. Live ones have a quarter more room; where that is used up,
the smallest pairs leave at once. That happens at the same event of the live log in every process.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.fold import (
    ItemCounters,
    counted,
    counter_names,
    longest,
    pair_keys,
    pair_names,
    text_hash,
)
from funnel.catalogue import Catalogue
from funnel.config import Config
from funnel.errors import BadData, BadGeneration
from funnel.generation import Generation
from funnel.types import Array, Floats, Rows

FOLDER = "pairs"
Keys = NDArray[np.uint64]


def write(folder: Path, keys: Array, state: Array, most: int) -> int:
    """Writes both files into a generation's pairs/, which must be there; how many pairs they hold.

    `keys` (m,) in any order, none twice; `state` (m, A). Keeps the `most` largest.
    """
    kept = largest(np.asarray(keys, np.uint64), np.asarray(state, np.float64), most)
    order = kept[np.argsort(np.asarray(keys)[kept])]
    found = np.asarray(keys, np.uint64)[order]
    if len(found) > 1 and (found[1:] == found[:-1]).any():
        raise BadData("a pair of a query and an item is there twice: sum their counts up first")
    np.save(folder / "keys.npy", found)
    np.save(folder / "state.npy", np.asarray(state, np.float64)[order])
    return len(order)


def largest(keys: Keys, state: NDArray[np.float64], most: int) -> NDArray[np.intp]:
    """The places of the pairs to keep: the largest sums, ties by key."""
    return np.lexsort((keys, -state.sum(axis=1)))[:most]


class Pairs:
    """Decayed counts of pairs. Changed by one thread at a time, with no reader meanwhile."""

    def __init__(self, config: Config, landmark: int, actions: tuple[str, ...] = ()):
        self.most = config.features.pairs
        self.names = pair_names(config) if self.most else ()
        self._room = self.most + self.most // 4 + 1
        self._codes = actions or config.all_actions
        self._counted, self._days = counted(config), longest(config)
        self._set(landmark, np.empty(0, np.uint64), np.empty((0, len(self._counted))))

    @staticmethod
    def open(generation: Generation) -> Pairs:
        """The generation's, as of its cut; without its files no pair was ever seen."""
        config, manifest = generation.config, generation.manifest
        pairs = Pairs(config, manifest.until, manifest.actions)
        if pairs.names and generation.has(f"{FOLDER}/keys.npy"):
            keys, state = generation.array(f"{FOLDER}/keys"), generation.array(f"{FOLDER}/state")
            if state.shape != (len(keys), len(pairs._counted)):
                raise BadGeneration(
                    f"{generation.path}/{FOLDER}/state.npy has shape {state.shape}, expected "
                    f"({len(keys)}, {len(pairs._counted)}): build the generation again"
                )
            pairs._set(manifest.until, np.asarray(keys), state)
        return pairs

    def _set(self, landmark: int, keys: Keys, state: Array) -> None:
        """Takes pairs over: keys rising, and their counts at the landmark."""
        room = np.zeros((max(self._room, len(keys)) if self.names else 0, len(self._counted)))
        room[: len(keys)] = state
        names = counter_names(self._counted, (self._days,))
        self._state = ItemCounters(names, (self._days,), landmark, room, self._codes)
        self._keys, self._slots = keys, np.arange(len(keys))

    def __len__(self) -> int:
        return len(self._keys)

    def apply(self, keys: Array, actions: Array, times: Array) -> None:
        """Counts events: keys (k,) uint64, action codes (k,), epoch ms (k,), in the order of the
        log, which is what decides who leaves when there is no room."""
        if not self.names:
            return
        keys = np.asarray(keys, np.uint64)
        start = 0
        while start < len(keys):
            stop = start + self._fitting(keys[start:])
            part = slice(start, stop)
            self._add(keys[part])
            slots = self._found(keys[part])
            self._state.apply(slots, actions[part], times[part])
            if stop < len(keys):
                self._cut()
            start = stop

    def _fitting(self, keys: Keys) -> int:
        """How many of the events there is room for."""
        free = len(self._state.state) - len(self._keys)
        first = np.sort(np.unique(keys, return_index=True)[1])
        new = first[self._found(keys[first]) < 0]
        return int(new[free]) if len(new) > free else len(keys)

    def _add(self, keys: Keys) -> None:
        new = np.unique(keys[self._found(keys) < 0])
        if len(new):
            slots = np.arange(len(self._keys), len(self._keys) + len(new))
            places = np.searchsorted(self._keys, new)
            self._keys = np.insert(self._keys, places, new)
            self._slots = np.insert(self._slots, places, slots)

    def _cut(self) -> None:
        """Leaves the largest pairs, so that there is room again."""
        counters = self._state
        counts = counters.state[self._slots]  # by key; one half-life, so at one landmark
        kept = np.sort(largest(self._keys, counts, self.most))
        counters.state[: len(kept)] = counts[kept]
        counters.state[len(kept) :] = 0
        self._keys, self._slots = self._keys[kept], np.arange(len(kept))

    def _found(self, keys: Keys) -> NDArray[np.int64]:
        """(k,) slots, -1 where the pair is not there."""
        if not len(self._keys):
            return np.full(len(keys), -1)
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        found: NDArray[np.int64] = np.where(self._keys[places] == keys, self._slots[places], -1)
        return found

    def part(self, keys: Keys) -> ItemCounters:
        """A copy of some pairs' counters: item i of it is the pair `keys[i]`."""
        slots = self._found(keys)
        part = self._state.part(np.maximum(slots, 0).astype(np.int32))
        part.state[slots < 0] = 0
        return part

    def read(self, keys: Keys, at: int) -> Floats:
        """(k, A) float32 counters `names` as of `at`, zero for pairs that are not there."""
        return self.part(keys).read(np.arange(len(keys), dtype=np.int32), at)


class ItemHashes:
    """The hashed id of every row: `funnel.catalogue.id_hash`."""

    def __init__(self, generation: Generation):
        self._items: Catalogue = generation.items
        self._own = np.empty(generation.items.base, np.uint64)
        self._own[generation.array("items/hash_rows")] = generation.array("items/hash")

    def of(self, rows: Rows) -> Keys:
        """(k,) for rows that the catalogue has; 0 for later ones."""
        found = np.zeros(len(rows), np.uint64)
        own = rows < len(self._own)
        found[own] = self._own[rows[own]]
        if not own.all():
            fresh, place = self._items.fresh_hashes, rows.astype(np.int64) - len(self._own)
            there = ~own & (place < len(fresh))
            found[there] = fresh[place[there]]
        return found

    def keys(self, text: str, rows: Rows) -> Keys:
        """(k,) the keys of the pairs of a text with each item."""
        return pair_keys(np.array([text_hash(text)], np.uint64), self.of(rows))
