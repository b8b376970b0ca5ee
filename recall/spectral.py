"""
Blurring and sharpening over the graph of users and items (`jobs.spectral`): the channel of quality.

With x the votes for the items of a history, P = R̃ᵀR̃ one step over the graph to users and back, and
V its smoothest directions, n_i how many users wanted i:

    y = P x + ideal · √n ⊙ (V Vᵀ (x ⊘ √n))          scores = y − sharpen · P y

(the filters of Shen et al. 2021, GF-CF, https://arxiv.org/abs/2108.07567; the order of blurring and
sharpening of Choi et al. 2023, BSPM, https://arxiv.org/abs/2211.09324). A request costs four passes
over all wants, a few milliseconds a million: for catalogues of some 100,000 items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from funnel.config import Config
from funnel.generation import Generation
from funnel.types import Array, Candidates, Query
from recall.channel import ranked
from recall.masks import Mask
from recall.neighbours import action_weights, voting


@dataclass(frozen=True, eq=False)
class Spectral:
    """The graph and the directions of every item of the generation."""

    items: Array  # (n, d) float32: V
    fame: Array  # (n,) float32
    graph: Any  # (users, n) float32, sparse by user: R̃
    ideal: float
    sharpen: float
    actions: Array  # (actions,) weights

    @staticmethod
    def open(generation: Generation, config: Config) -> Spectral | None:
        """None where the generation was built without the directions."""
        if not generation.has("spectral"):
            return None
        items, fame = generation.array("spectral/items"), generation.array("spectral/fame")
        starts = generation.array("spectral/graph_starts")
        parts = (generation.array("spectral/graph_values"), generation.array("spectral/graph_rows"))
        graph = sp.csr_matrix((*parts, starts), shape=(len(starts) - 1, len(items)), copy=False)
        filters = generation.json("spectral/filters.json")
        actions = action_weights(generation, config)
        return Spectral(items, fame, graph, filters["ideal"], filters["sharpen"], actions)

    def find(self, query: Query, allowed: Mask | None, limit: int) -> Candidates:
        rows, votes = voting(query, self.actions)
        known = (rows >= 0) & (rows < len(self.items))
        rows, votes = rows[known], votes[known].astype(np.float32)
        smooth = (votes / np.sqrt(self.fame[rows])) @ self.items[rows]
        if not smooth.any():
            return Candidates.empty()
        start = np.zeros(len(self.items), np.float32)
        start[rows] = votes
        blurred = self._step(start)
        blurred += self.ideal * np.sqrt(self.fame) * (self.items @ smooth)
        scores = blurred - self.sharpen * self._step(blurred)
        found = np.flatnonzero(scores > 0)
        return ranked(found, scores[found], allowed, limit)

    def _step(self, values: Array) -> Array:
        """(n,) P of (n,) values: to the users and back."""
        back: Array = self.graph.T @ (self.graph @ values)
        return back
