"""
The truth behind the simulated shop: how much each user wants each item at each moment, how relevant
each item is to a query, and what any page would earn. Nobody knows this about a real shop.

A user wants few categories (one of them most, which one changes by the day and now and then for
good), a brand per department, a price level, and hidden factors that drift from week to week.
A page is read from the top: after each item the user goes on, less often after a click (the
dependent click model, Guo et al., 2009, https://doi.org/10.1145/1498759.1498818).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from funnel.errors import BadConfig
from funnel.types import Array, Floats
from funnel.world_grammar import NOUN, Draw, Grammar, Intents

DAY = 86_400_000
WEEK = 7 * DAY
FACTORS = (16, 10, 32)  # hidden kinds of brands, styles, and of nothing that a text shows
WIDTH = 8  # dimensions of the hidden factors
FOCI = 3  # categories a user wants
GOES_ON = 0.92, 0.7  # the user reads the next item after skipping, after clicking this one
AGAIN = 0.1  # a second copy of a product on a page is clicked this much as often
ITEM_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True)
class WorldConfig:
    """How large a world is and when its log ends."""

    items: int
    users: int
    events: int  # expected number, impressions included
    queries: int  # graded ones
    days: int = 60
    end: int = 1_767_225_600_000  # 2026-01-01T00:00Z, epoch ms; no event is as late as this

    def __post_init__(self) -> None:
        for name in ("items", "users", "events", "queries", "days"):
            if getattr(self, name) < 1:
                raise BadConfig(f"world.{name} is {getattr(self, name)}: it must be 1 or more")
        if self.items >= 2**31:
            raise BadConfig(f"world.items is {self.items}: rows are int32, take less than 2^31")
        if self.start < 0:
            raise BadConfig(
                f"world.end is {self.end}: epoch ms, {self.days} days or more after 1970"
            )

    @property
    def start(self) -> int:
        return self.end - self.days * DAY


SIZES = {
    "small": WorldConfig(items=1_000, users=300, events=30_000, queries=60),
    "demo": WorldConfig(items=20_000, users=5_000, events=500_000, queries=300),
    "busy": WorldConfig(items=20_000, users=20_000, events=3_000_000, queries=300),
    "large": WorldConfig(items=1_000_000, users=200_000, events=10_000_000, queries=1_000),
    "huge": WorldConfig(items=10_000_000, users=2_000_000, events=100_000_000, queries=2_000),
}


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """The catalogue behind the texts, about 50 bytes an item. Copies share all but price and fame
    with their base."""

    base: NDArray[np.int32]  # the row it is a copy of, itself where it is none
    leaf: NDArray[np.int16]
    brand: NDArray[np.int16]
    style: NDArray[np.int8]
    material: NDArray[np.int16]
    colour: NDArray[np.int8]
    use: NDArray[np.int16]
    hidden: NDArray[np.int8]
    accessory: NDArray[np.bool_]  # a cover for the good, not the good
    quality: Floats  # about N(0, 1)
    level: Floats  # of its price within the category, about N(0, 1)
    price: Floats
    created: NDArray[np.int64]  # epoch ms
    gone: NDArray[np.int64]  # epoch ms, when it went out of stock
    order: NDArray[np.int32]  # rows by category, the famous first
    bounds: NDArray[np.int64]  # (leaves + 1,) of `order`
    fame: NDArray[np.int32]  # all rows, the famous first


@dataclass(frozen=True, slots=True, eq=False)
class Tastes:
    """What n users want at one moment each."""

    user: NDArray[np.int64]
    focus: NDArray[np.int64]  # (n, FOCI) categories
    gain: Floats  # (n, FOCI) how much each is wanted
    factors: Floats  # (n, sum of FACTORS) liking of the hidden kinds
    brand: NDArray[np.int64]  # (n, departments) favourite brands
    level: Floats  # (n,) preferred price level

    def __getitem__(self, index: Array) -> Tastes:
        return Tastes(self.user[index], self.focus[index], self.gain[index],
                      self.factors[index], self.brand[index], self.level[index])  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Earnings:
    """What n pages earn in expectation."""

    clicks: NDArray[np.float64]  # (n,)
    purchases: NDArray[np.float64]  # (n,)
    revenue: NDArray[np.float64]  # (n,)


class World:
    """The truth about the world of (size, seed).

    Rows are the positions of ids in their sorted order, for items and users alike; times are epoch
    ms. In all methods the rows of items may have one more axis than the users: (n,) and (n, k).
    """

    def __init__(self, size: str | WorldConfig = "demo", seed: int = 0):
        if isinstance(size, str) and size not in SIZES:
            raise BadConfig(f"no world of size {size!r}; known sizes: {', '.join(SIZES)}")
        self.config = SIZES[size] if isinstance(size, str) else size
        self.seed = seed
        self.draw = Draw(seed)
        n = self.config.items
        leaves = int(np.clip(n // 40, 16, 96))
        brands = int(np.clip(round(n**0.5 / 7), 4, 400))
        self.grammar = Grammar(self.draw, leaves, brands)

    # ---------------------------------------------------------------- items

    @cached_property
    def items(self) -> Items:
        n = self.config.items
        parts: list[dict[str, Array]] = []
        for first in range(0, n, ITEM_BLOCK):
            rows = np.arange(first, min(first + ITEM_BLOCK, n))
            parts.append(self._factors(rows))
        columns = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        popular = columns.pop("popular")
        order = np.lexsort((-popular, columns["leaf"])).astype(np.int32)
        counts = np.bincount(columns["leaf"], minlength=self.grammar.leaves)
        return Items(
            **columns,
            order=order,
            bounds=np.cumsum([0, *counts]),
            fame=np.argsort(-popular, kind="stable").astype(np.int32),
        )

    @cached_property
    def _leaf_cdf(self) -> NDArray[np.float64]:
        share = np.exp(0.5 * self.draw.normal("leaf.size", np.arange(self.grammar.leaves)))
        return np.asarray(np.cumsum(share / share.sum()), np.float64)

    def _factors(self, rows: Array) -> dict[str, Array]:
        """The latent columns of some rows."""
        n, draw, grammar, config = self.config.items, self.draw, self.grammar, self.config
        copy = draw.uniform("item.copy", rows) < 0.06
        base = draw.integer("item.base", n, rows)
        base = np.where(copy & (draw.uniform("item.copy", base) >= 0.06), base, rows)
        leaf = np.searchsorted(self._leaf_cdf, draw.uniform("item.leaf", base), side="right")
        leaf = np.minimum(leaf, grammar.leaves - 1)
        department = grammar.department[leaf]
        brand = department * grammar.brands + (
            draw.uniform("item.brand", base) ** 1.5 * grammar.brands
        ).astype(np.int64)
        quality = draw.normal("item.quality", base)
        level = 0.35 * quality + 0.6 * draw.normal("brand.level", brand)
        level += 0.7 * draw.normal("item.level", base)
        usual = 3.4 + 1.0 * draw.normal("leaf.price", leaf)
        price = np.exp(usual + 0.4 * level + 0.02 * draw.normal("item.price", rows))
        start, days = config.start, config.days
        age = draw.uniform("item.age", rows)
        new = draw.uniform("item.new", rows) < 0.04
        created = np.where(
            new, config.end - age * min(14, days / 2) * DAY, start - age * 720 * DAY
        ).astype(np.int64)
        sold_out = (draw.uniform("item.gone", rows) < 0.03) & ~new
        left = start + (draw.uniform("item.left", rows) * days * DAY).astype(np.int64)
        return {
            "base": base.astype(np.int32),
            "leaf": leaf.astype(np.int16),
            "brand": brand.astype(np.int16),
            "style": draw.integer("item.style", 10, base).astype(np.int8),
            "material": (department * 6 + draw.integer("item.mat", 6, base)).astype(np.int16),
            "colour": draw.integer("item.colour", 10, base).astype(np.int8),
            "use": (department * 6 + draw.integer("item.use", 6, base)).astype(np.int16),
            "hidden": draw.integer("item.hidden", FACTORS[2], base).astype(np.int8),
            "accessory": draw.uniform("item.accessory", base) < 0.06,
            "quality": quality,
            "level": level.astype(np.float32),
            "price": np.round(np.maximum(price, 0.99), 2).astype(np.float32),
            "created": created,
            "gone": np.where(sold_out, left, np.iinfo(np.int64).max),
            "popular": 0.5 * quality + 0.87 * draw.normal("item.fame", rows),
        }

    def on_sale(self, rows: Array, at: Array) -> NDArray[np.bool_]:
        """Whether an item could be bought at a time; False for row -1."""
        return (rows >= 0) & (self.items.created[rows] <= at) & (at < self.items.gone[rows])

    # ---------------------------------------------------------------- users

    def tastes(self, user_rows: Array, at: Array) -> Tastes:
        """What the users want at those times."""
        draw, grammar = self.draw, self.grammar
        user = np.asarray(user_rows, np.int64)
        at = np.broadcast_to(np.asarray(at, np.int64), user.shape)
        weeks = self.config.days // 7 + 2
        phase = draw.uniform("user.phase", user)  # nobody changes at the same moment
        week = np.maximum((at - self.config.start) / WEEK + phase, 0.0)  # (n,)
        u, k, w = user[:, None, None], np.arange(FOCI)[None, :, None], np.arange(weeks)
        switched = draw.uniform("user.switch", u, k, w) < np.array([0.08, 0.1, 0.15])[:, None]
        switched &= w <= week[:, None, None]
        last = np.where(switched, w, 0).max(-1)  # (n, FOCI): the week of the newest switch
        focus = self._leaf(draw.uniform("user.focus", user[:, None], k[..., 0], last))
        # half of the second and third wishes stay in the department of the first
        near = draw.uniform("user.near", user[:, None], k[..., 0], last) < 0.5
        near[:, 0] = False
        same = grammar.department[focus[:, :1]]
        first = np.searchsorted(grammar.department[self._sorted_leaves], same)
        size = np.bincount(grammar.department)[same]
        pick = first + (draw.uniform("user.pick", user[:, None], k[..., 0], last) * size).astype(
            int
        )
        focus = np.where(near, self._sorted_leaves[pick], focus)
        mood = np.array([0.55, 0.85])  # of the half day: mostly the first wish
        day = (at // (DAY // 2))[:, None]
        mood = np.searchsorted(mood, draw.uniform("user.mood", user[:, None], day)[:, 0])
        gain = np.array([3.5, 3.0, 2.6], np.float32) + 1.0 * (mood[:, None] == np.arange(FOCI))
        walk = np.clip(week[:, None] - w, 0.0, 1.0)  # how far into each week's step
        d = np.arange(WIDTH)[:, None]
        steps = draw.normal("user.step", u, d, w)  # (n, WIDTH, weeks)
        taste = draw.normal("user.taste", user[:, None], d[:, 0])
        taste = taste + 0.35 * np.einsum("ndw,nw->nd", steps, walk)
        taste /= np.sqrt(1 + 0.35**2 * np.square(walk).sum(1, keepdims=True))
        departments = np.arange(len(grammar.departments))
        brand = departments * grammar.brands + (
            draw.uniform("user.brand", user[:, None], departments) ** 1.5 * grammar.brands
        ).astype(np.int64)
        return Tastes(
            user=user,
            focus=focus,
            gain=gain.astype(np.float32),
            factors=(taste @ self._kinds.T).astype(np.float32),
            brand=brand,
            level=0.9 * draw.normal("user.level", user),
        )

    def _leaf(self, u: Array) -> NDArray[np.int64]:
        return np.minimum((u**1.2 * self.grammar.leaves).astype(np.int64), self.grammar.leaves - 1)

    @cached_property
    def _sorted_leaves(self) -> NDArray[np.int64]:
        return np.argsort(self.grammar.department, kind="stable")

    @cached_property
    def _kinds(self) -> Floats:
        """(sum of FACTORS, WIDTH) hidden factors; a brand's kind, a style's, and one of neither."""
        factors = self.draw.normal("kind", np.arange(sum(FACTORS))[:, None], np.arange(WIDTH))
        weights = np.repeat([0.45, 0.45, 0.55], FACTORS)[:, None]
        return np.asarray(factors * weights / WIDTH**0.5, np.float32)

    @cached_property
    def _brand_kind(self) -> NDArray[np.int64]:
        brands = np.arange(self.grammar.brands * len(self.grammar.departments))
        return self.draw.integer("brand.kind", FACTORS[0], brands)

    # ---------------------------------------------------------------- wishes

    def personal(self, tastes: Tastes, rows: Array) -> Floats:
        """(n, k) how the items suit the users, apart from the category: about N(0, 1)."""
        items = self.items
        kinds = [
            self._brand_kind[items.brand[rows]],
            FACTORS[0] + items.style[rows].astype(np.int64),
            FACTORS[0] + FACTORS[1] + items.hidden[rows].astype(np.int64),
        ]
        liking = sum(np.take_along_axis(tastes.factors, kind, 1) for kind in kinds)
        department = self.grammar.department[items.leaf[rows]]
        loyal = np.take_along_axis(tastes.brand, department, 1) == items.brand[rows]
        gap = items.level[rows] - tastes.level[:, None]
        return np.asarray(liking + 1.3 * loyal - 0.35 * np.minimum(gap * gap, 6.0), np.float32)

    def wish(self, tastes: Tastes, rows: Array, intents: Intents | None = None) -> Floats:
        """(n, k) log-odds of a click on an item that is looked at."""
        items = self.items
        personal = self.personal(tastes, rows)
        quality = items.quality[rows]
        if intents is not None:
            return np.asarray(
                -3.6 + 4.2 * self.topical(intents, rows) + 0.8 * personal + 0.8 * quality,
                np.float32,
            )
        leaf = items.leaf[rows]
        match = leaf[..., None] == tastes.focus[:, None, :]
        near = (
            self.grammar.department[leaf][..., None]
            == self.grammar.department[tastes.focus][:, None, :]
        ).any(-1)
        wanted = np.maximum((match * tastes.gain[:, None, :]).max(-1), 0.8 * near)
        wanted = wanted - 1.0 * items.accessory[rows]
        return np.asarray(-4.6 + wanted + 1.1 * personal + 0.6 * quality, np.float32)

    def utility(
        self,
        user_rows: Array,
        item_rows: Array,
        at: Array | int,
        queries: Sequence[str] | None = None,
    ) -> NDArray[np.float64]:
        """P(click | looked at) of items (n,) or (n, k) for users (n,) at times (n,); for those who
        asked one of `queries` (n,), or browsed where that is None. 0 for what is not on sale."""
        users = np.asarray(user_rows, np.int64)
        rows = np.asarray(item_rows, np.int64)
        times = np.broadcast_to(np.asarray(at, np.int64), users.shape)
        intents = None if queries is None else self.intents(queries)
        pages = rows if rows.ndim == 2 else rows[:, None]
        chance = _sigmoid(self.wish(self.tastes(users, times), pages, intents))
        return (chance * self.on_sale(pages, times[:, None])).reshape(rows.shape)

    # ---------------------------------------------------------------- search

    def intents(self, queries: Sequence[str]) -> Intents:
        """What query texts of this world ask for."""
        meant = [self.grammar.understand(text) for text in queries]
        leaf, kind, value = np.array(meant, np.int64).reshape(-1, 3).T
        return Intents(leaf, kind, value)

    def topical(self, intents: Intents, rows: Array) -> Floats:
        """(n, k) how well items (n, k) match what n queries ask for, in [0, 1]."""
        items, grammar = self.items, self.grammar
        leaf = items.leaf[rows].astype(np.int64)
        kind, value = intents.kind[:, None], intents.value[:, None]
        has: tuple[Array, ...] = (items.brand, items.style, items.material, items.colour, items.use)
        fits: NDArray[np.bool_] = kind == NOUN
        for k, column in enumerate(has, start=1):
            fits = fits | ((kind == k) & (column[rows] == value))
        partly = np.array([1.0, 0.35, 0.5, 0.45, 0.55, 0.5])[kind]
        exact = leaf == intents.leaf[:, None]
        sibling = grammar.group[leaf] == grammar.group[intents.leaf][:, None]
        score = np.where(exact, 1.0, np.where(sibling, 0.3, 0.0)) * np.where(fits, 1.0, partly)
        return np.asarray(np.where(items.accessory[rows], 0.25 * score, score), np.float32)

    def relevance(self, query: str | Intents, item_rows: Array) -> NDArray[np.int8]:
        """(k,) grades 0–3 of items for one query: topical match × quality. Nobody's taste in it."""
        intents = self.intents([query]) if isinstance(query, str) else query
        rows = np.asarray(item_rows, np.int64)
        fine = _sigmoid(1.2 * self.items.quality[rows])
        score = self.topical(intents, rows[None])[0] * (0.55 + 0.45 * fine)
        return np.asarray(np.digitize(score, [0.25, 0.67, 0.86]), np.int8)

    # ---------------------------------------------------------------- pages

    def chances(
        self, tastes: Tastes, pages: Array, at: Array, intents: Intents | None = None
    ) -> NDArray[np.float64]:
        """(n, k) P(click | looked at) on pages (n, k): as `utility`, but a further copy of a
        product higher up on the page hardly interests. -1 ends a page."""
        chance = _sigmoid(self.wish(tastes, pages, intents))
        product = np.where(pages >= 0, self.items.base[pages], -1)
        earlier = np.tril(np.ones((pages.shape[1],) * 2, np.bool_), -1)
        again = ((product[:, :, None] == product[:, None, :]) & earlier).any(-1)
        chance = np.where(again, AGAIN * chance, chance)
        return np.asarray(chance * self.on_sale(pages, at[:, None]), np.float64)

    def after_click(
        self, tastes: Tastes, rows: Array
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """P(cart | click) and P(purchase | cart), both (n, k)."""
        personal, quality = self.personal(tastes, rows), self.items.quality[rows]
        cart = _sigmoid(-1.3 + 0.5 * personal + 0.5 * quality)
        return cart, _sigmoid(0.1 + 0.4 * personal - 0.2 * self.items.level[rows])

    def value_of(
        self,
        user_rows: Array,
        pages: Array,
        at: Array | int,
        queries: Sequence[str] | None = None,
    ) -> Earnings:
        """What pages (n, k) of item rows, -1 where they end, would earn in expectation from users
        (n,) at times (n,), exactly: whatever policy made the pages."""
        users, pages = np.asarray(user_rows, np.int64), np.asarray(pages, np.int64)
        times = np.broadcast_to(np.asarray(at, np.int64), users.shape)
        tastes = self.tastes(users, times)
        intents = None if queries is None else self.intents(queries)
        chance = self.chances(tastes, pages, times, intents)
        clicks = examined(chance) * chance
        cart, buy = self.after_click(tastes, pages)
        bought = clicks * cart * buy
        revenue = bought * self.items.price[pages]
        return Earnings(clicks.sum(1), bought.sum(1), revenue.sum(1))


def examined(chance: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, k) P(an item is looked at), from P(click | looked at) of the items of n pages."""
    skip, click = GOES_ON
    on = skip + (click - skip) * chance
    looked = np.ones_like(chance)
    np.cumprod(on[:, :-1], axis=1, out=looked[:, 1:])
    return looked


def _sigmoid(x: Array) -> NDArray[np.float64]:
    return np.asarray(1.0 / (1.0 + np.exp(-x)), np.float64)
