"""
The channel of the two towers: items by the inner product with what was asked.

A text goes through the query tower, a history through the user tower; what is like an item is near
its vector. Items that came or changed after the build have vectors by what they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
import pyarrow as pa

from funnel.config import Config
from funnel.generation import Generation
from funnel.types import Array, Candidates, Query, Rows
from recall.delta import Delta
from recall.masks import Mask
from recall.nearest import Nearest
from recall.neighbours import action_weights, interest
from recall.towers import Towers

HALF_LIFE = 5.0  # a wanted item counts half as much as one this many wanted items later


@dataclass(frozen=True, eq=False)
class TwoTower:
    items: Delta
    towers: Towers
    actions: Array  # (actions,) weights
    history: int  # newest wanted items that count

    @staticmethod
    def open(generation: Generation, config: Config) -> TwoTower | None:
        """None where the generation was built without the towers."""
        items = Nearest.open(generation, "two_tower/items", config.vectors)
        if items is None:
            return None
        faiss.omp_set_num_threads(1)  # requests run beside each other, not each on all cores
        items.scan_some()
        towers = Towers.load(generation.file("two_tower/towers"))
        actions = action_weights(generation, config)
        return TwoTower(Delta(items), towers, actions, config.two_tower.history)

    def asked(self, query: Query) -> Array:
        """(d,) the vector that items are compared with; zeros where nothing is known."""
        if query.text:
            return self.towers.of_text(query.text)
        if query.item >= 0:
            own: Array = self.items.vectors_of(np.array([query.item]))[0]
            return own
        rows, weights = interest(query.history, self.actions, HALF_LIFE, self.history)
        return self.towers.of_history(self.items.vectors_of(rows), weights)

    def find(self, query: Query, allowed: Mask | None, limit: int) -> Candidates:
        return self.items.search(self.asked(query), allowed, limit)

    def upsert(self, rows: Rows, items: pa.Table) -> None:
        """Encodes what the items are; see `recall.channel.Living`."""
        if len(rows):
            bags = self.towers.reader.items(items)
            self.items.upsert(rows, self.towers.of_items(bags, np.asarray(rows)))


__all__ = ["TwoTower"]
