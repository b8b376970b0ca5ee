"""
The graph of users and items and its smoothest directions, for `recall/spectral.py`.

R̃ = D_u^(−½) R D_i^(−½) has the right singular vectors V. V Vᵀ over the first `width` of them keeps
what is smooth over the graph and nothing else (Shen et al. 2021, GF-CF,
https://arxiv.org/abs/2108.07567, section 4.2): it finds items that nobody wanted together with any
of the history, which neighbour lists cannot.

Writes spectral/ into both drafts: items.npy float32 (n, d), the directions; fame.npy float32 (n,),
how many users wanted each item, at least 1; R̃ by user as graph_starts.npy int64 (users + 1,),
graph_rows.npy int32 and graph_values.npy float32; filters.json, the weights of the filters.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from funnel.catalogue import Catalogue
from funnel.types import Array
from jobs import wants
from jobs.command import command
from jobs.fresh import fresh, removed
from jobs.wants import Wants
from jobs.work import Work


@dataclass(frozen=True, slots=True)
class Spectral:
    """Chosen on a cut of the training pairs of Gowalla."""

    ideal: float = 0.3  # weight of the directions beside one step over the graph
    sharpen: float = 0.6  # share of one more step that is taken off again
    width: int = 600
    spare: float = 0.3  # share of directions beyond the width that are thrown away
    rounds: int = 4
    seed: int = 7


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    items: Array  # (n, width) float32
    fame: Array  # (n,) float32
    graph: Any  # (u, n) float32, by user


def directions(
    matrix: Any, spectral: Spectral, progress: Callable[[int], None] = lambda done: None
) -> Trained:
    """The directions of `matrix` (u, n) of ones.

    A randomised range finder with power iterations (Halko, Martinsson, Tropp 2011,
    https://doi.org/10.1137/090771806). Memory is four times users + items by width.
    """
    fame = np.maximum(np.bincount(matrix.indices, minlength=matrix.shape[1]), 1.0)
    users = np.maximum(np.diff(matrix.indptr), 1.0) ** -0.5
    graph = (sp.diags(users) @ matrix @ sp.diags(fame**-0.5)).tocsr().astype(np.float32)
    mirror = graph.T.tocsr()
    width = min(spectral.width, *graph.shape)
    wide = min(width + int(width * spectral.spare) + 5, *graph.shape)
    draw = np.random.default_rng(spectral.seed)
    basis = draw.standard_normal((graph.shape[1], wide), dtype=np.float32)
    for done in range(spectral.rounds):
        basis, _ = np.linalg.qr(mirror @ (graph @ basis))
        progress(done + 1)
    seen = graph @ basis
    strength, vectors = np.linalg.eigh(seen.T @ seen)
    kept = [n for n in range(wide - 1, wide - 1 - width, -1) if strength[n] > 1e-6]
    found = np.ascontiguousarray(basis @ vectors[:, kept], np.float32)
    return Trained(found, fame.astype(np.float32), graph)


def write(target: Path, trained: Trained, spectral: Spectral | None = None) -> int:
    """Writes the new directory `target`; how many items have a direction at all."""
    removed(target)
    spectral = spectral or Spectral()
    known = int(np.count_nonzero(trained.items.any(axis=1)))
    if known:
        fresh(target)
        np.save(target / "items.npy", trained.items)
        np.save(target / "fame.npy", trained.fame)
        np.save(target / "graph_starts.npy", trained.graph.indptr.astype(np.int64))
        np.save(target / "graph_rows.npy", trained.graph.indices.astype(np.int32))
        np.save(target / "graph_values.npy", trained.graph.data)
        filters = {"ideal": spectral.ideal, "sharpen": spectral.sharpen}
        (target / "filters.json").write_text(json.dumps(filters))
    return known


def train(
    found: Wants,
    spectral: Spectral | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Trained:
    """Directions are zero for items that nobody wanted."""
    spectral = spectral or Spectral()
    if not len(found.users):
        nothing = sp.csr_matrix((0, found.items), dtype=np.float32)
        ones = np.ones(found.items, np.float32)
        return Trained(np.zeros((found.items, 1), np.float32), ones, nothing)
    matrix = found.matrix()
    trained = directions(matrix, spectral, progress)
    trained.items[np.bincount(matrix.indices, minlength=found.items) == 0] = 0
    return trained


def run(work: Work) -> Mapping[str, Any]:
    total = 0
    for draft, cut in work.drafts:
        removed(draft / "spectral")
        if work.has("events"):
            found = wants.read(work, cut, len(Catalogue(draft / "items")))
            settings = Spectral(seed=work.config.build.seed)
            made = train(found, settings, lambda n: work.progress(f"spectral: round {n}"))
            total = write(draft / "spectral", made, settings)
    return {"items": total}


if __name__ == "__main__":
    command(run, __doc__)
