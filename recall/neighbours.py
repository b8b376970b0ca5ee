"""
One reader for all item-item models: neighbour lists, added up over what a user wanted.

    score(j) = Σ_i vote(i) · weight(i, j)        i: the newest items that the user wanted

The lists are CSR arrays in a folder of the generation named after the model: indptr.npy int64
(n + 1), indices.npy int32, weights.npy float32, each item's neighbours best first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numba
import numpy as np

from funnel.config import Config
from funnel.generation import Generation
from funnel.types import Array, Candidates, History, Query
from recall.channel import ranked
from recall.masks import Mask

RECENT = 1000  # newest actions that vote
HALF_LIFE = 5.0  # a vote counts half as much as one this many actions later


def interest(
    history: History, weights: Array, half_life: float, recent: int = RECENT
) -> tuple[Array, Array]:
    """The newest `recent` items that the user wanted, each with its weight: (k,) rows, (k,).

    A weight is the action's as a label, halved for every `half_life` such actions that came after.
    Actions of one moment have no order: they count alike.
    """
    known = np.flatnonzero((history.rows >= 0) & (weights[history.actions] > 0))[-recent:]
    times = history.times[known]
    ago = len(times) - np.searchsorted(times, times, side="right")
    return history.rows[known], weights[history.actions[known]] * np.exp2(-ago / half_life)


def voting(query: Query, weights: Array, half_life: float = HALF_LIFE) -> tuple[Array, Array]:
    """What speaks for other items: the item that the query asks about, else `interest`."""
    if query.item >= 0:
        return np.array([query.item], np.int32), np.ones(1)
    return interest(query.history, weights, half_life)


def action_weights(generation: Generation, config: Config) -> Array:
    """(actions,) what each action says about wanting an item; 0 where nothing good."""
    return np.array([config.data.positive.get(name, 0.0) for name in generation.manifest.actions])


def opener(name: str) -> Callable[[Generation, Config], Neighbours | None]:
    """Opens the lists of one model."""
    return lambda generation, config: Neighbours.load(generation, config, name)


class Lines(threading.local):
    """One dense line of zeros a thread, as wide as asked for."""

    def __init__(self) -> None:
        self.line = np.zeros(0)

    def zeros(self, width: int) -> Array:
        if len(self.line) < width:
            self.line = np.zeros(width)
        return self.line


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The lists of one model. Items after the generation's last have no neighbours."""

    indptr: Array  # (n + 1,) int64
    indices: Array  # (m,) int32
    weights: Array  # (m,) float32
    actions: Array  # (actions,) weights
    half_life: float = HALF_LIFE
    lines: Lines = field(default_factory=Lines)

    @classmethod
    def load(cls, generation: Generation, config: Config, name: str) -> Neighbours | None:
        """None where the generation was built without the model."""
        if not generation.has(name):
            return None
        found = cls(
            generation.array(f"{name}/indptr"),
            generation.array(f"{name}/indices"),
            generation.array(f"{name}/weights"),
            action_weights(generation, config),
        )
        found.votes(np.zeros(1, np.int32), np.ones(1))  # compiles, or loads what was compiled
        return found

    def votes(self, rows: Array, votes: Array) -> tuple[Array, Array]:
        """Rows that are neighbours of any of `rows` (k,), ascending, and their sums of votes."""
        n = len(self.indptr) - 1
        known = (rows >= 0) & (rows < n)
        rows, votes = np.asarray(rows[known], np.int32), np.asarray(votes[known], np.float64)
        line = self.lines.zeros(n)
        found: tuple[Array, Array] = _votes(
            self.indptr, self.indices, self.weights, rows, votes, line
        )
        return found

    def find(self, query: Query, allowed: Mask | None, limit: int) -> Candidates:
        rows, votes = voting(query, self.actions, self.half_life)
        found, scores = self.votes(rows, votes)
        return ranked(found, scores, allowed, limit)


@numba.njit(nogil=True, cache=True)
def _votes(indptr, indices, weights, rows, votes, line):  # type: ignore[no-untyped-def]  # pragma: no cover
    """`line` is zeros, and is left so."""
    most = 0
    for row in rows:
        most += indptr[row + 1] - indptr[row]
    touched = np.empty(min(most, len(line)), np.int32)
    count = 0
    for n in range(len(rows)):
        for place in range(indptr[rows[n]], indptr[rows[n] + 1]):
            vote = votes[n] * weights[place]
            if vote > 0:
                if line[indices[place]] == 0:
                    touched[count] = indices[place]
                    count += 1
                line[indices[place]] += vote
    found = np.sort(touched[:count])
    scores = np.empty(count)
    for n in range(count):
        scores[n] = line[found[n]]
        line[found[n]] = 0
    return found, scores
