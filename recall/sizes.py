"""
What an index over vectors costs, before it is built; and which one a memory budget allows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from funnel.config import Vectors

SMALL = 5000  # vectors that are scanned faster than a graph is walked
CODE = 4  # dimensions in one byte of a product-quantised vector
LINK_SECONDS = 2e-8  # to build, per vector, candidate and dimension; measured on one core


@dataclass(frozen=True, slots=True)
class Size:
    """Of one kind of index over n vectors. The raw vectors stay in a file (4·n·d bytes), mapped:
    the scan of filtered requests reads them, and so does the second look at quantised hits."""

    kind: str  # flat, hnsw, hnsw_sq8 or ivfpq
    vectors: int  # bytes, as they are kept in the index
    links: int  # bytes of the graph or the lists
    seconds: float  # to build on one core, a guess

    @property
    def memory(self) -> int:
        return self.vectors + self.links

    def __str__(self) -> str:
        return f"{self.kind} {self.memory / 2**20:,.0f} MiB, ~{self.seconds:,.0f} s"


def lists(n: int) -> int:
    """Of an inverted file: about 4·√n, so that a list has some hundreds of vectors."""
    return max(1, min(int(4 * math.sqrt(n)), n // 40))


def sizes(n: int, width: int, settings: Vectors) -> tuple[Size, ...]:
    """Every kind, the one with the best recall at its speed first."""
    # 2·M links on the ground floor, M on the M-th part of the vectors above; 8 bytes of offset, a
    # level and an 8-byte id each.
    m = settings.hnsw_m
    graph = n * (8 * m + 4 * m // max(m - 1, 1) + 8 + 4 + 8)
    build = LINK_SECONDS * n * settings.hnsw_build * width
    coded = n * math.ceil(width / CODE)
    centres = lists(n) * width * 4
    return (
        Size("hnsw", 4 * n * width, graph, build),
        Size("hnsw_sq8", n * width, graph, 1.5 * build),
        Size("ivfpq", coded, (8 + 8) * n + centres, 1e-9 * n * lists(n) * width + 5),
        Size("flat", 4 * n * width, 0, 0.0),
    )


def chosen(n: int, width: int, settings: Vectors) -> Size:
    """The configured kind; for `auto` the scan where few vectors are, else the first kind within
    `vectors.memory_mb`, or the smallest where none is."""
    found = {size.kind: size for size in sizes(n, width, settings)}
    if n < SMALL:
        return found["flat"]
    if settings.index != "auto":
        return found[settings.index]
    budget = settings.memory_mb * 2**20
    graphs = [found[kind] for kind in ("hnsw", "hnsw_sq8", "ivfpq")]
    within = [size for size in graphs if size.memory <= budget]
    return within[0] if within else min(graphs, key=lambda size: size.memory)
