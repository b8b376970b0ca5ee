"""
The best entries of every row of a product of two sparse matrices, never holding the product.

    C = (diag(left) · A · B · diag(right))^∘power        ∘: entry by entry

Rows of C are made one after the other in one dense line a thread and cut to their k best entries
(ties to the lower column), so memory is the two factors, the lists, and blocks × columns.
Item-item models are such products: A = items × users, B = users × items.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import scipy.sparse as sp

from funnel.types import Array
from jobs.fresh import fresh, removed

BLOCK = 512  # rows that a thread takes at once


@dataclass(frozen=True, eq=False)
class Lists:
    """Neighbour lists as CSR arrays, each best first."""

    indptr: Array  # (n + 1,) int64
    indices: Array  # (m,) int32
    weights: Array  # (m,) float32

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def matrix(self) -> Any:
        """The lists as a (n, n) scipy matrix."""
        n = len(self)
        return sp.csr_matrix((self.weights, self.indices, self.indptr), shape=(n, n))

    def write(self, target: Path) -> int:
        """indptr.npy, indices.npy and weights.npy in the new directory `target`, nothing where the
        lists are all empty; how many neighbours there are."""
        removed(target)
        if len(self.indices):
            fresh(target)
            for name in ("indptr", "indices", "weights"):
                np.save(target / f"{name}.npy", getattr(self, name))
        return len(self.indices)


def incidence(users: Array, rows: Array, items: int, values: Array | None = None) -> Any:
    """(u, n) float32 CSR of who wanted what: user numbers and rows, one pair at most once."""
    count = int(users.max()) + 1 if len(users) else 0
    filled = np.ones(len(users), np.float32) if values is None else np.asarray(values, np.float32)
    found = sp.csr_matrix((filled, (users, rows)), shape=(count, items))
    found.sort_indices()
    return found


def top_product(
    a: Any,
    b: Any,
    left: Array,
    right: Array,
    keep: int,
    power: float = 1.0,
    diagonal: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Lists:
    """The `keep` best positive entries of every row of C, without its diagonal unless asked for.

    `a` (n, m) and `b` (m, k) are scipy CSR matrices; `left` (n,), `right` (k,) non-negative
    factors. `progress` hears how many rows are done. Deterministic whatever the threads.
    """
    a, b = a.tocsr().astype(np.float32), b.tocsr().astype(np.float32)
    factors = np.asarray(left, np.float32), np.asarray(right, np.float32)
    lines = (a.indptr, a.indices, a.data, b.indptr, b.indices, b.data, *factors)

    def block(start: int) -> tuple[Array, Array, Array]:
        stop = min(start + BLOCK, a.shape[0])
        found: tuple[Array, Array, Array] = _rows(
            *lines, start, stop, b.shape[1], keep, np.float32(power), diagonal
        )
        return found

    sizes, indices, weights = [np.zeros(1, np.int64)], [], []
    with ThreadPoolExecutor(threads()) as pool:
        for done, part in enumerate(pool.map(block, range(0, a.shape[0], BLOCK)), 1):
            sizes.append(part[0])
            indices.append(part[1])
            weights.append(part[2])
            progress(min(done * BLOCK, a.shape[0]))
    return Lists(
        np.cumsum(np.concatenate(sizes)),
        np.concatenate([np.empty(0, np.int32), *indices]),
        np.concatenate([np.empty(0, np.float32), *weights]),
    )


def threads() -> int:
    """How many kernels run beside each other: the cores that NumPy's libraries may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(min(cores or 1, int(numba.get_num_threads())), 1)


@numba.njit(nogil=True, cache=True)
def _rows(  # type: ignore[no-untyped-def]  # pragma: no cover
    a_ptr,
    a_col,
    a_val,
    b_ptr,
    b_col,
    b_val,
    left,
    right,
    start,
    stop,
    columns,
    keep,
    power,
    diagonal,
):
    line = np.zeros(columns, np.float32)
    held = np.zeros(columns, np.bool_)  # sums of both signs may pass through 0
    touched = np.empty(columns, np.int32)
    sizes = np.zeros(stop - start, np.int64)
    indices = np.empty((stop - start) * min(keep, columns), np.int32)
    weights = np.empty((stop - start) * min(keep, columns), np.float32)
    total = 0
    for row in range(start, stop):
        count = 0
        for place in range(a_ptr[row], a_ptr[row + 1]):
            mid, value = a_col[place], a_val[place]
            for other in range(b_ptr[mid], b_ptr[mid + 1]):
                column = b_col[other]
                if not held[column]:
                    held[column] = True
                    touched[count] = column
                    count += 1
                line[column] += value * b_val[other]
        kept = 0
        for n in range(count):
            column = touched[n]
            held[column] = False
            value = line[column] * left[row] * right[column]
            line[column] = value if value > 0 and (diagonal or column != row) else 0
            if line[column] > 0:
                touched[kept] = column
                kept += 1
            else:
                line[column] = 0
        found = touched[:kept]
        if kept > keep:  # the keep-th best value, then what is above it
            values = np.empty(kept, np.float32)
            for n in range(kept):
                values[n] = line[found[n]]
            worst = np.partition(values, kept - keep)[kept - keep]
            above = 0
            for n in range(kept):
                above += line[found[n]] > worst
            ties = np.sort(found[values == worst])[: keep - above]
            chosen = np.empty(keep, np.int32)
            spot = 0
            for n in range(kept):
                if line[found[n]] > worst:
                    chosen[spot] = found[n]
                    spot += 1
            chosen[spot:] = ties
        else:
            chosen = found.copy()
        chosen.sort()
        values = np.empty(len(chosen), np.float32)
        for n in range(len(chosen)):
            values[n] = -line[chosen[n]]
        order = np.argsort(values, kind="mergesort")
        for n in range(len(chosen)):
            indices[total + n] = chosen[order[n]]
            weights[total + n] = (-values[order[n]]) ** power
        sizes[row - start] = len(chosen)
        total += len(chosen)
        for n in range(kept):
            line[found[n]] = 0
    return sizes, indices[:total].copy(), weights[:total].copy()
