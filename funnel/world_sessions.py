"""
What happens in a simulated shop: sessions of requests, the pages its old system showed, what users
did with them, as a table in order of time.

The old system is a mixture, so that its log can teach and judge others. Home: half of the places go
to what a noisy estimate of the user's taste suggests, a quarter to famous items, a quarter to
chance, in random order. Search: mostly what matches, in an order that is right more often than not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from funnel.types import Array
from funnel.world_grammar import BRAND, COLOUR, MATERIAL, NOUN, STYLE, USE, Intents, ids, number
from funnel.world_truth import DAY, GOES_ON, Tastes, World, examined

PAGE = 10  # places on a page of the old system
LOOKED_AT = 4  # items it compares for a place
FAMOUS = 3  # of them drawn by fame, the others evenly
HEAD = 3  # how flat fame is at its top: the famous of a category are this many
REQUESTS = 4  # most requests of a session
EVENTS_A_SESSION = 26.0  # on average, measured; tests hold the sizes to it
IMPRESSION, CLICK, CART, PURCHASE = range(4)
ACTIONS = ("impression", "click", "cart", "purchase")
SOURCES = ("taste", "popular", "explore", "search")
TYPOS = 0.12  # share of live queries with a misspelling

EVENTS = pa.schema(
    [
        ("event_id", pa.string()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("action", pa.string()),
        ("timestamp", pa.int64()),
        ("session_id", pa.string()),
        ("request_id", pa.string()),
        ("scene", pa.string()),
        ("query", pa.string()),
        ("position", pa.int32()),
        ("value", pa.float64()),
        ("propensity", pa.float64()),
        ("source", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """n requests of the log, and what was shown and done, before it becomes rows of events."""

    number: NDArray[np.int64]  # (n,) session * REQUESTS + place in the session
    user: NDArray[np.int64]  # (n,)
    at: NDArray[np.int64]  # (n,) epoch ms
    search: NDArray[np.bool_]  # (n,)
    intents: Intents  # of the searches; whatever elsewhere
    query: pa.Array  # (n,) text, null on home
    pages: NDArray[np.int64]  # (n, PAGE) rows, -1 where a page ends
    source: NDArray[np.int64]  # (n, PAGE) into SOURCES
    propensity: NDArray[np.float64]  # (n, PAGE) P(looked at)
    times: NDArray[np.int64]  # (n, PAGE, 4) of each action, -1 where it did not happen


def sessions_of(world: World) -> int:
    return max(round(world.config.events / EVENTS_A_SESSION), 1)


def starts(world: World, session: Array) -> NDArray[np.int64]:
    """When sessions begin: later ones later, more of them in the evening and at weekends."""
    config, total = world.config, sessions_of(world)
    hours = np.arange(config.days * 24 - 1)  # a session of the last hour could outlast the log
    of_day = 1.0 + 0.8 * np.cos((hours % 24 - 20) * np.pi / 12)
    weekday = ((config.start // DAY) + hours // 24 + 3) % 7  # 1970 began on a Thursday
    weight = of_day * np.where(weekday >= 5, 1.3, 1.0)
    whole = np.concatenate([[0.0], np.cumsum(weight)])
    place = (session + world.draw.uniform("session.start", session)) / total * whole[-1]
    hour = np.interp(place, whole, np.arange(len(whole)))
    return np.asarray(config.start + (hour * 3_600_000).astype(np.int64), np.int64)


def requests(world: World, session: Array) -> Requests:
    """Everything that happens in some sessions: a function of their numbers alone."""
    draw, config = world.draw, world.config
    session = np.asarray(session, np.int64)
    count = 1 + (draw.uniform("session.more", session)[:, None] < [0.65, 0.4, 0.2]).sum(1)
    index = np.repeat(np.arange(len(session)), count)
    place = np.arange(len(index)) - np.repeat(np.cumsum(count) - count, count)
    number = session[index] * REQUESTS + place
    # some users come far more often than others; the multiplier spreads them over the rows
    rank = (draw.uniform("session.user", session) ** 1.5 * config.users).astype(np.int64)
    user = (rank * _coprime(config.users) % config.users)[index]
    pause = 75_000 + draw.integer("request.pause", 60_000, number)
    at = starts(world, session)[index] + place * 135_000 + np.where(place > 0, pause, 0)
    search = draw.uniform("request.scene", number) < 0.4
    tastes = world.tastes(user, at)
    intents = _asks(world, tastes, number)
    texts = world.grammar.phrase(intents, "live", number, TYPOS)
    pages = np.full((len(number), PAGE), -1, np.int64)
    source = np.zeros((len(number), PAGE), np.int64)
    for searching, fill in ((False, _home), (True, _results)):
        which = np.flatnonzero(search == searching)
        pages[which], source[which] = fill(
            world, tastes[which], intents[which], number[which], at[which]
        )
    chance = np.empty(pages.shape)
    for searching in (False, True):
        which = np.flatnonzero(search == searching)
        asked = intents[which] if searching else None
        chance[which] = world.chances(tastes[which], pages[which], at[which], asked)
    propensity, times = _act(world, tastes, pages, chance, number, at)
    query = pa.array(np.where(search, texts.to_numpy(zero_copy_only=False), None), pa.string())
    return Requests(number, user, at, search, intents, query, pages, source, propensity, times)


def _coprime(n: int) -> int:
    step = int(n * 0.618) | 1
    while np.gcd(step, n) != 1:
        step += 2
    return step


# -------------------------------------------------------------------- what is asked


def _asks(world: World, tastes: Tastes, number: Array) -> Intents:
    """What the users would search for: mostly one of their categories, the wanted one first."""
    draw, u, n = world.draw, world.draw.uniform, len(number)
    wanted = tastes.gain + 0.6 * _gumbel(u("ask.focus", number[:, None], np.arange(3)))
    mine = tastes.focus[np.arange(n), wanted.argmax(1)]
    any_leaf = draw.integer("ask.any", world.grammar.leaves, number)
    leaf = np.where(u("ask.mine", number) < 0.8, mine, any_leaf)
    intents = facets(world, leaf, "ask", number)
    favourite = np.take_along_axis(tastes.brand, world.grammar.department[leaf][:, None], 1)[:, 0]
    loyal = (intents.kind == BRAND) & (u("ask.loyal", number) < 0.6)
    return Intents(leaf, intents.kind, np.where(loyal, favourite, intents.value))


def facets(world: World, leaf: Array, stream: str, index: Array) -> Intents:
    """Queries for goods: a third just for the good, the others for one of its facets."""
    draw, grammar = world.draw, world.grammar
    kinds = np.array([NOUN, BRAND, STYLE, MATERIAL, COLOUR, USE])
    cdf = np.cumsum([0.34, 0.2, 0.1, 0.1, 0.08])
    kind = kinds[np.searchsorted(cdf, draw.uniform(stream + ".kind", index), side="right")]
    per = np.array([1, grammar.brands, 10, 6, 10, 6])[kind]
    offset = np.where(np.isin(kind, (BRAND, MATERIAL, USE)), grammar.department[leaf] * per, 0)
    skew = np.where(kind == BRAND, 1.5, 1.0)
    value = offset + (draw.uniform(stream + ".value", index) ** skew * per).astype(np.int64)
    return Intents(leaf, kind, value)


# -------------------------------------------------------------------- what is shown


def _home(
    world: World, tastes: Tastes, _: Intents, number: Array, at: Array
) -> tuple[Array, Array]:
    """Pages of the home feed and the source of each place."""
    draw, u, items = world.draw, world.draw.uniform, world.items
    n = world.config.items
    request, slot = number[:, None], np.arange(PAGE)
    which = u("home.source", request, slot)
    source = np.searchsorted([0.5, 0.75], which, side="right")  # taste, popular, explore
    famous = items.fame[_zipf(u("home.famous", request, slot), np.asarray(n), 20)]
    pages = np.where(source == 1, famous, draw.integer("home.any", n, request, slot))
    # taste: some items of a category the user may want; the best by an estimate with errors
    focus = np.searchsorted([0.5, 0.8], u("home.focus", request, slot), side="right")
    leaf = np.take_along_axis(tastes.focus, focus, 1)
    rows = _of_leaf(world, leaf, "home", request, slot)
    flat = rows.reshape(len(rows), PAGE * LOOKED_AT)
    guess = world.personal(tastes, flat) + 0.4 * items.quality[flat]
    guess += 0.9 * _gumbel(u("home.error", request, np.arange(flat.shape[1])))
    guess = np.where(world.on_sale(flat, at[:, None]), guess, -np.inf).reshape(rows.shape)
    best = np.take_along_axis(rows, guess.argmax(-1)[..., None], -1)[..., 0]
    pages = np.where(source == 0, best, pages)
    return _compact(world, pages, source, at)


def _results(
    world: World, tastes: Tastes, intents: Intents, number: Array, at: Array
) -> tuple[Array, Array]:
    """Result pages: mostly what matches, some neighbours, some noise; the order is half right."""
    draw, u, grammar = world.draw, world.draw.uniform, world.grammar
    request, slot = number[:, None], np.arange(PAGE)
    which = u("find.source", request, slot)
    neighbour = grammar.group[intents.leaf][:, None] * 4 + draw.integer(
        "find.near", 4, request, slot
    )
    leaf = np.where(which < 0.75, intents.leaf[:, None], neighbour)
    leaf = np.where(which > 0.92, draw.integer("find.any", grammar.leaves, request, slot), leaf)
    rows = _of_leaf(world, leaf, "find", request, slot)
    flat = rows.reshape(len(rows), PAGE * LOOKED_AT)
    match = world.topical(intents, flat)
    guess = 2.5 * match + 0.5 * _gumbel(u("find.error", request, np.arange(flat.shape[1])))
    guess = np.where(world.on_sale(flat, at[:, None]), guess, -np.inf).reshape(rows.shape)
    best = guess.argmax(-1)[..., None]
    pages = np.take_along_axis(rows, best, -1)[..., 0]
    score = np.take_along_axis(match.reshape(rows.shape), best, -1)[..., 0]
    order = np.argsort(-score - 0.6 * draw.normal("find.order", request, slot), axis=1)
    pages = np.take_along_axis(pages, order, 1)
    return _compact(world, pages, np.full(pages.shape, 3), at)


def _of_leaf(world: World, leaf: Array, stream: str, request: Array, slot: Array) -> Array:
    """(n, PAGE, LOOKED_AT) items of the categories (n, PAGE): half the famous, half any."""
    items, j = world.items, np.arange(LOOKED_AT)
    u = world.draw.uniform(stream + ".item", request[..., None], slot[:, None], j)
    size = (items.bounds[leaf + 1] - items.bounds[leaf])[..., None]
    place = np.where(j < FAMOUS, _zipf(u, size, HEAD), (u * size).astype(np.int64))
    at = np.minimum(items.bounds[leaf][..., None] + place, len(items.order) - 1)
    return items.order[at].astype(np.int64)


def _compact(world: World, pages: Array, source: Array, at: Array) -> tuple[Array, Array]:
    """Without what is not on sale or already on the page; the others move up."""
    earlier = np.tril(np.ones((PAGE, PAGE), np.bool_), -1)
    twice = ((pages[:, :, None] == pages[:, None, :]) & earlier).any(-1)
    keep = world.on_sale(pages, at[:, None]) & ~twice
    order = np.argsort(~keep, axis=1, kind="stable")
    pages = np.take_along_axis(np.where(keep, pages, -1), order, 1)
    return pages, np.take_along_axis(source, order, 1)


def _zipf(u: Array, n: Array, head: int) -> NDArray[np.int64]:
    """Ranks below n with density 1 / (rank + head): Zipf and Mandelbrot, by the inverse."""
    return np.asarray(np.minimum(head * ((1 + n / head) ** u - 1), n - 1), np.int64)


def _gumbel(u: Array) -> NDArray[np.float64]:
    return np.asarray(-np.log(-np.log(u + 1e-12) + 1e-12), np.float64)


# -------------------------------------------------------------------- what is done


def _act(
    world: World, tastes: Tastes, pages: Array, chance: Array, number: Array, at: Array
) -> tuple[Array, Array]:
    """P(looked at) (n, PAGE), and the time of each action (n, PAGE, 4)."""
    draw, place = world.draw, (number[:, None], np.arange(PAGE))
    shown = pages >= 0
    would_click = draw.uniform("do.click", *place) < chance
    goes_on = draw.uniform("do.on", *place) < np.where(would_click, GOES_ON[1], GOES_ON[0])
    looked = np.ones_like(shown)
    looked[:, 1:] = np.logical_and.accumulate(goes_on[:, :-1], axis=1)
    clicked = shown & looked & would_click
    cart, buy = world.after_click(tastes, pages)
    carted = clicked & (draw.uniform("do.cart", *place) < cart)
    bought = carted & (draw.uniform("do.buy", *place) < buy)
    # a user reads down the page: a click later on the page is a later click
    click_at = at[:, None] + 1500 + 4500 * place[1] + draw.integer("do.wait", 3000, *place)
    cart_at = click_at + 8_000 + draw.integer("do.cart.wait", 50_000, *place)
    buy_at = cart_at + 10_000 + draw.integer("do.buy.wait", 120_000, *place)
    times = np.full((*pages.shape, 4), -1, np.int64)
    done = (shown, clicked, carted, bought)
    for action, when in enumerate(
        (np.broadcast_to(at[:, None], pages.shape), click_at, cart_at, buy_at)
    ):
        times[..., action] = np.where(done[action], when, -1)
    return examined(chance), times


# -------------------------------------------------------------------- tables


def events(world: World, chunk: int) -> Iterator[pa.Table]:
    """The log in order of (timestamp, event_id), `chunk` sessions at a time."""
    total = sessions_of(world)
    waiting = EVENTS.empty_table()
    for first in range(0, total, chunk):
        until = min(first + chunk, total)
        fresh = _rows(world, requests(world, np.arange(first, until)))
        table = pa.concat_tables([waiting, fresh])
        table = table.sort_by([("timestamp", "ascending"), ("event_id", "ascending")])
        # what comes after the next session begins waits for that session's events
        bound = np.iinfo(np.int64).max
        if until < total:
            bound = int(starts(world, np.array([until]))[0])
        ready = int(np.searchsorted(table.column("timestamp").to_numpy(), bound))
        waiting = table.slice(ready)
        yield table.slice(0, ready)


def _rows(world: World, asked: Requests) -> pa.Table:
    """The events of requests, one row an action."""
    r, slot, action = np.nonzero(asked.times >= 0)
    config = world.config
    rows = asked.pages[r, slot]
    session = asked.number // REQUESTS
    digits = len(str(sessions_of(world) * REQUESTS))
    request_ids = number(asked.number, digits, "r")
    at = pa.array(r)
    sequence = (asked.number[r] * PAGE + slot) * 4 + action
    price = np.round(world.items.price[rows].astype(np.float64), 2)
    only_seen = action > CLICK
    return pa.table(
        {
            "event_id": number(sequence, digits + 2, "e"),
            "user_id": ids(asked.user, config.users, "u").take(at),
            "item_id": ids(rows, config.items, "i"),
            "action": pa.array(ACTIONS).take(pa.array(action)),
            "timestamp": asked.times[r, slot, action],
            "session_id": number(session, digits, "s").take(at),
            "request_id": request_ids.take(at),
            "scene": pa.array(["home", "search"]).take(pa.array(asked.search[r].astype(np.int8))),
            "query": asked.query.take(at),
            "position": (slot + 1).astype(np.int32),
            "value": pa.array(price, mask=action != PURCHASE),
            "propensity": pa.array(asked.propensity[r, slot], mask=only_seen),
            "source": pa.array(SOURCES).take(pa.array(asked.source[r, slot])),
        },
        EVENTS,
    )
