"""
Nearest items by vector: text vectors for what the user typed, behaviour vectors for what they did.

Vectors have length 1, so the inner product is the cosine. Large catalogues are searched by HNSW
(Malkov and Yashunin 2016) in FAISS; small ones, and selections that leave few items, by an exact
scan, which is then both faster and complete.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from funnel.config import Config, Vectors
from funnel.errors import BadGeneration
from funnel.generation import Generation
from funnel.types import Array, Candidates, Query
from recall.channel import ranked
from recall.encoder import Encoder, load
from recall.filters import Mask
from recall.item_cf import action_weights, interest

SMALL = 5000  # vectors that are scanned faster than a graph is walked
HALF_LIFE = 3.0  # a wanted item counts half as much as one this many actions later
SELECTIVE = 0.1  # share of allowed items below which the scan is taken


def write_index(path: Path, vectors: Array, settings: Vectors) -> None:
    """HNSW over the rows that are not zero, with row numbers as ids; none for small catalogues.

    One thread builds, so the same vectors give the same graph.
    """
    path.unlink(missing_ok=True)
    rows = np.flatnonzero(np.any(vectors != 0, axis=1))
    if len(rows) < SMALL:
        return
    graph = faiss.IndexHNSWFlat(vectors.shape[1], settings.hnsw_m, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = settings.hnsw_build
    index = faiss.IndexIDMap(graph)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        index.add_with_ids(np.ascontiguousarray(vectors[rows], np.float32), rows.astype(np.int64))
    finally:
        faiss.omp_set_num_threads(threads)
    faiss.write_index(index, str(path))


@dataclass(frozen=True, eq=False)
class Nearest:
    """Vectors (n, d), zero rows for items without one, and a graph over them where it pays."""

    vectors: Array
    index: faiss.Index | None
    breadth: int

    @staticmethod
    def open(generation: Generation, name: str, settings: Vectors) -> Nearest | None:
        """`vector/<name>.npy` and its graph; None where the generation has no such vectors."""
        if not generation.has(f"vector/{name}.npy"):
            return None
        path = generation.path / "vector" / f"{name}.faiss"
        index = None
        if path.exists():
            try:
                index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
            except RuntimeError as error:
                raise BadGeneration(f"cannot read the vector index {path}: {error}") from error
        return Nearest(generation.array(f"vector/{name}"), index, settings.hnsw_search)

    def search(self, vector: Array, allowed: Mask | None, limit: int) -> Candidates:
        """The allowed items with the highest cosine to `vector` (d,), best first."""
        if not np.any(vector):
            return Candidates.empty()
        if self.index is None or (allowed is not None and allowed.mean() < SELECTIVE):
            return self.scan(vector, allowed, limit)
        settings: dict[str, Any] = {"efSearch": max(self.breadth, limit)}
        if allowed is not None:
            bits = np.packbits(allowed, bitorder="little")
            settings["sel"] = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
        how = faiss.SearchParametersHNSW(**settings)  # type: ignore[attr-defined]
        scores, rows = self.index.search(vector[None].astype(np.float32), limit, params=how)
        found = rows[0] >= 0
        return ranked(rows[0][found], scores[0][found], None, limit)

    def scan(self, vector: Array, allowed: Mask | None, limit: int) -> Candidates:
        """The same, over every allowed item."""
        if allowed is None:
            rows, part = np.arange(len(self.vectors)), self.vectors
        else:
            rows = np.flatnonzero(allowed)
            part = self.vectors[rows]
        scores = part @ vector.astype(np.float32)
        known = scores != 0  # items without a vector are not near anything
        return ranked(rows[known], scores[known], None, limit)


@dataclass(frozen=True, eq=False)
class Vector:
    """The channel: by text when there is one, else by the item, else by the user's history."""

    text: Nearest | None
    behaviour: Nearest | None
    encoder: Encoder | None
    actions: Array  # (actions,) weights

    @staticmethod
    def open(generation: Generation, config: Config) -> Vector:
        faiss.omp_set_num_threads(1)  # requests run beside each other, not each on all cores
        text = Nearest.open(generation, "text", config.vectors)
        encoder = load(generation.file("vector/encoder")) if text is not None else None
        behaviour = Nearest.open(generation, "behaviour", config.vectors)
        return Vector(text, behaviour, encoder, action_weights(generation, config))

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
        for nearest in (self.behaviour, self.text):
            if nearest is not None:
                found = nearest.search(weights @ nearest.vectors[rows], allowed, limit)
                if len(found):
                    return found
        return Candidates.empty()
