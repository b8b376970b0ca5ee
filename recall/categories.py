"""
The popular items of every category: lists of the values of one item column, each best first.

A value has a list, and so has the first part of paths that share one: `Shoes/Running` and
`Shoes/Hiking` have a list each and `Shoes` has another, with the items of both.

    popular/lists/indptr.npy   (l + 1,) int64, list v is of value v, those of first parts follow
    popular/lists/rows.npy     (m,) int32
    popular/lists/scores.npy   (m,) float32
    popular/lists/totals.npy   (l,) float64 of all items of the list, whether it has them or not
    popular/lists/tops.npy     (v,) int32 the list of each value's first part
    popular/lists/about.json   the column, and the score of all items together
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from funnel.catalogue import Catalogue
from funnel.generation import Generation
from funnel.holds import spans
from funnel.types import Array

ARRAYS = ("indptr", "rows", "scores", "totals", "tops")


@dataclass(frozen=True, eq=False)
class Categories:
    column: str
    everything: float  # the score of all items together
    indptr: Array
    rows: Array
    scores: Array
    totals: Array
    tops: Array

    @staticmethod
    def of(items: Catalogue, column: str, scores: Array, keep: int) -> Categories | None:
        """The best `keep` of every list by scores (n,); items with 0 are in none. None where the
        catalogue does not have the column with values."""
        if not items.has("codes", column):
            return None
        tops = first_parts(items.values(column))
        rows = np.arange(len(scores))
        owner, lists = _lists(items, column, rows, tops)
        count = width_of(tops)
        totals = np.bincount(lists, scores[owner], count)
        held = scores[owner] > 0
        owner, lists = owner[held], lists[held]
        order = np.lexsort((owner, -scores[owner], lists))
        owner, lists = owner[order], lists[order]
        begin = np.concatenate([[0], np.cumsum(np.bincount(lists, minlength=count))])
        few = np.arange(len(lists)) - begin[lists] < keep
        owner, lists = owner[few], lists[few]
        indptr = np.concatenate([[0], np.cumsum(np.bincount(lists, minlength=count))])
        rows, kept = owner.astype(np.int32), scores[owner].astype(np.float32)
        everything = float(scores.sum(dtype=np.float64))
        return Categories(column, everything, indptr.astype(np.int64), rows, kept, totals, tops)

    def write(self, folder: Path) -> None:
        folder.mkdir()
        for name in ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))
        (folder / "about.json").write_text(
            json.dumps({"column": self.column, "everything": self.everything})
        )

    @staticmethod
    def open(generation: Generation) -> Categories | None:
        """None where the generation was built without them."""
        if not generation.has("popular/lists"):
            return None
        about = generation.json("popular/lists/about.json")
        arrays = (generation.array(f"popular/lists/{name}") for name in ARRAYS)
        return Categories(str(about["column"]), float(about["everything"]), *arrays)

    def shares(self, items: Catalogue, rows: Array, votes: Array) -> Array:
        """(l,) how much of the votes (k,) for these items each list has; the sum is 1, or 0 where
        none of them has a list. An item's vote is shared alike among its lists."""
        owner, lists = _lists(items, self.column, rows, self.tops)
        count = np.bincount(owner, minlength=len(rows))
        found = np.bincount(lists, votes[owner] / count[owner], len(self.totals))
        return found / (found.sum() or 1.0)

    def below(self, items: Catalogue, value: str) -> Array:
        """The lists that have the items of a value and of the paths below it, as a filter on the
        value keeps them; none where it is not known here."""
        known = len(self.tops)
        places = [np.arange(*span) for span in spans(value, items.values(self.column)[:known])]
        lists = np.concatenate(places).astype(np.int64)
        if "/" not in value and len(lists):
            return np.unique(self.tops[lists])
        return lists

    def entries(self, lists: Array) -> tuple[Array, Array, Array]:
        """What the lists (k,) have: (m,) places in `lists`, rows and scores."""
        starts = self.indptr[lists]
        sizes = self.indptr[lists + 1] - starts
        owner = np.repeat(np.arange(len(lists)), sizes)
        spots = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes - starts, sizes)
        return owner, self.rows[spots], self.scores[spots]


def first_parts(values: list[str]) -> Array:
    """(v,) int32 the list of each value's first part: its own, where no other value shares it."""
    heads = np.array([value.partition("/")[0] for value in values], np.str_)
    _, group, sizes = np.unique(heads, return_inverse=True, return_counts=True)
    shared = len(values) + np.cumsum(sizes > 1) - 1
    tops = np.where(sizes[group] > 1, shared[group], np.arange(len(values)))
    return tops.astype(np.int32)


def width_of(tops: Array) -> int:
    """How many lists there are, and 1 where there are none."""
    return max(int(tops.max(initial=0)) + 1, len(tops))


def _lists(items: Catalogue, column: str, rows: Array, tops: Array) -> tuple[Array, Array]:
    """Which lists the items are in, each once: (m,) places in `rows`, (m,) lists."""
    codes = items.codes(column)
    if items.has("offsets", column):
        starts, ends = (bounds[rows] for bounds in items.bounds(column))
        sizes = ends - starts
        owner = np.repeat(np.arange(len(rows)), sizes)
        codes = codes[np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes - starts, sizes)]
    else:
        owner, codes = np.arange(len(rows)), codes[rows]
    known = (codes >= 0) & (codes < len(tops))  # values that came later have no list
    owner, codes = owner[known], codes[known].astype(np.int64)
    width = width_of(tops)
    both = np.concatenate([owner * width + codes, owner * width + tops[codes]])
    pairs = np.unique(both)
    return pairs // width, pairs % width
