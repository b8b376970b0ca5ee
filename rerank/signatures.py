"""
MinHash signatures of texts: how alike two texts are, out of a few numbers each.

The share of equal places of two signatures estimates the Jaccard similarity of their sets of word
pairs (Broder 1997, "On the resemblance and containment of documents").
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

PLACES = 48
PRIME = (1 << 61) - 1
WORD = re.compile(r"\w+")
EMPTY = np.uint32(0xFFFFFFFF)  # of a text without words: like nothing, not even another one


def shingles(text: str) -> list[int]:
    """Hashes of the pairs of words that follow each other, and of a single word alone."""
    words = WORD.findall(text.lower())
    pairs = [f"{a} {b}" for a, b in pairwise(words)] or words
    return [crc32(pair.encode()) for pair in dict.fromkeys(pairs)]


def signatures(texts: Sequence[str], seed: int = 1) -> NDArray[np.uint32]:
    """(n, PLACES) signatures; the same text and seed give the same one, on any machine."""
    draw = np.random.default_rng(seed)
    factors = draw.integers(1, 1 << 31, PLACES, dtype=np.uint64)
    offsets = draw.integers(0, 1 << 31, PLACES, dtype=np.uint64)
    found = np.full((len(texts), PLACES), EMPTY, np.uint32)
    for place, text in enumerate(texts):
        hashed = np.array(shingles(text), np.uint64)
        if len(hashed):
            mixed = (hashed[:, None] * factors + offsets) % np.uint64(PRIME)
            found[place] = (mixed.min(0) % np.uint64(0xFFFFFFFE)).astype(np.uint32)
    return found


def resemblance(found: NDArray[np.uint32]) -> NDArray[np.float64]:
    """(n, n) estimated similarities of n signatures; 0 beside a text without words."""
    same: NDArray[np.float64] = (found[:, None, :] == found[None, :, :]).mean(-1)
    blank = (found == EMPTY).all(1)
    same[blank] = 0.0
    same[:, blank] = 0.0
    return same
