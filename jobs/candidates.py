"""
Recall over training requests, on Spark's workers: what serving would have scored, thinned out where
it is to be learned from, whole where it validates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from funnel.catalogue import id_hash
from funnel.generation import Generation
from funnel.stage import Stage
from funnel.types import Array, Candidates, Floats, Rows
from jobs.judged import CHANCE
from jobs.requests import Outcome, read_back

TOGETHER = 100  # requests of a batch that goes back to Spark
HEAD = (
    ("request_id", pa.string()),
    ("scene", pa.string()),
    ("at", pa.int64()),
    ("row", pa.int32()),
    ("score", pa.float32()),
    ("label", pa.float32()),
    ("position", pa.int32()),
    (CHANCE, pa.float32()),  # that the candidate had to be kept
)


@dataclass(frozen=True)
class Recalled:
    """Batches of requests with their outcomes in, batches of candidates out.

    `draft` is the generation whose recall is asked; `columns` the evidence that is kept. Of the
    candidates all with a known outcome are kept, those that were shown and not wanted among them,
    and `negatives` others, evenly drawn where `kinds` does not say otherwise. Each says what chance
    it had: learned from as they are, more of the best ones would make a high score a bad sign. Only
    the requests `used` are asked, and those of them that are `whole` keep all.
    """

    draft: str
    columns: tuple[str, ...]
    negatives: int
    seed: int
    kinds: Mapping[str, float]
    used: frozenset[str]
    whole: frozenset[str]

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([*HEAD, *((name, pa.float32()) for name in self.columns)])

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        stages: dict[str, Stage] = {}
        for batch in batches:
            if not stages:
                stages = self.stages()
            asked = (one for one in batch.to_pylist() if one["request_id"] in self.used)
            while parts := [self.batch(request, stages) for request in islice(asked, TOGETHER)]:
                yield from pa.concat_tables(parts).combine_chunks().to_batches()

    def stages(self) -> dict[str, Stage]:
        from recall import Parts, build

        generation = Generation.open(Path(self.draft), check=False)
        parts = Parts.open(generation, generation.config)
        scenes = generation.config.scenes
        return {name: build(generation, generation.config, name, parts=parts) for name in scenes}

    def _popular(self, rows: Rows) -> Floats:
        """(k,) what recall's list of popular items says of each, 0 for others."""
        folder = Path(self.draft) / "popular"
        if not folder.is_dir():
            return np.zeros(len(rows), np.float32)
        listed = np.load(folder / "rows.npy", mmap_mode="r")
        order = np.argsort(listed, kind="stable")
        place = np.minimum(np.searchsorted(listed[order], rows), max(len(listed) - 1, 0))
        if not len(listed):
            return np.zeros(len(rows), np.float32)
        scores = np.load(folder / "scores.npy", mmap_mode="r")[order[place]]
        found: Floats = np.where(listed[order[place]] == rows, scores, 0).astype(np.float32)
        return found

    def batch(self, request: Mapping[str, Any], stages: dict[str, Stage]) -> pa.Table:
        query, became = read_back(request)
        found = stages[query.scene].run(query, Candidates.empty())
        labels, positions, known = outcome(found.rows, became)
        index, chances = np.arange(len(found)), np.ones(len(found), np.float32)
        if query.request_id not in self.whole:
            draw = np.random.default_rng([self.seed, id_hash(query.request_id)])
            weights = self._popular(found.rows) if self.kinds.get("popular") else None
            index, chances = thinned(known, self.negatives, draw, self.kinds, weights)
        found, n = found.take(index), len(index)
        none = np.full(n, np.nan, np.float32)
        columns = {
            "request_id": pa.array([query.request_id] * n, pa.string()),
            "scene": pa.array([query.scene] * n, pa.string()),
            "at": np.full(n, query.at, np.int64),
            "row": found.rows,
            "score": found.scores,
            "label": labels[index],
            "position": positions[index],
            CHANCE: chances,
        }
        evidence = {name: found.columns.get(name, none) for name in self.columns}
        return pa.table({**columns, **evidence}, schema=self.schema)


def outcome(rows: Rows, became: Outcome) -> tuple[Floats, Rows, Array]:
    """Labels, positions, and whether either is known, of the rows that recall returned."""
    places = {row: place for place, row in enumerate(became)}
    at = np.array([places.get(row, -1) for row in rows.tolist()], np.int64)
    labels, positions = zip(*became.values(), (0.0, 0), strict=True)  # the last where not known
    return np.array(labels, np.float32)[at], np.array(positions, np.int32)[at], at >= 0


def thinned(
    known: Array,
    most: int,
    draw: np.random.Generator,
    kinds: Mapping[str, float] | None = None,
    popular: Array | None = None,
) -> tuple[Array, Floats]:
    """Places of what is known and of at most `most` others, in order, and the chance that each had
    to be among them.

    The others are shared out by `kinds`: `hard` ones come from the first tenth of what recall
    returned, `popular` ones with chances like the numbers `popular` (n,), the rest evenly. None is
    drawn twice.
    """
    sizes = shares(kinds or {}, most)
    missed = np.where(known, 0.0, 1.0)  # chances not to be drawn
    free = np.flatnonzero(~known)
    top = free[: max(len(free) // 10, sizes["hard"])]
    hard = draw.permutation(top)[: sizes["hard"]] if sizes["hard"] else top[:0]
    missed[top] *= 1 - len(hard) / max(len(top), 1)
    left = np.setdiff1d(free, hard)
    liked = free[:0]
    if sizes["popular"] and popular is not None:
        # The largest keys log(u)/w are a weighted draw (Efraimidis, Spirakis 2006). Given the first
        # key that is not among them, each chance is that of a key above it (Cohen, Kaplan 2007).
        weights = np.maximum(popular, 1e-9)
        keys = np.log(draw.random(len(left))) / weights[left]
        order = np.argsort(-keys, kind="stable")
        liked, out = left[order[: sizes["popular"]]], keys[order[sizes["popular"] :]]
        missed[free] *= np.exp(out[0] * weights[free]) if len(out) else 0.0
        left = np.setdiff1d(left, liked)
    even = draw.permutation(left)[: sizes["even"]]
    missed[free] *= 1 - len(even) / max(len(left), 1)
    index = np.sort(np.concatenate([np.flatnonzero(known), hard, liked, even]))
    return index, (1 - missed[index]).astype(np.float32)


def shares(kinds: Mapping[str, float], most: int) -> dict[str, int]:
    """How many negatives are of each kind; evenly drawn are what the others leave."""
    total = sum(kinds.values())
    hard, popular = (
        round(most * kinds.get(kind, 0.0) / total) if total else 0 for kind in ("hard", "popular")
    )
    popular = min(popular, most - hard)
    return {"hard": hard, "popular": popular, "even": most - hard - popular}


def evidence(channels: Sequence[str]) -> tuple[str, ...]:
    """The columns that recall leaves."""
    return ("recall", *(f"recall.{name}" for name in channels))
