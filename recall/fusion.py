"""
Several channels' candidates as one list.

    sum      Σ_c  w_c · norm_c(i)                       norms: recall.normalise
    rrf      Σ_c  w_c / (k + place_c(i))                places from 1 (Cormack et al. 2009)
    quota    the first ⌈w_c · keep⌉ of each channel come in, the rest by their sum
    snake    channels take turns, heaviest first, each round the other way round; an item comes in
             at the first turn at which any channel would take it

Σ w_c = 1 over the channels that were asked. In a sum, an item that a channel did not return counts
there the floor of its scale (recall.normalise), or the number that the config says; in rrf 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from funnel.config import Config, Recall
from funnel.errors import BadGeneration
from funnel.generation import Generation
from funnel.types import NO_ROWS, Array, Candidates, Query, best
from recall.normalise import NORMS, floor, normalised

FITTED = ("sum", "rrf")  # the methods whose weights are shares of scores


@dataclass(frozen=True)
class Fusion:
    """`weights` by channel; those of channels that are not asked do not matter."""

    weights: Mapping[str, float]
    method: str = "sum"
    norm: str = "min_max"
    rrf_k: int = 60
    missing: float | None = None  # None: the floor of the norm

    def __call__(self, query: Query, found: Mapping[str, Candidates], keep: int) -> Candidates:
        """The best `keep`, ties by row, with the score of every channel as `recall.<channel>`."""
        rows = union(found)
        places = {name: np.searchsorted(rows, c.rows) for name, c in found.items()}
        shares = self._shares(found)
        scores, kept = self._fused(found, places, shares, len(rows), keep)
        scores = scores.astype(np.float32)
        order = kept[best(scores[kept], rows[kept], keep)]
        columns: dict[str, Array] = {}
        for name, candidates in found.items():
            column = np.full(len(rows), np.nan, np.float32)
            column[places[name]] = candidates.scores
            columns[f"recall.{name}"] = column[order]
        fused = Candidates(rows[order], scores[order], columns)
        return fused.scored(fused.scores, "recall")

    def _fused(
        self,
        found: Mapping[str, Candidates],
        places: Mapping[str, Array],
        shares: Mapping[str, float],
        n: int,
        keep: int,
    ) -> tuple[Array, Array]:
        """(n,) scores, and the places that may be kept."""
        every = np.arange(n)
        if self.method == "snake":
            return _snake(places, shares, n), every
        fused = np.zeros(n)
        for name, candidates in found.items():
            fused += shares[name] * self.column(candidates, places[name], n)
        if self.method != "quota":
            return fused, every
        sure = np.zeros(n, bool)
        for name, place in places.items():
            sure[place[: int(np.ceil(shares[name] * keep))]] = True
        rest = np.flatnonzero(~sure)
        room = max(keep - int(sure.sum()), 0)
        rest = rest[best(fused[rest], rest, room)]  # places are in the order of rows
        return fused, np.concatenate([np.flatnonzero(sure), rest])

    def column(self, candidates: Candidates, places: Array, n: int) -> Array:
        """(n,) what the channel gives each item; its own stand at `places`."""
        if self.method == "rrf":
            column = np.zeros(n)
            column[places] = 1 / (self.rrf_k + 1.0 + np.arange(len(places)))
            return column
        values = normalised(candidates.scores, self.norm)
        missing = floor(values, self.norm) if self.missing is None else self.missing
        column = np.full(n, missing)
        column[places] = values
        return column

    def _shares(self, names: Mapping[str, Candidates]) -> dict[str, float]:
        own = {name: max(self.weights.get(name, 0.0), 0.0) for name in names}
        total = sum(own.values())
        return {name: weight / total if total else 1.0 / len(own) for name, weight in own.items()}


def union(found: Mapping[str, Candidates]) -> Array:
    """The rows of all channels, rising, none twice."""
    return np.unique(np.concatenate([NO_ROWS, *(c.rows for c in found.values())]))


def _snake(places: Mapping[str, Array], shares: Mapping[str, float], n: int) -> Array:
    """(n,) falling with the turn at which an item comes in."""
    names = sorted(places, key=lambda name: (-shares[name], name))
    turns = np.full(n, np.inf)
    for number, name in enumerate(names):
        rounds = np.arange(len(places[name]))
        seat = np.where(rounds % 2 == 0, number, len(names) - 1 - number)
        turns[places[name]] = np.minimum(turns[places[name]], rounds * len(names) + seat)
    return 1 / (1 + turns)


def configured(settings: Recall, pretrained: bool) -> Fusion:
    """What the config says. Words count more than vectors trained on the catalogue alone, and less
    than those of a pretrained encoder."""
    strong, weak = (0.3, 0.7) if pretrained else (0.7, 0.3)
    usual = {"bm25": strong, "vector": weak} if {"bm25", "vector"} <= set(settings.channels) else {}
    own = {
        name: usual.get(name, 1.0) if channel.weight is None else channel.weight
        for name, channel in settings.channels.items()
    }
    missing = None if settings.missing == "floor" else float(settings.missing)
    method = "sum" if settings.fusion == "auto" else settings.fusion
    norm = "min_max" if settings.norm == "auto" else settings.norm
    return Fusion(own, method, norm, settings.rrf_k, missing)


def fusion_of(generation: Generation, config: Config, scene: str) -> Fusion:
    """The scene's fusion: what the build has fitted, where it has and the scene wants it."""
    settings = config.scene(scene).recall
    own = configured(settings, bool(generation.config.vectors.encoder))
    file = f"fusion/{scene}.json"
    if not settings.fit or own.method not in FITTED or not generation.has(file):
        return own
    fitted: dict[str, Any] = generation.json(file)
    if fitted.get("method") not in FITTED or fitted.get("norm") not in NORMS:
        raise BadGeneration(f"{generation.path / file} has a fusion unknown here: build again")
    weights = {name: float(fitted["weights"].get(name, w)) for name, w in own.weights.items()}
    return replace(own, weights=weights, method=fitted["method"], norm=fitted["norm"])


__all__ = ["Fusion", "configured", "fusion_of", "union"]
