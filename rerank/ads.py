"""
Sponsored items compete for places of the page.

At a place an ad is worth `bid · p(click)` to the site, beside what a click is worth anyway:

    worth of an ad        (bid + worth) · p(click)
    worth of another      worth · p(click)

With `fixed` slots the ad of highest `bid · p(click)` has the slot. With `dynamic` ones it has a
place when it is worth more than what would stand there: an ad displaces a strong item only if it
pays for that (the ordering that Yan et al. 2020, "Ads allocation in feed via constrained
optimization", derive). A click costs the least bid that would have won the place (generalised
second price: Edelman, Ostrovsky, Schwarz 2007), never more than the bid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from funnel.config import Ads as Settings
from funnel.types import Array, Candidates, Query
from rerank.explore import share
from rerank.quotas import Codes
from rerank.spread import relevance


@dataclass(frozen=True)
class Ads:
    """`sponsors` gives rows (n,) their sponsor's code, -1 for none; `bids` theirs, NaN for none."""

    sponsors: Codes
    bids: Callable[[Array], Array]
    settings: Settings

    def auction(self, query: Query, candidates: Candidates) -> Auction:
        clicks = clicked(candidates, self.settings.click)
        bids = np.asarray(self.bids(candidates.rows), np.float64)
        codes = np.asarray(self.sponsors(candidates.rows))
        least = max(self.settings.reserve, np.finfo(float).tiny)
        there = (codes >= 0) & (bids >= least) & np.isfinite(bids) & (clicks > 0)
        there &= self._paced(query, codes)
        return Auction(self.settings, clicks, np.where(there, bids, 0.0), query.limit)

    def _paced(self, query: Query, codes: Array) -> NDArray[np.bool_]:
        """Whether the sponsor takes part in this request: its money must last."""
        named, rates = query.live.get("sponsor.codes"), query.live.get("sponsor.rates")
        if named is None or rates is None:
            return np.ones(len(codes), bool)
        out = [
            code
            for code, rate in zip(named.tolist(), rates.tolist(), strict=True)
            if rate < 1 and share(query, f"sponsor {code}") >= rate
        ]
        found: NDArray[np.bool_] = ~np.isin(codes, out)
        return found


@dataclass(frozen=True)
class Offer:
    item: int
    price: float  # of a click


@dataclass(frozen=True)
class Auction:
    """The ads of one page: `bids` (n,) are 0 for what is none."""

    settings: Settings
    clicks: NDArray[np.float64]
    bids: NDArray[np.float64]
    limit: int

    @property
    def items(self) -> list[int]:
        """Those that may be ads, the highest bid · p(click) first."""
        some = np.flatnonzero(self.bids > 0)
        value = (self.bids * self.clicks)[some]
        found: list[int] = some[np.lexsort((some, -value))].tolist()
        return found

    def open(self, place: int, shown: list[int]) -> bool:
        """Whether the place may be an ad's, where `shown` are the places of ads above."""
        known = self.settings
        if place < known.first or (shown and place - shown[-1] <= known.gap):
            return False
        if len(shown) + 1 > known.load * self.limit + 1e-9:
            return False
        return known.method == "dynamic" or place in known.slots

    def offer(self, items: list[int], other: int | None) -> Offer | None:
        """Which of `items` (that fit the place) has it before `other` (None: nothing would stand
        there), and for what price; None if none does."""
        rest = self.clicks[other] if other is not None else 0.0
        able = [i for i in items if self.clicks[i] >= self.settings.floor * rest]
        if not able:
            return None
        some = np.array(able)
        clicks = self.clicks[some]
        if self.settings.method == "fixed":
            value, least = self.bids[some] * clicks, 0.0
            own = np.zeros(len(some))
        else:
            own = self.settings.worth * clicks
            value, least = self.bids[some] * clicks + own, self.settings.worth * rest
        first = int(np.argmax(value))
        if value[first] <= least or some[first] == other:
            return None
        second = max(float(np.delete(value, first).max(initial=least)), least)
        price = (second - own[first]) / clicks[first]
        bid = float(self.bids[some[first]])
        return Offer(int(some[first]), float(np.clip(price, self.settings.reserve, bid)))


def clicked(candidates: Candidates, name: str) -> NDArray[np.float64]:
    """(n,) p(click), 0 where it is not known; where no model said so, the scores' relevance."""
    if name in candidates.columns:
        return np.nan_to_num(np.asarray(candidates.columns[name], np.float64), posinf=0.0)
    sound = np.isfinite(candidates.scores)
    found = np.zeros(len(candidates))
    found[sound] = relevance(candidates.scores[sound])
    return found
