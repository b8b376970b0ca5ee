"""
The channel of vectors: text vectors for what the user typed, behaviour vectors for what they did.

Vectors have length 1, so the inner product is the cosine. Text vectors follow the live catalogue;
what is new has no behaviour yet and is found by its text.
"""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
import pyarrow as pa

from funnel.config import Config
from funnel.generation import Generation
from funnel.types import Array, Candidates, Query, Rows, taken
from recall.channel import ranked
from recall.delta import Delta
from recall.encoder import Encoder, documents, load
from recall.item_cf import action_weights, interest
from recall.masks import Mask
from recall.nearest import Nearest, fitted

HALF_LIFE = 3.0  # a wanted item counts half as much as one this many actions later


@dataclass(frozen=True, eq=False)
class Vector:
    """By text when there is one, else by the item, else by the user's history."""

    text: Delta | None
    behaviour: Nearest | None
    encoder: Encoder | None
    actions: Array  # (actions,) weights
    columns: tuple[str, ...] = ()  # of an item, that are its text

    @staticmethod
    def open(generation: Generation, config: Config) -> Vector | None:
        """None where the generation has no vectors."""
        faiss.omp_set_num_threads(1)  # requests run beside each other, not each on all cores
        text = Nearest.open(generation, "vector/text", config.vectors)
        encoder = load(generation.file("vector/encoder")) if text is not None else None
        behaviour = Nearest.open(generation, "vector/behaviour", config.vectors)
        if text is None and behaviour is None:
            return None
        for nearest in (text, behaviour):
            if nearest is not None:  # compiles, or loads what was compiled
                nearest.scan_some()
        return Vector(
            None if text is None else Delta(text),
            behaviour,
            encoder,
            action_weights(generation, config),
            tuple(config.data.text),
        )

    def find(self, query: Query, allowed: Mask | None, limit: int) -> Candidates:
        if query.text:
            if self.text is None or self.encoder is None:
                return Candidates.empty()
            return self.text.search(self.encoder.encode([query.text])[0], allowed, limit)
        if query.item >= 0:
            rows, weights = np.array([query.item]), np.ones(1)
        else:
            rows, weights = interest(query.history, self.actions, HALF_LIFE)
        if not len(rows):
            return Candidates.empty()
        if self.behaviour is not None:
            n = len(self.behaviour)
            wanted = weights @ taken(self.behaviour.vectors, rows)
            found = self.behaviour.search(wanted, fitted(allowed, n), limit)
            if len(found[0]):
                return ranked(*found, None, limit)
        if self.text is not None:
            return self.text.search(weights @ self.text.vectors_of(rows), allowed, limit)
        return Candidates.empty()

    def upsert(self, rows: Rows, items: pa.Table) -> None:
        """Encodes the texts of the items; see `recall.channel.Living`."""
        if self.text is not None and self.encoder is not None and len(rows):
            self.text.upsert(rows, self.encoder.encode(documents(items, self.columns)))


__all__ = ["Vector"]
