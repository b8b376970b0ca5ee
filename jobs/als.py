"""
Implicit matrix factorisation by alternating least squares (Hu, Koren, Volinsky 2008,
https://doi.org/10.1109/ICDM.2008.22).

    min Σ_(u,i) wanted w_ui (1 − x_u·y_i)² + α Σ_ui (x_u·y_i)²
        + λ (Σ_u n_u^ν |x_u|² + Σ_i n_i^ν |y_i|²)

w_ui is the weight of what u did with i, α (`unseen`) that of every pair at all.
The regularisation grows with how much is known of each (Rendle et al. 2021,
https://arxiv.org/abs/2110.14037). Users are solved in blocks, so memory is the factors and a block.

Writes als/ into both drafts: items.npy float32 (n, d) and gram.npy float32 (d, d), which is
unseen · Σ_i y_i y_iᵀ; a request folds its history in with them (recall/als.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np

from funnel.catalogue import Catalogue
from funnel.types import Array
from jobs import wants
from jobs.command import command
from jobs.fresh import fresh, removed
from jobs.products import threads
from jobs.wants import Wants
from jobs.work import Work
from recall.als import solve

BLOCK = 256


@dataclass(frozen=True, slots=True)
class ALS:
    """Chosen on a cut of the training pairs of Gowalla."""

    width: int = 128
    rounds: int = 8
    unseen: float = 0.05
    ridge: float = 0.02  # λ
    power: float = 1.0  # ν
    seed: int = 7


def factors(
    found: Wants, als: ALS | None = None, progress: Callable[[int], None] = lambda done: None
) -> tuple[Array, Array]:
    """(n, d) and (d, d) float32: the items' factors and their weighted Gram matrix."""
    als = als or ALS()
    matrix = found.matrix(weighted=True)
    mirror = matrix.T.tocsr()
    mirror.sort_indices()
    draw = np.random.default_rng(als.seed)
    items = draw.normal(0, als.width**-0.5, (found.items, als.width)).astype(np.float32)
    items[np.diff(mirror.indptr) == 0] = 0
    for done in range(als.rounds):
        users = side(matrix, items, als)
        items = side(mirror, users, als)
        progress(done + 1)
    return items, gram(items, als)


def gram(vectors: Array, als: ALS) -> Array:
    return np.asarray(als.unseen * (vectors.T @ vectors), np.float32)


def side(matrix: Any, other: Array, als: ALS) -> Array:
    """(k, d) the factors of the rows of `matrix` (k, m), given those of its columns (m, d)."""
    count = matrix.shape[0]
    base, found = gram(other, als), np.zeros((count, als.width), np.float32)
    lines = matrix.indptr, matrix.indices, matrix.data

    def block(start: int) -> None:
        stop = min(start + BLOCK, count)
        _solve(*lines, other, base, als.ridge, als.power, start, stop, found)

    with ThreadPoolExecutor(threads()) as pool:
        list(pool.map(block, range(0, count, BLOCK)))
    return found


@numba.njit(nogil=True, cache=True)
def _solve(  # type: ignore[no-untyped-def]  # pragma: no cover
    indptr, indices, values, other, base, ridge, power, start, stop, found
):
    for row in range(start, stop):
        low, high = indptr[row], indptr[row + 1]
        if high > low:
            found[row] = solve(other, base, indices[low:high], values[low:high], ridge, power)


def write(target: Path, items: Array, base: Array, als: ALS) -> int:
    """Writes the new directory `target`; how many items have factors. Nothing where none has."""
    removed(target)
    known = int(np.count_nonzero(items.any(axis=1)))
    if known:
        fresh(target)
        np.save(target / "items.npy", items)
        np.save(target / "gram.npy", base)
        np.save(target / "ridge.npy", np.array([als.ridge, als.power]))
    return known


def run(work: Work) -> Mapping[str, Any]:
    total = 0
    for draft, cut in work.drafts:
        removed(draft / "als")
        if work.has("events"):
            found = wants.read(work, cut, len(Catalogue(draft / "items")))
            als = ALS(seed=work.config.build.seed)
            made = factors(found, als, lambda done: work.progress(f"als: round {done}"))
            total = write(draft / "als", *made, als)
    return {"items": total}


if __name__ == "__main__":
    command(run, __doc__)
