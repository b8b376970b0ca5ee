"""
MinHash signatures of texts: the share of places where two of them agree estimates the Jaccard
similarity of the texts' shingles (pairs of neighbouring words).

Broder 1997, "On the resemblance and containment of documents". Sixteen bits a place are enough:
Li and König 2010, "b-bit minwise hashing"; two places agree by chance once in 65,536 times.
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from features.tokens import words

WIDTH = 64  # places of a signature; the estimate's standard error is at most 1 / 16
BLOCK = 50_000  # texts signed at a time: bounds the memory
COMPARED = 64  # texts compared with all the others at a time: so does this
GOLDEN = np.uint64(0x9E3779B97F4A7C15)

Signatures = NDArray[np.uint16]


def signatures(texts: Sequence[str], width: int = WIDTH, seed: int = 1) -> Signatures:
    """(n, width); all zeros for a text without words, and for none other."""
    blocks = [
        _block(texts[start : start + BLOCK], width, seed) for start in range(0, len(texts), BLOCK)
    ]
    return np.concatenate([np.empty((0, width), np.uint16), *blocks])


def resemblance(found: Signatures) -> NDArray[np.float32]:
    """(n, n) estimated similarities of n texts; those without words are like none."""
    share = np.empty((len(found), len(found)), np.float32)
    for start in range(0, len(found), COMPARED):
        block = slice(start, start + COMPARED)
        share[block] = (found[block, None] == found[None]).mean(2, dtype=np.float32)
    blank = ~found.any(1)
    share[blank] = 0
    share[:, blank] = 0
    return share


def _block(texts: Sequence[str], width: int, seed: int) -> Signatures:
    shingles, starts = _shingles(texts)
    made = np.zeros((len(texts), width), np.uint16)
    lengths = np.diff(starts)
    some = np.flatnonzero(lengths)
    if not len(some):
        return made
    random = np.random.default_rng(seed)
    # x -> (a x + b) mod 2^64 with odd a, of which the high bits are taken: Dietzfelbinger et al.
    # 1997. One function stands for one permutation.
    odd = random.integers(0, 1 << 63, width, np.uint64) * np.uint64(2) + np.uint64(1)
    plus = random.integers(0, 1 << 63, width, np.uint64)
    for place in range(width):
        hashed = shingles * odd[place] + plus[place]
        least = np.minimum.reduceat(hashed, starts[some])
        made[some, place] = (_mixed(least) >> np.uint64(48)).astype(np.uint16)
    made[some, 0] |= np.uint16(1)  # never all zeros
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
