"""
The items that most people wanted lately: the channel that always has an answer.

    score(j) = p_j · ((1 − o) + o · Σ_c w_c · P / P_c)       c: the categories that j is in

p are decayed counts of positive actions as of the generation's cut, weighted like labels; P is
their sum, P_c that over a category; w is the user's share in it, and o `popular.own`. It is what
somebody wants next who chooses a category as they did lately, and in it an item as everybody does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from funnel.config import Config
from funnel.generation import Generation
from funnel.types import All, Array, Candidates, Filter, Predicate, Query, best, taken
from recall.categories import Categories
from recall.channel import ranked
from recall.filters import Filters
from recall.masks import Mask
from recall.neighbours import action_weights, interest

HALF_LIFE = 20.0  # a wanted item counts half as much for its categories as one so many later
MOST = 10  # of the user's categories that are looked into, the first ones
NONE = np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class Popular:
    """The best of all, and of the categories that the query implies: those it is filtered by, that
    of the item it asks about, else those of the user's history.

    A generation without events has no popular items: then all are alike, and the newest rows of
    `created_at` (or the first rows) stand in, so that a page can be filled.
    """

    filters: Filters
    keep: Mapping[str, int]  # scene -> items, where it has to stand in for all of recall
    rows: Array  # (k,) int32, best first
    scores: Array  # (k,) float32
    actions: Array  # (actions,) weights
    own: float = 0.0
    lists: Categories | None = None

    @staticmethod
    def open(generation: Generation, config: Config) -> Popular:
        filters = Filters.open(generation, config)
        keep = {name: scene.recall.keep for name, scene in config.scenes.items()}
        actions, own = action_weights(generation, config), config.popular.own
        if generation.has("popular/rows.npy"):
            rows, scores = generation.array("popular/rows"), generation.array("popular/scores")
            if len(rows):
                rows, scores = np.asarray(rows), np.asarray(scores)
                lists = Categories.open(generation)
                return Popular(filters, keep, rows, scores, actions, own, lists)
        n, items = min(len(generation.items), 10_000), generation.items
        if items.has("number", "created_at"):
            made = np.nan_to_num(items.numbers("created_at"), nan=-np.inf)
            rows = np.argsort(-made, kind="stable")[:n].astype(np.int32)
        else:
            rows = np.arange(n, dtype=np.int32)
        return Popular(filters, keep, rows, np.linspace(1, 0, n).astype(np.float32), actions)

    def find(self, query: Query, allowed: Mask | None, limit: int) -> Candidates:
        rows, scores = self.scored(query, allowed, limit)
        found = ranked(rows, scores, allowed, limit)
        if len(found) == limit or allowed is None:
            return found
        # What is popular was filtered away: fill up with other allowed items, as if never wanted.
        rest = np.setdiff1d(np.flatnonzero(allowed), found.rows)[: limit - len(found)]
        rows = np.concatenate([found.rows, rest]).astype(np.int32)
        scores = np.concatenate([found.scores, np.zeros(len(rest), np.float32)])
        return Candidates(rows, scores)

    def scored(self, query: Query, allowed: Mask | None, limit: int) -> tuple[Array, Array]:
        """Rows, each once, that have the best `limit` of the allowed among them, and scores."""
        if self.lists is None:
            return self.rows, self.scores
        lists, shares = self.implied(query, self.lists)
        if not len(lists):
            return self.rows, self.scores
        place, rows, counts = self.lists.entries(lists)
        lift = self.own * shares * self.lists.everything / self.lists.totals[lists]
        listed, first, which = np.unique(rows, return_index=True, return_inverse=True)
        others = 1 - self.own if shares.any() else 1.0
        scores = counts[first] * (others + np.bincount(which, lift[place], len(listed)))
        # Of those in no list the first ones are enough.
        kept = np.arange(len(self.rows))
        if allowed is not None:
            kept = np.flatnonzero(taken(allowed, self.rows, False))
        kept = kept[: limit + len(listed)]
        kept = kept[~np.isin(self.rows[kept], listed)]
        rows = np.concatenate([listed, self.rows[kept]])
        return rows, np.concatenate([scores, others * self.scores[kept]])

    def implied(self, query: Query, known: Categories) -> tuple[Array, Array]:
        """The lists to look into, rising, and the user's share in each."""
        items = self.filters.items
        with items.still():
            named = [known.below(items, value) for value in values(query.filters, known.column)]
            shares = np.zeros(len(known.totals))
            if self.own and query.item >= 0:
                shares = known.shares(items, np.array([query.item]), np.ones(1))
            elif self.own:
                shares = known.shares(items, *interest(query.history, self.actions, HALF_LIFE))
        shares[known.totals == 0] = 0
        owned = np.flatnonzero(shares)
        owned = owned[best(shares[owned], owned, MOST)]
        lists = np.unique(np.concatenate([*named, owned])) if named or len(owned) else NONE
        lists = lists[known.totals[lists] > 0].astype(np.int64)
        return lists, shares[lists]

    def retrieve(self, query: Query) -> Candidates:
        """On its own, when recall as a whole did not answer."""
        return self.find(query, self.filters.allowed(query), self.keep[query.scene])


def values(filters: Sequence[Predicate], column: str) -> Iterator[str]:
    """The values of the column that the filters keep, where they name them."""
    for part in filters:
        if isinstance(part, All):
            yield from values(part.parts, column)
        elif isinstance(part, Filter) and part.attribute == column and not part.exclude:
            yield from part.any_of
