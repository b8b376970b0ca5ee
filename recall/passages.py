"""
Passages: items with a `parent_id` are parts of a document, and a document is returned once.

Recall searches the parts; of each document the best one goes on, before the list is cut, so that
the cut keeps documents. An item that is itself the parent of others belongs to its document too,
from the next build on where it came live. What a request excludes takes its whole document along.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from funnel.catalogue import Catalogue
from funnel.generation import Generation
from funnel.stage import Fuse
from funnel.types import NO_ITEM, Candidates, Query, Rows, taken
from recall.masks import Mask

PARENT = "parent_id"


@dataclass(eq=False)
class Documents:
    """Which document each item of a live catalogue is a part of."""

    items: Catalogue
    whole: NDArray[np.int32]  # (base,) of an item that is a parent itself, its document; else -1
    _last: tuple[int, NDArray[np.int32]] = field(default=(-1, np.empty(0, np.int32)))

    @staticmethod
    def open(generation: Generation) -> Documents | None:
        """None where no item has a parent."""
        items = generation.items
        if not items.has("codes", PARENT) or not items.ordered(PARENT):
            return None
        whole = np.full(items.base, -1, np.int32)
        rows = items.rows(items.values(PARENT)[: items.ordered(PARENT)])
        known = np.flatnonzero((rows != NO_ITEM) & (rows < items.base))
        whole[rows[known]] = known
        return Documents(items, whole)

    def all(self) -> NDArray[np.int32]:
        """(n,) the document of every item, -1 where it is part of none. Worked out once a version
        of the catalogue; nobody may write into it."""
        version, found = self._last
        if version != self.items.version:
            with self.items.still():
                version, parents = self.items.version, self.items.codes(PARENT)
                found = np.array(parents[: len(self.items)], np.int32)
            head = found[: len(self.whole)]
            np.copyto(head, self.whole, where=head < 0)
            self._last = version, found
        return found

    def others(self, rows: Rows) -> Mask:
        """(n,) False for the items of the documents that `rows` are of."""
        documents = self.all()
        gone = np.zeros(int(documents.max(initial=-1)) + 2, bool)  # the last place is for -1
        gone[taken(documents, rows, -1)] = True
        gone[-1] = False
        allowed: Mask = ~gone[documents]
        return allowed

    def once(self, candidates: Candidates) -> Candidates:
        """The first candidate of every document, in the order that they have."""
        documents = taken(self.all(), candidates.rows, -1)
        alone = documents < 0
        if alone.all():
            return candidates
        numbers = np.where(alone, -2 - np.arange(len(documents)), documents)
        _, first = np.unique(numbers, return_index=True)
        return candidates.take(np.sort(first)) if len(first) < len(alone) else candidates


@dataclass(frozen=True, eq=False)
class OnePassage:
    """A fusion of which one passage a document remains."""

    fuse: Fuse
    documents: Documents

    def __call__(self, query: Query, found: Mapping[str, Candidates], keep: int) -> Candidates:
        every = sum(len(candidates) for candidates in found.values())
        fused = self.documents.once(self.fuse(query, found, every))
        return fused.take(np.arange(min(keep, len(fused))))
