"""The items' columns as one request sees them; a live catalogue goes on changing meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features import tokens
from funnel.catalogue import Catalogue
from funnel.config import Data
from funnel.errors import BadGeneration
from funnel.types import Array, Rows


@dataclass(frozen=True, slots=True, eq=False)
class Lists:
    """A list of codes for each row: `codes[starts[row]:ends[row]]`."""

    starts: NDArray[np.int64]  # (n,)
    ends: NDArray[np.int64]  # (n,)
    codes: Array

    def gathered(self, rows: Rows) -> tuple[Array, Array, Array]:
        """The codes of some rows: (which of `rows` (m,), code (m,), lengths (n,))."""
        starts = self.starts[rows]
        lengths = self.ends[rows] - starts
        place = np.repeat(np.arange(len(rows)), lengths)
        first = np.cumsum(lengths) - lengths  # where each row's codes begin in the result
        return place, self.codes[np.arange(len(place)) + (starts - first)[place]], lengths


@dataclass(frozen=True, slots=True, eq=False)
class Attributes:
    """All of one moment, for `n` rows. What the data set does not have is None."""

    version: int
    n: int
    codes: Mapping[str, Array | None]
    multi: Mapping[str, Lists | None]
    numbers: Mapping[str, Array | None]
    tokens: Lists | None  # the words of the titles
    fresh: NDArray[np.uint64]  # hashed ids of the rows after the generation's last

    @staticmethod
    def of(items: Catalogue, data: Data) -> Attributes:
        """Views, not copies. Raises `BadGeneration` where the words are not those of the items."""
        with items.still():
            return Attributes(
                items.version,
                len(items),
                {
                    name: np.asarray(items.codes(name)) if items.has("codes", name) else None
                    for name in data.categorical
                },
                {name: _lists(items, name) for name in data.multi},
                {
                    name: np.asarray(items.numbers(name)) if items.has("number", name) else None
                    for name in (*data.numeric, "created_at", "available")
                },
                _words(items),
                items.fresh_hashes,
            )


def _lists(items: Catalogue, name: str) -> Lists | None:
    if not items.has("offsets", name):
        return None
    starts, ends = items.bounds(name)
    return Lists(np.asarray(starts), np.asarray(ends), np.asarray(items.codes(name)))


def _words(items: Catalogue) -> Lists | None:
    found = _lists(items, tokens.OFFSETS.removesuffix(".offsets"))
    if found is not None and (
        len(found.starts) != len(items)
        or (items.version == 0 and len(items) and found.ends[-1] != len(found.codes))
    ):
        raise BadGeneration(
            f"{items.path}/{tokens.OFFSETS}.npy does not fit the catalogue: "
            "build the generation again"
        )
    return found
