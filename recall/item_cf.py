"""
Items that people wanted together with what this user wanted: item-item collaborative filtering.

The neighbours are made by `jobs.item_cf`; here they are read and added up over the user's history.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from funnel.config import Config
from funnel.generation import Generation
from funnel.types import Array, Candidates, History, Query
from recall.channel import ranked
from recall.filters import Mask

RECENT = 50  # newest actions that vote
HALF_LIFE = 5.0  # a vote counts half as much as one this many actions later


def interest(history: History, weights: Array, half_life: float) -> tuple[Array, Array]:
    """The newest `RECENT` items that the user wanted, each with its weight: (k,) rows, (k,).

    A weight is the action's as a label, halved for every `half_life` such actions that came after.
    """
    known = (history.rows >= 0) & (weights[history.actions] > 0)
    rows = history.rows[known][-RECENT:]
    ago = np.arange(len(rows))[::-1]
    return rows, weights[history.actions[known][-RECENT:]] * np.exp2(-ago / half_life)


def action_weights(generation: Generation, config: Config) -> Array:
    """(actions,) what each action says about wanting an item; 0 where nothing good."""
    return np.array([config.data.positive.get(name, 0.0) for name in generation.manifest.actions])


@dataclass(frozen=True, eq=False)
class ItemCF:
    """Neighbour lists as CSR arrays, best neighbour first."""

    indptr: Array  # (n + 1,) int64
    indices: Array  # (m,) int32
    weights: Array  # (m,) float32
    actions: Array  # (actions,) weights

    @staticmethod
    def open(generation: Generation, config: Config) -> ItemCF | None:
        """None where the generation was built without behaviour."""
        if not generation.has("item_cf"):
            return None
        return ItemCF(
            generation.array("item_cf/indptr"),
            generation.array("item_cf/indices"),
            generation.array("item_cf/weights"),
            action_weights(generation, config),
        )

    def find(self, query: Query, allowed: Mask | None, limit: int) -> Candidates:
        if query.item >= 0:
            rows, votes = np.array([query.item]), np.ones(1)
        else:
            rows, votes = interest(query.history, self.actions, HALF_LIFE)
        starts, ends = self.indptr[rows], self.indptr[rows + 1]
        sizes = ends - starts
        if not sizes.sum():
            return Candidates.empty()
        shift = np.repeat(starts - np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes)
        places = shift + np.arange(sizes.sum())
        found, inverse = np.unique(self.indices[places], return_inverse=True)
        scores = np.bincount(inverse, self.weights[places] * np.repeat(votes, sizes))
        return ranked(found, scores, allowed, limit)
