"""
Rerank: the only stage that looks at the list as a whole. Rules and fatigue shape what items are
worth, repeats go, what is alike is spread, and the page is laid out place by place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from funnel.config import Config
from funnel.config import Rerank as Settings
from funnel.errors import BadConfig, BadQuery
from funnel.generation import Generation
from funnel.rulebook import RuleBook
from funnel.stage import Hydrator, Selector, Stage
from funnel.types import (
    AD,
    FRESH,
    PINNED,
    PRICE,
    PROPENSITY,
    Array,
    Candidates,
    Query,
    Step,
    best,
    taken,
)
from rerank.ads import Ads
from rerank.calibrated import Calibrated
from rerank.dedup import REASONS, Dedup, Survivors
from rerank.dispersion import Dispersion
from rerank.dpp import DPP
from rerank.explore import Counted, Epsilon, Explore, PlackettLuce, Thompson
from rerank.fatigue import Fatigue
from rerank.fresh import Fresh
from rerank.layout import Layout
from rerank.mmr import MMR
from rerank.quotas import Codes, Quota
from rerank.rules import Ruled, Rules
from rerank.spread import Vectors
from rerank.ssd import SSD

Names = Callable[[Array], Sequence[str]]


@dataclass(frozen=True)
class Rerank:
    """One scene's. `spread` are the selectors that only order. Scores stay as they came; the order
    is the page. `names` gives rows the ids that notes name them by."""

    dedup: Dedup = field(default_factory=Dedup)
    spread: tuple[Selector, ...] = ()
    layout: Layout = field(default_factory=Layout)
    rules: Rules | None = None
    fatigue: Fatigue | None = None
    fresh: Fresh | None = None
    names: Names = field(default=lambda rows: [str(row) for row in rows])

    def run(self, query: Query, candidates: Candidates) -> Candidates:
        """At most `query.limit` of the candidates, best first, and the columns `ad`, `ad.price`,
        `propensity`, `rerank.pinned` and `rerank.new` where the scene can have such.

        An order that the caller asks for stays: no pins, ads or chance, and no values are changed.
        """
        rows = candidates.rows
        if len(rows) and rows.min() < 0:
            raise BadQuery(f"candidates have the row {rows.min()}; rows begin at 0")
        # One of each row first, so that pins and rules are on one candidate each.
        order = best(candidates.scores, rows, len(rows))
        _, once = np.unique(rows[order], return_index=True)
        found = candidates.take(order[np.sort(once)])
        ruled = self.rules.on(query, found.rows) if self.rules is not None else None
        out = np.zeros(len(found), bool) if ruled is None else ruled.out.copy()
        if self.fatigue is not None:
            out |= self.fatigue.tired(query, found.rows)
        above = np.asarray(query.live.get("page.rows", ()), np.int32)
        fixed: dict[int, int] = {}
        if ruled is not None and not query.sort:
            fixed = ruled.fixed(int(query.live.get("page.above", len(above))), query.limit)
        pinned = np.array([*fixed.values()], np.intp)
        out[pinned] = False
        valued = replace(found, scores=self._values(query, found, ruled))
        listed = np.flatnonzero(~out & ~np.isin(np.arange(len(found)), pinned))
        aware = replace(
            query, live={**query.live, "page.rows": np.append(above, found.rows[pinned])}
        )
        survivors = self.dedup.survivors(aware, valued.take(listed))
        ordered = self._spread(query, valued, listed[survivors.kept])
        if ruled is not None and ruled.last.any() and not query.sort:
            ordered = ordered[np.argsort(ruled.last[ordered], kind="stable")]
        ordered = np.concatenate([pinned, ordered, listed[survivors.near]]).astype(np.intp)
        places = {place: k for k, place in enumerate(fixed)}
        placed = self.layout.place(query, valued.take(ordered), places)
        index = ordered[placed.index]
        page = found.take(index).with_columns(
            self._columns(
                query, placed.prices, placed.chances, np.isin(index, pinned), index, found
            )
        )
        if query.trace:
            page = page.step(self._told(found, listed, survivors, out, ruled))
        return page

    def _values(self, query: Query, found: Candidates, ruled: Ruled | None) -> Array:
        if query.sort:
            return found.scores
        factor = np.ones(len(found))
        if ruled is not None:
            factor *= ruled.factor
        if self.fatigue is not None:
            factor *= self.fatigue.factor(query, found.rows)
        if self.fresh is not None:
            factor *= self.fresh.factor(query, found.rows)
        scores = found.scores.astype(np.float64)
        # A factor below one lowers what is below zero too.
        return np.where(scores >= 0, scores * factor, scores / factor).astype(np.float32)

    def _spread(self, query: Query, valued: Candidates, kept: Array) -> Array:
        for selector in self.spread:
            kept = kept[selector.select(query, valued.take(kept))]
        return kept

    def _columns(
        self,
        query: Query,
        prices: Mapping[int, float],
        chances: Array,
        pinned: NDArray[np.bool_],
        index: Array,
        found: Candidates,
    ) -> dict[str, Array]:
        columns: dict[str, Array] = {}
        n = len(index)
        if self.layout.ads is not None:
            price = np.full(n, np.nan, np.float32)
            price[list(prices)] = list(prices.values())
            columns[PRICE] = price
            columns[AD] = np.isfinite(price).astype(np.float32)
        if self.layout.explore is not None:
            columns[PROPENSITY] = chances.astype(np.float32)
        if self.rules is not None:
            columns[PINNED] = pinned.astype(np.float32)
        if self.fresh is not None:
            columns[FRESH] = self.fresh.fresh(query, found.rows[index]).astype(np.float32)
        return columns

    def _told(
        self,
        found: Candidates,
        listed: Array,
        survivors: Survivors,
        out: NDArray[np.bool_],
        ruled: Ruled | None,
    ) -> Step:
        """What became of single items, for a trace."""
        ids = self.names(found.rows)
        notes: list[str] = []
        if ruled is not None:
            notes += [f"{ids[i]}: rule {', '.join(names)}" for i, names in ruled.names.items()]
        gone = np.flatnonzero(out)
        notes += [f"{ids[i]}: left out" for i in gone.tolist()]
        others = self.names(survivors.by)
        for i, other, why in zip(listed[survivors.gone], others, survivors.why, strict=True):
            notes.append(f"{ids[i]}: {REASONS[why]} as {other}")
        kept = len(survivors.kept) + len(survivors.near)
        return Step("rerank.list", len(found), kept, 0.0, notes=tuple(notes))


def build(
    generation: Generation,
    config: Config,
    scene: str,
    books: Mapping[str, RuleBook] | None = None,
    counters: Hydrator | None = None,
) -> Stage:
    """What the scene asks for and the generation has the data for. Items that came after the
    generation are like no others, but for their declared product. Raises `BadConfig` for settings
    that need what the generation lacks."""
    settings, spread = config.scene(scene).rerank, list[Selector]()
    vectors: Vectors | None = None
    if generation.has("vector/text.npy"):
        vectors = partial(taken, generation.array("vector/text"))
    if settings.diversity and vectors is not None:
        spread.append(_spreading(settings, vectors))
    positive = _positive(generation)
    for name, weight in settings.calibrated.items():
        spread.append(Calibrated(_codes(generation, "calibrated", name), positive, weight))
    quotas = {
        name: Quota(_codes(generation, "quotas", name), most, among)
        for name, (most, among) in settings.quotas.items()
    }
    layout = Layout(quotas, _ads(generation, settings), _explore(settings, counters))
    book = (books or {}).get(settings.rules)
    if settings.rules and book is None:
        book = RuleBook(settings.rules)
    known = settings.fatigue
    return Rerank(
        _dedup(generation, settings, vectors),
        tuple(spread),
        layout,
        Rules.open(generation, book) if book is not None else None,
        Fatigue(known, positive) if known.on else None,
        _fresh(generation, settings),
        generation.items.item_ids,
    )


def _dedup(generation: Generation, settings: Settings, vectors: Vectors | None) -> Dedup:
    key, items = generation.config.data.product_key, generation.items
    products: Callable[[Array], Array] | None = None
    signatures: Callable[[Array], Array] | None = None
    if not settings.near_duplicates:
        return Dedup()
    if key and items.has("codes", key):

        def products(rows: Array) -> Array:
            return taken(items.codes(key), rows, -1)

    if settings.near_text and generation.has("dedup/signatures.npy"):
        signatures = partial(taken, generation.array("dedup/signatures"))
    near = vectors if settings.near_vector else None
    return Dedup(products, signatures, near, settings.near_text, settings.near_vector)


def _spreading(settings: Settings, vectors: Vectors) -> Selector:
    if settings.method == "mmr":
        return MMR(vectors, settings.diversity)
    if settings.method == "sum":
        return Dispersion(vectors, settings.diversity)
    made = (DPP if settings.method == "dpp" else SSD)(vectors, settings.diversity, settings.window)
    made.select(Query(limit=1), Candidates(np.zeros(2, np.int32), np.ones(2, np.float32)))
    return made  # its kernel compiled, or loaded


def _ads(generation: Generation, settings: Settings) -> Ads | None:
    items = generation.items
    if settings.ads.method == "off":
        return None
    if not items.has("codes", "sponsor_id") or not items.has("number", "bid"):
        raise BadConfig(
            f"rerank.ads.method = '{settings.ads.method}' needs the item columns sponsor_id and "
            "bid, which this generation lacks: add them to items/ and build, or set it to 'off'"
        )
    return Ads(
        lambda rows: taken(items.codes("sponsor_id"), rows, -1),
        lambda rows: taken(items.numbers("bid"), rows, np.nan),
        settings.ads,
    )


def _explore(settings: Settings, counters: Hydrator | None) -> Explore | None:
    known = settings.explore
    by: Epsilon | PlackettLuce | Thompson
    match known.method:
        case "off":
            return None
        case "epsilon":
            by = Epsilon(known.epsilon)
        case "plackett_luce":
            by = PlackettLuce(known.temperature)
        case "thompson":
            if counters is None:
                raise BadConfig("rerank.explore.method = 'thompson' needs the items' counters")
            by = Thompson(_counted(counters))
    return Explore(by, known.pool, frozenset(known.slots), known.least)


def _counted(counters: Hydrator) -> Counted:
    def counted(query: Query, rows: Array) -> tuple[Array, Array]:
        """Decayed with the longest half-life there is."""
        found = counters.hydrate(query, rows)

        def longest(action: str) -> Array:
            named = [name for name in found if name.startswith(f"live.{action}.")]
            if not named:
                return np.zeros(len(rows))
            return found[max(named, key=lambda name: float(name.split(".", 2)[2].rstrip("d")))]

        return longest("click"), longest("impression")

    return counted


def _fresh(generation: Generation, settings: Settings) -> Fresh | None:
    items, known = generation.items, settings.fresh
    if not known.share:
        return None
    if not items.has("number", "created_at"):
        raise BadConfig(
            f"rerank.fresh.share = {known.share} needs the item column created_at, which this "
            "generation lacks: add it to items/ and build, or set it to 0"
        )
    return Fresh(lambda rows: taken(items.numbers("created_at"), rows, np.nan), known)


def _codes(generation: Generation, setting: str, name: str) -> Codes:
    """Raises `BadConfig` for an attribute that the catalogue has no values of."""
    items = generation.items
    if not items.has("codes", name) or items.has("offsets", name):
        known = ", ".join(generation.config.data.categorical)
        raise BadConfig(f"rerank.{setting}: '{name}' is no attribute of one value; known: {known}")
    return lambda rows: taken(items.codes(name), rows, -1)


def _positive(generation: Generation) -> Callable[[Array], Array]:
    """Which actions say that the user wanted an item, by their codes; an unknown one does not."""
    positive = generation.config.data.positive
    wanted = np.array([*(name in positive for name in generation.manifest.actions), False])
    return wanted.__getitem__


__all__ = ["Rerank", "build"]
