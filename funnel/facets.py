"""
What there is among the items that recall found: counts of values, ranges of numbers.

They count the candidates of the whole request, its filters included: the facet of an attribute that
the request filters on shows what its own filter left.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from funnel.catalogue import Catalogue
from funnel.config import Config
from funnel.errors import BadQuery
from funnel.page import Bucket, Facet
from funnel.types import Array, Rows, taken

MOST_VALUES = 20
BUCKETS = 5


def facets(names: Sequence[str], rows: Rows, items: Catalogue, config: Config) -> tuple[Facet, ...]:
    """One facet a name, for the items at `rows`. Raises `BadQuery` naming what can be counted."""
    values = [*config.data.categorical, *config.data.multi]
    numbers = [n for n in (*config.data.numeric, *config.data.filterable) if n not in values]
    known = [name for name in values if items.has("codes", name)]
    known += dict.fromkeys(name for name in numbers if items.has("number", name))
    for name in names:
        if name not in known:
            raise BadQuery(
                f"facet '{name[:80]}' is no attribute that can be counted; known: "
                f"{', '.join(known)}"
            )
    with items.still():
        return tuple(
            _values(name, rows, items) if name in values else _range(name, rows, items)
            for name in names
        )


def _values(name: str, rows: Rows, items: Catalogue) -> Facet:
    codes, values = items.codes(name), items.values(name)
    if items.has("offsets", name):
        starts, ends = items.bounds(name)
        sizes = ends[rows] - starts[rows]
        first = np.repeat(starts[rows] - np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes)
        found = codes[first + np.arange(sizes.sum())] if len(rows) else codes[:0]
    else:
        found = codes[rows]
    counts = np.bincount(found[found >= 0], minlength=1)
    order = np.argsort(-counts, kind="stable")[:MOST_VALUES]
    return Facet(name, tuple((values[code], int(counts[code])) for code in order if counts[code]))


def _range(name: str, rows: Rows, items: Catalogue) -> Facet:
    found = taken(items.numbers(name), rows, np.nan).astype(np.float64)
    found = np.sort(found[np.isfinite(found)])
    if not len(found):
        return Facet(name)
    return Facet(name, (), float(found[0]), float(found[-1]), buckets(found))


def buckets(ordered: Array, most: int = BUCKETS) -> tuple[Bucket, ...]:
    """At most `most` ranges of falling together values, as alike in number as ties allow."""
    places = np.arange(1, most) * len(ordered) // most
    cuts = np.searchsorted(ordered, ordered[places], "left")
    edges = np.unique([0, *cuts, len(ordered)])
    return tuple(
        Bucket(float(ordered[low]), float(ordered[high - 1]), int(high - low))
        for low, high in pairwise(edges)
    )
