"""
Recall over training requests, on Spark's workers: what serving would have scored, thinned out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    candidates all with a known outcome are kept, and `negatives` others drawn evenly: more of the
    best ones would make a high score look like a bad sign.
    """

    draft: str
    columns: tuple[str, ...]
    negatives: int
    seed: int

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

    def batch(self, request: Mapping[str, Any], stages: dict[str, Stage]) -> pa.Table:
        query, became = read_back(request)
        found = stages[query.scene].run(query, Candidates.empty())
        labels, positions, known = outcome(found.rows, became)
        draw = np.random.default_rng([self.seed, id_hash(query.request_id)])
        index = thinned(known, self.negatives, draw)
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


def thinned(known: Array, most: int, draw: np.random.Generator) -> Array:
    """Places of what is known and of at most `most` others, drawn evenly, in order."""
    chance = draw.permutation(np.flatnonzero(~known))[:most]
    return np.sort(np.concatenate([np.flatnonzero(known), chance]))


def evidence(channels: Sequence[str]) -> tuple[str, ...]:
    """The columns that recall leaves."""
    return ("recall", *(f"recall.{name}" for name in channels))
