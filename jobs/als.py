"""
Implicit matrix factorisation by alternating least squares (Hu, Koren, Volinsky 2008,
https://doi.org/10.1109/ICDM.2008.22).

    min Σ_(u,i) wanted w_ui (1 − x_u·y_i)² + α Σ_ui (x_u·y_i)²
        + λ (Σ_u n_u^ν |x_u|² + Σ_i n_i^ν |y_i|²)

w_ui is the weight of what u did with i, α (`unseen`) that of every pair at all.
The regularisation grows with how much is known of each (Rendle et al. 2021,
https://arxiv.org/abs/2110.14037). A side is not solved but improved, from where it was, by some
steps of conjugate gradients (Takács, Pilászy, Tikk 2011, https://doi.org/10.1145/2043932.2043987):
tens of times cheaper. Memory is the factors.

Writes als/ into both drafts: items.npy float32 (n, d + 1), the factors over the length M of the
longest and what lacks to length one, so that the highest product with (x, 0) is the highest cosine
(Bachrach et al. 2014, https://doi.org/10.1145/2645710.2645741); gram.npy float32 (d, d), which is
unseen · Σ_i y_i y_iᵀ; ridge.npy: λ, ν, M. And an index over the items where it pays. A request
folds its history in with them (recall/als.py).
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
from funnel.config import Vectors
from funnel.types import Array
from jobs import wants
from jobs.command import command
from jobs.fresh import fresh, removed
from jobs.products import threads
from jobs.wants import Wants
from jobs.work import Work
from recall.nearest import write_index

BLOCK = 256


@dataclass(frozen=True, slots=True)
class ALS:
    """Chosen on a cut of the training pairs of Gowalla."""

    width: int = 128
    rounds: int = 8
    steps: int = 3  # of conjugate gradients, a side and round
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
    users = np.zeros((matrix.shape[0], als.width), np.float32)
    for done in range(als.rounds):
        improve(users, matrix, items, als)
        improve(items, mirror, users, als)
        progress(done + 1)
    return items, gram(items, als)


def gram(vectors: Array, als: ALS) -> Array:
    return np.asarray(als.unseen * (vectors.T @ vectors), np.float32)


def improve(found: Array, matrix: Any, other: Array, als: ALS) -> None:
    """Moves the factors (k, d) of the rows of `matrix` (k, m) towards the best, given those of its
    columns (m, d)."""
    count = matrix.shape[0]
    base = gram(other, als)
    lines = matrix.indptr, matrix.indices, matrix.data

    def block(start: int) -> None:
        stop = min(start + BLOCK, count)
        _improve(*lines, other, base, als.ridge, als.power, als.steps, start, stop, found)

    with ThreadPoolExecutor(threads()) as pool:
        list(pool.map(block, range(0, count, BLOCK)))


@numba.njit(nogil=True, cache=True)
def _times(base, near, weights, ridge, x):  # type: ignore[no-untyped-def]  # pragma: no cover
    found = base @ x + ridge * x
    for n in range(len(near)):
        found += near[n] * (weights[n] * np.dot(near[n], x))
    return found


@numba.njit(nogil=True, cache=True)
def _improve(  # type: ignore[no-untyped-def]  # pragma: no cover
    indptr, indices, values, other, base, ridge, power, steps, start, stop, found
):
    width = other.shape[1]
    for row in range(start, stop):
        low, high = indptr[row], indptr[row + 1]
        if high == low:
            continue
        weights = values[low:high]
        near = np.empty((high - low, width), np.float32)
        residual = np.zeros(width, np.float32)
        for n in range(high - low):
            near[n] = other[indices[low + n]]
            residual += near[n] * weights[n]
        own = np.float32(ridge * float(high - low) ** power)
        x = found[row].copy()
        residual -= _times(base, near, weights, own, x)
        towards = residual.copy()
        length = np.dot(residual, residual)
        for _ in range(steps):
            if length < 1e-20:
                break
            image = _times(base, near, weights, own, towards)
            by = length / np.dot(towards, image)
            x += by * towards
            residual -= by * image
            after = np.dot(residual, residual)
            towards = residual + (after / length) * towards
            length = after
        found[row] = x


def write(target: Path, items: Array, base: Array, als: ALS, settings: Vectors) -> int:
    """Writes the new directory `target`; how many items have factors. Nothing where none has."""
    removed(target)
    lengths = np.linalg.norm(items, axis=1)
    known = int(np.count_nonzero(lengths))
    if known:
        fresh(target)
        longest = float(lengths.max())
        rest = np.sqrt(np.maximum(1 - (lengths / longest) ** 2, 0))
        placed = np.column_stack([items / np.float32(longest), rest]).astype(np.float32)
        placed[lengths == 0] = 0
        np.save(target / "items.npy", placed)
        np.save(target / "gram.npy", base)
        np.save(target / "ridge.npy", np.array([als.ridge, als.power, longest]))
        write_index(target / "items.faiss", placed, settings)
    return known


def run(work: Work) -> Mapping[str, Any]:
    total = 0
    for draft, cut in work.drafts:
        removed(draft / "als")
        if work.has("events"):
            found = wants.read(work, cut, len(Catalogue(draft / "items")))
            als = ALS(seed=work.config.build.seed)
            made = factors(found, als, lambda done: work.progress(f"als: round {done}"))
            total = write(draft / "als", *made, als, work.config.vectors)
    return {"items": total}


if __name__ == "__main__":
    command(run, __doc__)
