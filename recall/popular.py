"""The items that most people wanted lately: the channel that always has an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from funnel.config import Config
from funnel.generation import Generation
from funnel.types import Array, Candidates, Query
from recall.channel import ranked
from recall.filters import Filters
from recall.masks import Mask


@dataclass(frozen=True, eq=False)
class Popular:
    """Decayed counts of positive actions as of the generation's cut, weighted like labels.

    A generation without events has no popular items: then all are alike, and the newest rows of
    `created_at` (or the first rows) stand in, so that a page can be filled.
    """

    filters: Filters
    keep: Mapping[str, int]  # scene -> items, where it has to stand in for all of recall
    rows: Array  # (k,) int32, best first
    scores: Array  # (k,) float32

    @staticmethod
    def open(generation: Generation, config: Config) -> Popular:
        filters = Filters.open(generation, config)
        keep = {name: scene.recall.keep for name, scene in config.scenes.items()}
        if generation.has("popular/rows.npy"):
            rows, scores = generation.array("popular/rows"), generation.array("popular/scores")
            if len(rows):
                return Popular(filters, keep, np.asarray(rows), np.asarray(scores))
        n, items = min(len(generation.items), 10_000), generation.items
        if items.has("number", "created_at"):
            made = np.nan_to_num(items.numbers("created_at"), nan=-np.inf)
            rows = np.argsort(-made, kind="stable")[:n].astype(np.int32)
        else:
            rows = np.arange(n, dtype=np.int32)
        return Popular(filters, keep, rows, np.linspace(1, 0, n).astype(np.float32))

    def find(self, query: Query, allowed: Mask | None, limit: int) -> Candidates:
        found = ranked(self.rows, self.scores, allowed, limit)
        if len(found) == limit or allowed is None:
            return found
        # What is popular was filtered away: fill up with other allowed items, as if never wanted.
        rest = np.setdiff1d(np.flatnonzero(allowed), found.rows)[: limit - len(found)]
        rows = np.concatenate([found.rows, rest]).astype(np.int32)
        scores = np.concatenate([found.scores, np.zeros(len(rest), np.float32)])
        return Candidates(rows, scores)

    def retrieve(self, query: Query) -> Candidates:
        """On its own, when recall as a whole did not answer."""
        return self.find(query, self.filters.allowed(query), self.keep[query.scene])
