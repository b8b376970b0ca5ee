"""
What is smooth over the graph of users and items: the ideal low-pass filter (`jobs.spectral`).

    score(j) = √n_j · V_j · Σ_i vote(i) V_i / √n_i

(Shen et al. 2021, GF-CF, https://arxiv.org/abs/2108.07567), n_i how many users wanted i.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from funnel.config import Config
from funnel.generation import Generation
from funnel.types import Array, Candidates, Query
from recall.channel import ranked
from recall.masks import Mask
from recall.neighbours import HALF_LIFE, action_weights, interest


@dataclass(frozen=True, eq=False)
class Spectral:
    """The directions of every item of the generation."""

    items: Array  # (n, d) float32
    fame: Array  # (n,) float32
    actions: Array  # (actions,) weights

    @staticmethod
    def open(generation: Generation, config: Config) -> Spectral | None:
        """None where the generation was built without the directions."""
        if not generation.has("spectral"):
            return None
        return Spectral(
            generation.array("spectral/items"),
            generation.array("spectral/fame"),
            action_weights(generation, config),
        )

    def find(self, query: Query, allowed: Mask | None, limit: int) -> Candidates:
        if query.item >= 0:
            rows, votes = np.array([query.item], np.int32), np.ones(1)
        else:
            rows, votes = interest(query.history, self.actions, HALF_LIFE)
        known = (rows >= 0) & (rows < len(self.items))
        rows, votes = rows[known], votes[known].astype(np.float32)
        user = (votes / np.sqrt(self.fame[rows])) @ self.items[rows]
        if not user.any():
            return Candidates.empty()
        scores = (self.items @ user) * np.sqrt(self.fame)
        found = np.flatnonzero(scores > 0)
        return ranked(found, scores[found], allowed, limit)
