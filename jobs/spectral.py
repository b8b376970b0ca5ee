"""
The ideal low-pass filter of the graph of users and items: its smoothest directions.

R̃ = D_u^(−½) R D_i^(−½) has the right singular vectors V. V Vᵀ over the first `width` of them keeps
what is smooth over the graph and nothing else (Shen et al. 2021, GF-CF,
https://arxiv.org/abs/2108.07567, section 4.2): it finds items that nobody wanted together with any
of the history, which neighbour lists cannot.

Writes spectral/ into both drafts: items.npy float32 (n, d), the directions, and fame.npy float32
(n,), how many users wanted each item, at least 1.
"""

from __future__ import annotations

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

    width: int = 600
    spare: float = 0.3  # share of directions beyond the width that are thrown away
    rounds: int = 4
    seed: int = 7


def directions(
    matrix: Any, spectral: Spectral, progress: Callable[[int], None] = lambda done: None
) -> tuple[Array, Array]:
    """(n, width) and (n,) float32 for `matrix` (u, n) of ones.

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
    return np.ascontiguousarray(basis @ vectors[:, kept], np.float32), fame.astype(np.float32)


def write(target: Path, items: Array, fame: Array) -> int:
    """Writes the new directory `target`; how many items have a direction at all."""
    removed(target)
    known = int(np.count_nonzero(items.any(axis=1)))
    if known:
        fresh(target)
        np.save(target / "items.npy", items)
        np.save(target / "fame.npy", fame)
    return known


def train(
    found: Wants,
    spectral: Spectral | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[Array, Array]:
    """(n, d) and (n,): zeros for items that nobody wanted."""
    spectral = spectral or Spectral()
    if not len(found.users):
        return np.zeros((found.items, 1), np.float32), np.ones(found.items, np.float32)
    matrix = found.matrix()
    items, fame = directions(matrix, spectral, progress)
    items[np.bincount(matrix.indices, minlength=found.items) == 0] = 0
    return items, fame


def run(work: Work) -> Mapping[str, Any]:
    total = 0
    for draft, cut in work.drafts:
        removed(draft / "spectral")
        if work.has("events"):
            found = wants.read(work, cut, len(Catalogue(draft / "items")))
            settings = Spectral(seed=work.config.build.seed)
            made = train(found, settings, lambda n: work.progress(f"spectral: round {n}"))
            total = write(draft / "spectral", *made)
    return {"items": total}


if __name__ == "__main__":
    command(run, __doc__)
