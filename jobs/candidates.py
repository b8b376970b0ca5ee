"""
Recall over training requests, on Spark's workers: what serving would have scored, thinned out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from funnel.catalogue import id_hash
from funnel.generation import Generation
from funnel.stage import Stage
from funnel.types import Array, Candidates, Floats, Rows
from jobs.requests import Outcome, read_back

HEAD = (
    ("request_id", pa.string()),
    ("scene", pa.string()),
    ("at", pa.int64()),
    ("row", pa.int32()),
    ("score", pa.float32()),
    ("label", pa.float32()),
    ("position", pa.int32()),
)


@dataclass(frozen=True)
class Recalled:
    """Batches of requests with their outcomes in, batches of candidates out.

    `draft` is the generation whose recall is asked; `columns` the evidence that is kept. Of the
    candidates all with a known outcome are kept, those that were shown and not wanted among them,
    and `negatives` others, evenly drawn where `kinds` does not say otherwise: more of the best ones
    make a high score look like a bad sign.
    """

    draft: str
    columns: tuple[str, ...]
    negatives: int
    seed: int
    kinds: Mapping[str, float] = field(default_factory=dict)

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([*HEAD, *((name, pa.float32()) for name in self.columns)])

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        stages: dict[str, Stage] = {}
        for batch in batches:
            if not stages:
                stages = self.stages()
            parts = [self.batch(request, stages) for request in batch.to_pylist()]
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
        draw = np.random.default_rng([self.seed, id_hash(query.request_id)])
        weights = self._popular(found.rows) if self.kinds.get("popular") else None
        index = thinned(known, self.negatives, draw, self.kinds, weights)
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
) -> Array:
    """Places of what is known and of at most `most` others, in order.

    The others are shared out by `kinds`: `hard` ones come from the first tenth of what recall
    returned, `popular` ones with chances like the numbers `popular` (n,), the rest evenly. None is
    drawn twice.
    """
    sizes = shares(kinds or {}, most)
    free = np.flatnonzero(~known)
    top = free[: max(len(free) // 10, sizes["hard"])]
    hard = draw.permutation(top)[: sizes["hard"]] if sizes["hard"] else top[:0]
    free = np.setdiff1d(free, hard)
    liked = free[:0]
    if sizes["popular"] and popular is not None:
        # The largest keys log(u)/w are a weighted draw (Efraimidis, Spirakis 2006).
        keys = np.log(draw.random(len(free))) / np.maximum(popular[free], 1e-9)
        liked = free[np.argsort(-keys, kind="stable")[: sizes["popular"]]]
        free = np.setdiff1d(free, liked)
    even = draw.permutation(free)[: sizes["even"]]
    return np.sort(np.concatenate([np.flatnonzero(known), hard, liked, even]))


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
