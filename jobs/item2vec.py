"""
Vectors of items from who wanted them: skip-gram with negative sampling over users' sequences.

    max Σ_(i,j) [ ln σ(v_i·c_j) + Σ_k ln σ(−v_i·c_k) ]       k ~ count^¾, `negatives` of them a pair

(i, j) are a wanted item and another one within `window` places of the same user's sequence, the
window drawn anew each time so that near ones count more (Barkan and Koenigstein 2016, "Item2Vec",
https://arxiv.org/abs/1603.04259; Mikolov et al. 2013). Items that everybody wants are left out at
times: each occurrence stays with chance √(t/f) + t/f, f the item's share of all and t what it
would be if all had the same. Items seen fewer than `least` times have no vector.

One thread goes over the sequences in order, so that the same wants and seed give the same vectors;
memory is two float32 matrices (items, width).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np

from funnel.types import Array
from jobs.wants import Wants
from recall.encoder import unit_rows


@dataclass(frozen=True, slots=True)
class Item2Vec:
    width: int = 64
    window: int = 10
    negatives: int = 5
    rounds: int = 60  # over all sequences, fewer where that is more than `most` items
    most: int = 30_000_000
    rate: float = 0.05  # falls to a hundredth of it
    least: int = 2


def vectors(
    found: Wants,
    model: Item2Vec,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Array:
    """(items, width) float32 rows of length 1, zeros for items without a vector."""
    counts = np.bincount(found.rows, minlength=found.items)
    known = counts >= model.least
    stays = known[found.rows]
    users, rows = found.users[stays], found.rows[stays]
    even = len(rows) / max(known.sum(), 1) / np.maximum(counts, 1)  # t/f
    keep = np.minimum(np.sqrt(even) + even, 1.0)
    rounds = min(model.rounds, max(model.most // max(len(rows), 1), 5))
    chance = np.cumsum(np.where(known, counts, 0) ** 0.75)
    sizes = np.unique(users, return_counts=True)[1]
    pointer = np.concatenate([[0], np.cumsum(sizes)])
    draw = np.random.default_rng(seed)
    inner = ((draw.random((found.items, model.width)) - 0.5) / model.width).astype(np.float32)
    outer = np.zeros((found.items, model.width), np.float32)
    state = draw.integers(1, 1 << 62, 1).astype(np.uint64)
    for done in range(rounds if len(rows) else 0):
        rates = model.rate * np.maximum(1 - np.arange(done, done + 2) / rounds, 0.01)
        _round(
            pointer,
            rows,
            keep,
            chance / chance[-1],
            inner,
            outer,
            state,
            model.window,
            model.negatives,
            *rates,
        )
        progress(done + 1)
    inner[~known] = 0
    return np.asarray(unit_rows(inner), np.float32)


@numba.njit(nogil=True, cache=True)
def _uniform(state):  # type: ignore[no-untyped-def]  # pragma: no cover
    """In [0, 1); xorshift64* (Vigna 2016), so that no other generator is touched."""
    x = state[0]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    state[0] = x
    return ((x * np.uint64(2685821657736338717)) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _round(  # type: ignore[no-untyped-def]  # pragma: no cover
    pointer, rows, keep, chance, inner, outer, state, window, negatives, first, last
):
    """One pass; the rate falls from `first` to `last` on the way."""
    width = inner.shape[1]
    step = np.zeros(width, np.float32)
    sequence = np.empty(np.max(np.diff(pointer)), np.int32)
    users = len(pointer) - 1
    for user in range(users):
        rate = np.float32(first + (last - first) * user / users)
        size = 0
        for place in range(pointer[user], pointer[user + 1]):
            if _uniform(state) < keep[rows[place]]:
                sequence[size] = rows[place]
                size += 1
        for place in range(size):
            reach = 1 + int(_uniform(state) * window)
            item = sequence[place]
            for near in range(max(place - reach, 0), min(place + reach + 1, size)):
                if near == place:
                    continue
                step[:] = 0
                for n in range(negatives + 1):
                    if n == 0:
                        other, label = sequence[near], np.float32(1)
                    else:
                        other = np.int32(np.searchsorted(chance, _uniform(state), side="right"))
                        label = np.float32(0)
                        if other == sequence[near]:
                            continue
                    product = np.float32(0)
                    for axis in range(width):
                        product += inner[item, axis] * outer[other, axis]
                    pull = (label - np.float32(1) / (np.float32(1) + np.exp(-product))) * rate
                    for axis in range(width):
                        step[axis] += pull * outer[other, axis]
                        outer[other, axis] += pull * inner[item, axis]
                for axis in range(width):
                    inner[item, axis] += step[axis]
