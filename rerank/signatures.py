"""
MinHash signatures of texts: the share of places where two of them agree estimates the weighted
Jaccard similarity of the texts' shingles (pairs of neighbouring words), Σ min(w) / Σ max(w).

A shingle weighs log(1 + n / items that have it): what a thousand films share ("Widescreen Dubbed
Subtitle") makes no two of them alike, and a text all of whose shingles are in more than `COMMON`
items ("Greatest Hits - CD") identifies nothing and is like none.

Broder 1997, "On the resemblance and containment of documents"; the least of exponential draws with
rates w: Moulton and Jiang 2018, "Maximally consistent sampling and the Jaccard index of probability
distributions". Eight bits a place are enough: Li and König 2010, "b-bit minwise hashing"; two
places agree by chance once in 256 times.
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

import numba
import numpy as np
from numpy.typing import NDArray

from features.tokens import words

WIDTH = 128  # places of a signature; the estimate's standard error is at most 1 / 22
BLOCK = 50_000  # texts signed at a time: bounds the memory
COUNTERS = 1 << 22  # of items that have a shingle, by its hash; shared ones count too many
COMMON = 20
GOLDEN = np.uint64(0x9E3779B97F4A7C15)

Signatures = NDArray[np.uint8]


def signatures(texts: Sequence[str], width: int = WIDTH, seed: int = 1) -> Signatures:
    """(n, width); all zeros for a text that is like none, and for no other."""
    counts = np.zeros(COUNTERS, np.int32)
    for start in range(0, len(texts), BLOCK):
        shingles, starts = _shingles(texts[start : start + BLOCK])
        owners = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        once = np.unique(np.stack([owners.astype(np.uint64), shingles % COUNTERS]), axis=1)[1]
        counts += np.bincount(once.astype(np.int64), minlength=COUNTERS).astype(np.int32)
    blocks = [
        _block(texts[start : start + BLOCK], counts, len(texts), width, seed)
        for start in range(0, len(texts), BLOCK)
    ]
    return np.concatenate([np.empty((0, width), np.uint8), *blocks])


def resemblance(found: Signatures) -> NDArray[np.float32]:
    """(n, n) estimated similarities of n texts; those that identify nothing are like none."""
    share: NDArray[np.float32] = _agreeing(np.ascontiguousarray(found)) / np.float32(found.shape[1])
    blank = ~found.any(1)
    share[blank] = 0
    share[:, blank] = 0
    return share


@numba.njit(nogil=True, cache=True)
def _agreeing(found):  # type: ignore[no-untyped-def]  # pragma: no cover
    """(n, n) places that agree, float32."""
    n, width = found.shape
    agree = np.empty((n, n), np.float32)
    for i in range(n):
        for j in range(i + 1):
            count = 0
            for k in range(width):
                count += found[i, k] == found[j, k]
            agree[i, j] = count
            agree[j, i] = count
    return agree


def _block(
    texts: Sequence[str], counts: NDArray[np.int32], n: int, width: int, seed: int
) -> Signatures:
    shingles, starts = _shingles(texts)
    made = np.zeros((len(texts), width), np.uint8)
    has = counts[shingles % COUNTERS]
    lengths = np.diff(starts)
    some = np.flatnonzero(lengths)
    if not len(some):
        return made
    rarest = np.minimum.reduceat(has, starts[some])
    weight = np.log1p(n / has)
    random = np.random.default_rng(seed)
    # x -> (a x + b) mod 2^64 with odd a, of which the high bits are taken: Dietzfelbinger et al.
    # 1997. One function stands for one draw of each shingle.
    odd = random.integers(0, 1 << 63, width, np.uint64) * np.uint64(2) + np.uint64(1)
    plus = random.integers(0, 1 << 63, width, np.uint64)
    for place in range(width):
        uniform = (_mixed(shingles * odd[place] + plus[place]) >> np.uint64(11)) * 2.0**-53
        draws = -np.log1p(-uniform) / weight
        least = np.minimum.reduceat(draws, starts[some])
        made[some, place] = (_mixed(least.view(np.uint64)) >> np.uint64(56)).astype(np.uint8)
    made[some, 0] |= np.uint8(1)  # never all zeros
    made[some[rarest > COMMON]] = 0
    return made


def _shingles(texts: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The hashed pairs of neighbouring words of all the texts, and where each text's begin.

    A text of one word has that word for its only shingle.
    """
    codes: dict[str, int] = {}
    found: list[int] = []
    starts = [0]
    for text in texts:
        for word in words(text):
            found.append(codes.setdefault(word, len(codes)))
        starts.append(len(found))
    # A hash of the word and not its number: signatures of different blocks must compare.
    hashes = np.fromiter((crc32(word.encode()) for word in codes), np.uint64, len(codes))
    word_hashes = hashes[np.array(found, np.int64)]
    edges = np.array(starts, np.int64)
    lengths = np.diff(edges)
    follows = np.append(word_hashes[1:], np.uint64(0))
    paired = _mixed(word_hashes * GOLDEN + follows)
    single = edges[:-1][lengths == 1]
    paired[single] = _mixed(word_hashes[single])
    last = edges[1:][lengths > 1] - 1
    kept = np.ones(len(word_hashes), bool)
    kept[last] = False
    counts = np.where(lengths > 1, lengths - 1, lengths)
    return paired[kept], np.concatenate([[0], np.cumsum(counts)])


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Every bit of the result depends on every bit of x (the finaliser of SplitMix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
