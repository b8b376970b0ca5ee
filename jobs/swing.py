"""
Swing: two items are near where pairs of users who share little else both wanted them.

    w_ij = Σ_{u<v ∈ U_i ∩ U_j} 1/√|H_u| · 1/√|H_v| · 1 / (α + |H_u ∩ H_v|)

(Yang et al. 2020, https://arxiv.org/abs/2010.05525, equation 4, with user weights). Only the newest
`users` of an item meet, and H_u is at most `behaviour.history` items long. The weight is damped by
the target's fame, n_j^(−γ).

Writes swing/ into both drafts, in the form of recall/neighbours.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from funnel.catalogue import Catalogue
from funnel.types import Array
from jobs import wants
from jobs.command import command
from jobs.fresh import removed
from jobs.products import Lists, threads
from jobs.wants import Wants
from jobs.work import Work

BLOCK = 256  # items that a thread takes at once


@dataclass(frozen=True, slots=True)
class Swing:
    alpha: float = 5.0
    target: float = 0.25  # γ
    users: int = 100  # newest of an item
    keep: int = 200


def neighbours(
    found: Wants, swing: Swing | None = None, progress: Callable[[int], None] = lambda done: None
) -> Lists:
    """The lists of every item."""
    swing = swing or Swing()
    matrix = found.matrix()
    newest = np.lexsort((found.users, -found.times, found.rows))
    rows = found.rows[newest]
    begin = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=found.items))])
    kept = newest[np.arange(len(rows)) - begin[rows] < swing.users]
    pointer = np.concatenate([[0], np.cumsum(np.bincount(found.rows[kept], minlength=found.items))])
    weight = 1 / np.sqrt(np.maximum(np.diff(matrix.indptr), 1.0))
    fame = np.maximum(np.diff(begin), 1.0) ** -swing.target
    columns = (pointer, found.users[kept], matrix.indptr, matrix.indices, weight, fame)

    def block(start: int) -> tuple[Array, Array, Array]:
        stop = min(start + BLOCK, found.items)
        lists: tuple[Array, Array, Array] = _swing(*columns, swing.alpha, swing.keep, start, stop)
        return lists

    sizes, indices, weights = [np.zeros(1, np.int64)], [], []
    with ThreadPoolExecutor(threads()) as pool:
        for done, part in enumerate(pool.map(block, range(0, found.items, BLOCK)), 1):
            sizes.append(part[0])
            indices.append(part[1])
            weights.append(part[2])
            progress(min(done * BLOCK, found.items))
    return Lists(
        np.cumsum(np.concatenate(sizes)),
        np.concatenate([np.empty(0, np.int32), *indices]),
        np.concatenate([np.empty(0, np.float32), *weights]),
    )


@numba.njit(nogil=True, cache=True)
def _swing(  # type: ignore[no-untyped-def]  # pragma: no cover
    item_ptr, item_users, user_ptr, user_rows, weight, fame, alpha, keep, start, stop
):
    items = len(item_ptr) - 1
    line = np.zeros(items)
    held = np.zeros(items, np.bool_)
    sizes = np.zeros(stop - start, np.int64)
    indices = np.empty((stop - start) * keep, np.int32)
    weights = np.empty((stop - start) * keep, np.float32)
    total = 0
    for item in range(start, stop):
        touched = [np.int32(0) for _ in range(0)]
        for a in range(item_ptr[item], item_ptr[item + 1]):
            u = item_users[a]
            own = user_rows[user_ptr[u] : user_ptr[u + 1]]
            for row in own:
                held[row] = True
            for b in range(a + 1, item_ptr[item + 1]):
                v = item_users[b]
                other = user_rows[user_ptr[v] : user_ptr[v + 1]]
                shared = 0
                for row in other:
                    shared += held[row]
                if shared > 1:  # more than the item itself
                    vote = weight[u] * weight[v] / (alpha + shared)
                    for row in other:
                        if held[row] and row != item:
                            if line[row] == 0:
                                touched.append(row)
                            line[row] += vote
            for row in own:
                held[row] = False
        near = np.array(touched, dtype=np.int32)
        near.sort()
        scores = np.empty(len(near))
        for n in range(len(near)):
            scores[n] = line[near[n]] * fame[near[n]]
            line[near[n]] = 0
        order = np.argsort(-scores, kind="mergesort")[:keep]
        for place in order:
            indices[total] = near[place]
            weights[total] = scores[place]
            total += 1
        sizes[item - start] = len(order)
    return sizes, indices[:total].copy(), weights[:total].copy()


def run(work: Work) -> Mapping[str, Any]:
    total = 0
    for draft, cut in work.drafts:
        removed(draft / "swing")
        if work.has("events"):
            found = wants.read(work, cut, len(Catalogue(draft / "items")))
            model = Swing(keep=work.config.behaviour.neighbours)
            lists = neighbours(found, model, lambda done: work.progress(f"swing: {done:,} items"))
            total = lists.write(draft / "swing")
    return {"neighbours": total}


if __name__ == "__main__":
    command(run, __doc__)
