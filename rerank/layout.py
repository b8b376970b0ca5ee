"""
The page, place by place: pins where they are pinned, ads where they win a place, then the best item
that may stand there. Whatever else shapes a page only orders the list that comes in here, so a hard
rule is kept here or nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from funnel.types import Array, Candidates, Query
from rerank.ads import Ads, Auction
from rerank.explore import Explore, drawn, draws
from rerank.quotas import Quota, Taken
from rerank.spread import relevance

Drawn = tuple[list[int], Array, int | None]
Draw = Callable[[int, Iterator[int]], Drawn]

ONE = np.ones(1)
NODES = 600  # pages looked at while a short one is made longer


@dataclass(frozen=True)
class Placed:
    """Indices into the list, first place first, and what is known of each place."""

    index: list[int]
    prices: dict[int, float]  # of the places of ads, from 0
    chances: Array  # (k,) of the item at each place given those above; NaN: not known


@dataclass(frozen=True)
class Layout:
    """The list comes in the order of preference, each row once."""

    quotas: Mapping[str, Quota] = field(default_factory=dict)
    ads: Ads | None = None
    explore: Explore | None = None

    def place(self, query: Query, candidates: Candidates, fixed: Mapping[int, int]) -> Placed:
        """`fixed` has the items of places (from 1, on this page). Where no page that keeps the
        quotas reaches such a place, its item comes as soon as the page would end without it."""
        free = [i for i in range(len(candidates)) if i not in set(fixed.values())]
        most = min(query.limit, len(candidates))
        while True:
            taken = Taken(self.quotas, candidates.rows)
            for place, item in fixed.items():
                taken.put(item, place)
            made = self._laid(query, candidates, taken, fixed, free)
            rest = [item for place, item in sorted(fixed.items()) if place > len(made.index)]
            if self.quotas and len(made.index) < most:
                made = _longer(made, taken, fixed, free, most)
            if not rest or len(made.index) >= max(fixed):
                return made
            up = {place: item for place, item in fixed.items() if item not in rest}
            fixed = up | dict(enumerate(rest, len(made.index) + 1))

    def _laid(
        self,
        query: Query,
        candidates: Candidates,
        taken: Taken,
        fixed: Mapping[int, int],
        free: list[int],
    ) -> Placed:
        auction = None
        if self.ads is not None and not query.sort:
            auction = self.ads.auction(query, candidates)
        offered = auction.items if auction is not None else []
        draw = self._draw(query, candidates)
        left, put = list(free), list[tuple[int, int]]()
        prices, chances = dict[int, float](), list[float]()
        index: list[int] = []
        place = 1
        while place <= query.limit:
            if place in fixed:
                index.append(fixed[place])
                chances.append(1.0)
                place += 1
                continue
            pool, of, chosen = draw(place, (i for i in left if taken.fits(i, place)))
            chance = float(of[pool.index(chosen)]) if chosen is not None else 1.0
            if auction is not None and auction.open(place, [at + 1 for at in prices]):
                able = [i for i in offered if i in left and taken.fits(i, place)]
                if (offer := auction.offer(able, chosen)) is not None:
                    chosen, prices[place - 1] = offer.item, offer.price
                    chance = _chance(auction, able, offer.item, pool, of)
            if chosen is None:
                break
            index.append(chosen)
            chances.append(chance)
            taken.put(chosen, place)
            put.append((chosen, place))
            left.remove(chosen)
            place += 1
        for item, at in put:
            taken.remove(item, at)
        return Placed(index, prices, np.array(chances))

    def _draw(self, query: Query, candidates: Candidates) -> Draw:
        """The best of what fits a place, or one of the best by chance: what it was drawn from, with
        which chances, and itself."""
        explore = self.explore

        def best(place: int, fits: Iterator[int]) -> Drawn:
            chosen = next(fits, None)
            return [] if chosen is None else [chosen], ONE, chosen

        if explore is None or query.sort or not len(candidates):
            return best
        scores = np.zeros(len(candidates))
        sound = np.isfinite(candidates.scores)
        scores[sound] = relevance(candidates.scores[sound])
        chances, random = explore.chances(query, candidates.rows, scores), draws(query)

        def draw(place: int, fits: Iterator[int]) -> Drawn:
            if not explore.explores(place):
                return best(place, fits)
            pool = list(islice(fits, explore.pool))
            if not pool:
                return [], ONE, None
            of = chances(np.array(pool))
            return pool, of, pool[drawn(of, random.random())]

        return draw


def _chance(auction: Auction, able: list[int], item: int, pool: list[int], of: Array) -> float:
    """Of the item being at the place: what was drawn there decides whether an ad wins, and which.
    It may also have been drawn itself, and no ad have won."""
    if not pool:
        return 1.0
    won = [auction.offer(able, other) for other in pool]
    stands = [other if o is None else o.item for o, other in zip(won, pool, strict=True)]
    return float(of[[i == item for i in stands]].sum())


def _longer(
    made: Placed, taken: Taken, fixed: Mapping[int, int], free: list[int], most: int
) -> Placed:
    """A page that the quotas cut short, or a longer one where there is one.

    The best that fits at each place may leave only what fits nowhere. Looks at other choices, the
    kind with most items left first, for a bounded time; items of one kind go by preference. Such a
    page has no ads, and no chances that are known.
    """
    bound = taken.bound(free, most)
    if len(made.index) >= bound:
        return made
    kinds: dict[tuple[int, ...], list[int]] = {}
    for item in free:
        kinds.setdefault(taken.kind(item), []).append(item)
    used = dict.fromkeys(kinds, 0)
    best: list[int] = []
    page: list[int] = []
    nodes = 0

    def deeper(place: int) -> bool:
        """Whether the search is over."""
        nonlocal best, nodes
        nodes += 1
        while place in fixed:
            page.append(fixed[place])
            place += 1
        depth = len(page)
        if depth > len(best) and place > max(fixed, default=0):
            best = list(page)
        if len(best) >= bound or nodes > NODES:
            return True
        order = sorted(kinds, key=lambda kind: used[kind] - len(kinds[kind]))
        for kind in order:
            if used[kind] == len(kinds[kind]):
                continue
            item = kinds[kind][used[kind]]
            if not taken.fits(item, place):
                continue
            used[kind] += 1
            taken.put(item, place)
            page.append(item)
            over = deeper(place + 1)
            del page[depth:]
            taken.remove(item, place)
            used[kind] -= 1
            if over:
                return True
        return False

    deeper(1)
    if len(best) <= len(made.index):
        return made
    return Placed(best, {}, np.full(len(best), np.nan))
