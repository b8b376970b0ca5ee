"""
The online top: an `Ask` becomes a `Query`, goes through the scene's funnel and comes back a `Page`.

A page never fails because one part did: without the store the history is empty, without a stage the
order before it stands, and the page says in `degraded` what it did without.
"""

from __future__ import annotations

import base64
import html
import json
import logging
import re
import time
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from funnel.config import Config, Scene
from funnel.errors import BadQuery, FunnelError, NotFound, Unavailable
from funnel.facets import facets
from funnel.generation import Generation
from funnel.log import Logged, RequestLog
from funnel.moment import Moment
from funnel.page import Ask, Hit, Page
from funnel.passages import passages
from funnel.pipeline import Pipeline
from funnel.predicate import check, parse
from funnel.sort import checked, onwards
from funnel.types import (
    AD,
    FRESH,
    NO_ITEM,
    NO_ROWS,
    PINNED,
    PRICE,
    PROPENSITY,
    Array,
    Candidates,
    History,
    Predicate,
    Query,
    Rows,
    Step,
    Suggestion,
    taken,
)

log = logging.getLogger(__name__)

MAX_TEXT = 1000
MAX_BLOCKED = 10_000
SUGGESTED = 10  # where the request does not say
REASONS = {
    "bm25": "has the words",
    "tfidf": "has the words",
    "vector": "close by vector",
    "two_tower": "close to what you ask and like",
    "item_cf": "goes with your history",
    "swing": "goes with your history",
    "graph": "goes with your history",
    "user_cf": "wanted by people like you",
    "als": "wanted by people like you",
    "spectral": "wanted by people like you",
    "live": "goes with your last clicks",
    "popular": "popular",
    "new": "new and like what you want",
}


class Recent(Protocol):
    """A user's recent actions, oldest first, and what is counted of the user, by name."""

    @property
    def item_ids(self) -> Sequence[str]: ...
    @property
    def actions(self) -> Sequence[str]: ...
    @property
    def times(self) -> Sequence[int]: ...
    @property
    def counters(self) -> Mapping[str, float]: ...


class Completes(Protocol):
    """Who knows what users may be about to type."""

    def complete(self, prefix: str, limit: int) -> Sequence[Suggestion]: ...


class Users(Protocol):
    """Where histories come from: the live store, or a replay's own."""

    def user(self, user_id: str) -> Recent: ...


@dataclass(frozen=True, eq=False)
class Serving:
    """One generation and the funnels that answer for it, scene by scene.

    `catch_up` applies what is next in the catalogue's log, and says how much that was.
    """

    generation: Generation
    pipelines: Mapping[str, Pipeline]
    completes: Completes | None = None
    catch_up: Callable[[], int] = lambda: 0

    def known(self, candidates: Candidates) -> Candidates:
        """The candidates that the catalogue has here and now: stages may have heard of new items
        first, and of deletions last."""
        items, rows = self.generation.items, candidates.rows
        try:
            while len(rows) and rows.max() >= len(items) and self.catch_up():
                pass
        except Unavailable as error:
            log.warning("a page does without items that are not known here: %s", error)
        there = rows < len(items)
        if (alive := items.alive) is not None:
            there &= taken(alive, rows, False)
        return candidates if there.all() else candidates.take(np.flatnonzero(there))


@dataclass(eq=False)
class Gateway:
    """`serving` is replaced whole when a new generation takes over; a request keeps its own."""

    config: Config
    serving: Serving
    users: Users
    pool: Executor
    log: RequestLog | None = None
    now: Callable[[], int] = field(default=lambda: time.time_ns() // 1_000_000)
    moment: Moment | None = None
    earlier: Callable[[str], Generation | None] = field(default=lambda id: None)

    def page(self, ask: Ask, deadline: float = float("inf")) -> Page:
        """The page that was asked for. Raises `BadQuery` or `NotFound` for the caller's faults."""
        start = time.perf_counter()
        serving = self.serving
        query, served, steps = self.query(ask, serving.generation)
        query = replace(query, deadline=deadline)
        left = serving.pipelines[ask.scene].trail(query)
        page, faced = serving.known(left["rerank"]), serving.known(left["recall"])
        steps = (*steps, *page.steps)
        degraded = tuple(f"{step.name}: {step.fault}" for step in steps if step.fault)
        ms = 1e3 * (time.perf_counter() - start)
        if self.log is not None:
            self.log.append(entry(query, left["rank"], page, degraded, ms))
        if self.moment is not None:
            self.moment.showed(query, page, serving.generation)
        return Page(
            hits=hits(query, page, serving.generation, self.config),
            request_id=query.request_id,
            generation=serving.generation.id,
            total=len(faced),
            facets=facets(ask.facets, faced.rows, serving.generation.items, self.config),
            variants=query.variants,
            # Also after a page that rules cut short: the next one may have what they left.
            cursor=cursor(query, page, served) if len(faced) > len(page) > 0 else "",
            steps=steps,
            degraded=degraded,
            ms=ms,
        )

    def suggest(self, prefix: str, limit: int = 0) -> Sequence[Suggestion]:
        """What a user who typed `prefix` may mean; nothing where the generation has none."""
        completes = self.serving.completes
        return completes.complete(prefix, limit or SUGGESTED) if completes is not None else ()

    def query(self, ask: Ask, generation: Generation) -> tuple[Query, Rows, tuple[Step, ...]]:
        """The query, the rows that earlier pages showed, and the steps it took to make it."""
        if ask.scene not in self.config.scenes:
            known = ", ".join(self.config.scenes)
            raise BadQuery(f"unknown scene '{ask.scene}'; known: {known}")
        scene = self.config.scenes[ask.scene]
        limit = _limit(ask.limit, scene)
        text = _text(ask, scene)
        item = _item(ask, generation)
        at = ask.at or self.now()
        if at < 0:
            raise BadQuery(f"at = {at} is before 1970; it is epoch milliseconds, 0 means now")
        recent, steps = self._recent(ask.user_id, scene)
        live, told = self._live(ask, scene, generation)
        history = history_of(recent, generation, self.config, at) if recent else History()
        served, above = self._served(ask.cursor, generation)
        if above:
            live |= {"page.rows": served, "page.above": np.asarray(above, np.int32)}
        own = np.array([item] if item >= 0 else [], np.int32)
        done = excluded_rows(history, scene, generation.manifest.actions)
        filters = conditions(ask, generation, self.config)
        sort = checked(ask.sort, generation.items, self.config)
        if sort and len(served):
            filters = (*filters, onwards(sort, int(served[-1]), generation.items))
        query = Query(
            request_id=ask.request_id or uuid.uuid4().hex,
            scene=ask.scene,
            user_id=ask.user_id,
            text=text,
            item=item,
            at=at,
            limit=limit,
            history=history,
            user=user_columns(ask.user_id, generation, self.config) | counters_of(recent),
            live=live,
            filters=filters,
            sort=sort,
            excluded=np.unique(np.concatenate([done, served, own, blocked(ask, generation)])),
            generation=generation.id,
            trace=ask.trace,
        )
        return query, served, (*steps, *told)

    def _live(
        self, ask: Ask, scene: Scene, generation: Generation
    ) -> tuple[dict[str, Array], tuple[Step, ...]]:
        """What rerank must know of the moment."""
        if self.moment is None:
            return {}, ()
        found = self.moment.live(ask.scene, generation)
        if not (ask.user_id and scene.rerank.fatigue.on):
            return found, ()
        start = time.perf_counter()
        budget = scene.store_budget_ms * self.config.serve.budgets / 1e3
        fault = ""
        future = self.pool.submit(self.moment.shown, ask.user_id, generation)
        try:
            found |= future.result(budget)
        except FutureTimeout:
            fault = f"no pages within {1e3 * budget:.0f} ms; went on as if none had been shown"
        except FunnelError as error:
            fault = f"{error}; went on as if none had been shown"
        count = len(found.get("shown.rows", ()))
        return found, (Step("shown", count, count, 1e3 * (time.perf_counter() - start), fault),)

    def _served(self, cursor: str, generation: Generation) -> tuple[Rows, int]:
        """The rows that the pages before showed, as `cursor` packed them (those of a generation
        before this one by their items), and how many places that were."""
        made, rows, above = unpacked_cursor(cursor)
        if not cursor or made == generation.id:
            return rows, above
        before = self.earlier(made)
        if before is None:
            raise BadQuery(
                f"the cursor is of generation {made}, now {generation.id} serves; ask again"
            )
        rows = rows[(rows >= 0) & (rows < len(before.items))]
        found = generation.items.rows(before.items.item_ids(rows))
        return found[found != NO_ITEM], above

    def _recent(self, user_id: str, scene: Scene) -> tuple[Recent | None, tuple[Step, ...]]:
        if not user_id:
            return None, ()
        start = time.perf_counter()
        budget = scene.store_budget_ms * self.config.serve.budgets / 1e3
        recent, fault = None, ""
        future = self.pool.submit(self.users.user, user_id)
        try:
            recent = future.result(budget)
        except FutureTimeout:
            fault = f"no user state within {1e3 * budget:.0f} ms; went on with an empty history"
        except FunnelError as error:
            fault = f"{error}; went on with an empty history"
        found = len(recent.item_ids) if recent else 0
        return recent, (Step("store", found, found, 1e3 * (time.perf_counter() - start), fault),)


def _limit(limit: int, scene: Scene) -> int:
    if limit < 0:
        raise BadQuery(f"limit = {limit} is negative; 0 means the scene's default")
    if limit > scene.rank.keep:
        raise BadQuery(
            f"limit = {limit} is more than rank keeps here ({scene.rank.keep}); "
            "ask for less and follow the cursor"
        )
    return limit or scene.limit


def _text(ask: Ask, scene: Scene) -> str:
    if len(ask.text) > MAX_TEXT:
        raise BadQuery(f"the query has {len(ask.text)} characters, at most {MAX_TEXT} are read")
    text = " ".join("".join(c if c.isprintable() else " " for c in ask.text).split())
    searches = "bm25" in scene.recall.channels and scene.recall.channels["bm25"].limit > 0
    if searches and not text:
        raise BadQuery("the query is empty; without words to search for, ask for recommendations")
    return text


def _item(ask: Ask, generation: Generation) -> int:
    if not ask.item_id:
        if ask.scene == "similar":
            raise BadQuery("item_id is empty: similar to what?")
        return NO_ITEM
    row, alive = generation.items.row(ask.item_id), generation.items.alive
    if row == NO_ITEM or (alive is not None and not alive[row]):
        raise NotFound(f"no item '{ask.item_id}' in generation {generation.id}")
    return row


def filterable(generation: Generation, config: Config) -> tuple[str, ...]:
    """The attributes that requests may filter on: those that the config names and the catalogue
    has."""
    items, kinds = generation.items, ("number", "codes", "offsets")
    return tuple(n for n in config.data.filterable if any(items.has(kind, n) for kind in kinds))


def conditions(ask: Ask, generation: Generation, config: Config) -> tuple[Predicate, ...]:
    """All that must hold. Raises `BadQuery` for too many conditions, or for a text that is none."""
    check(ask.filters)
    if not ask.where.strip():
        return ask.filters
    return (*ask.filters, parse(ask.where, filterable(generation, config)))


def blocked(ask: Ask, generation: Generation) -> Rows:
    """The rows of the items that the caller blocks; what the generation lacks cannot come."""
    if len(ask.blocked) > MAX_BLOCKED:
        raise BadQuery(f"{len(ask.blocked)} items are blocked, at most {MAX_BLOCKED} may be")
    rows = generation.items.rows(ask.blocked)
    found: Rows = rows[rows != NO_ITEM]
    return found


def unpacked_cursor(cursor: str) -> tuple[str, Rows, int]:
    """The generation and the rows that `cursor` packed, and how many places are above. Raises
    `BadQuery`."""
    if not cursor:
        return "", NO_ROWS, 0
    try:
        head, packed = base64.urlsafe_b64decode(cursor.encode()).split(b"\n", 1)
        made, count, above = json.loads(head)
        rows = np.frombuffer(zlib.decompress(packed), "<i4")
        if len(rows) != count or not count <= int(above):
            raise ValueError("length")
    except (ValueError, TypeError, zlib.error) as error:
        raise BadQuery(
            f"the cursor '{cursor[:40]}' is not one of ours; ask again without"
        ) from error
    return str(made), rows.astype(np.int32), int(above)


def cursor(query: Query, page: Candidates, served: Rows) -> str:
    """Where the next page goes on: the rows it must not show again."""
    rows = np.concatenate([served, page.rows]).astype("<i4")
    above = int(query.live.get("page.above", 0)) + len(page)
    head = json.dumps([query.generation, len(rows), above]).encode()
    return base64.urlsafe_b64encode(head + b"\n" + zlib.compress(rows.tobytes(), 9)).decode()


def history_of(recent: Recent, generation: Generation, config: Config, at: int) -> History:
    """The user's actions before `at` on items that the generation has, newest last."""
    codes = {name: code for code, name in enumerate(generation.manifest.actions)}
    rows = generation.items.rows(list(recent.item_ids))
    actions = np.array([codes.get(name, -1) for name in recent.actions], np.int8)
    times = np.asarray(recent.times, np.int64)
    known = (rows >= 0) & (actions >= 0) & (times <= at)
    history = History(rows[known], actions[known], times[known])
    return history.last(config.features.history)


def excluded_rows(history: History, scene: Scene, actions: Sequence[str]) -> Rows:
    """The items that the scene does not show again, given what the user did with them."""
    codes = [code for code, name in enumerate(actions) if name in scene.exclude]
    return np.unique(history.rows[np.isin(history.actions, codes)])


def user_columns(user_id: str, generation: Generation, config: Config) -> dict[str, Array]:
    """The user's attributes as codes, for the columns that the config names; {} if unknown."""
    if not user_id or not generation.has("users"):
        return {}
    row = generation.users.row(user_id)
    names = config.data.user_categorical if row >= 0 else ()
    return {name: np.asarray(generation.users.codes(name)[row]) for name in names}


def counters_of(recent: Recent | None) -> dict[str, Array]:
    """What is counted of the user, beside the attributes: `user.click.30d` and so on."""
    counters = recent.counters if recent is not None else {}
    return {name: np.asarray(count, np.float32) for name, count in counters.items()}


def entry(
    query: Query, ranked: Candidates, page: Candidates, degraded: tuple[str, ...], ms: float
) -> Logged:
    """What the log keeps: every candidate that reached rerank, and where the page put it."""
    place = {int(row): position for position, row in enumerate(page.rows, 1)}
    positions = np.array([place.get(int(row), 0) for row in ranked.rows], np.int32)
    at = np.flatnonzero(positions)
    columns: dict[str, Array] = {}
    for name in (AD, PRICE, PROPENSITY, PINNED, FRESH):
        if name in page.columns:
            column = np.full(len(positions), np.nan, np.float32)
            column[at] = page.columns[name][positions[at] - 1]
            columns[name] = column
    logged = ranked.with_columns(columns)
    return Logged(query, logged, positions=positions, degraded=degraded, ms=ms)


def hits(query: Query, page: Candidates, generation: Generation, config: Config) -> tuple[Hit, ...]:
    """The page for people: titles, attributes, highlights and a reason."""
    items, n, offset = generation.items, len(page), int(query.live.get("page.above", 0))
    ids, shown = items.item_ids(page.rows), items.take(page.rows)
    titles = shown.column("title").to_pylist()
    names = [name for name in config.data.filterable if name in shown.column_names]
    attributes = {name: shown.column(name).to_pylist() for name in names}
    mark = _marker(query.text)
    parts = passages(page.rows, items, config.scenes[query.scene].neighbours)
    evidence = {name: column for name, column in page.columns.items() if np.ndim(column) == 1 and n}
    found: list[Hit] = []
    for i in range(n):  # a page of twenty, not the candidates
        seen = {name: float(column[i]) for name, column in evidence.items()}
        finite = {name: value for name, value in seen.items() if np.isfinite(value)}
        own = {name: _shown(attributes[name][i]) for name in names}
        found.append(
            Hit(
                item_id=ids[i],
                score=float(page.scores[i]),
                title=titles[i] or "",
                attributes={name: value for name, value in own.items() if value},
                highlight=mark(titles[i] or ""),
                why=_why(finite),
                position=offset + i + 1,
                sponsored=bool(seen.get(AD)),
                price=finite.get(PRICE, 0.0),
                propensity=finite.get(PROPENSITY, 0.0),
                evidence=finite if query.trace else {},
                passage=parts[i],
            )
        )
    return tuple(found)


def _why(evidence: Mapping[str, float]) -> str:
    reasons = {text: None for name, text in REASONS.items() if f"recall.{name}" in evidence}
    if evidence.get(AD):
        reasons = {"sponsored": None, **reasons}
    if evidence.get(PINNED):
        reasons = {"pinned by a rule": None, **reasons}
    return "; ".join(reasons) or "fills the page"


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(str(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _marker(text: str) -> Callable[[str], str]:
    """Puts <b>…</b> around the words of a title that begin like a word of the query."""
    stems = [re.escape(word[: max(len(word) - 2, 3)]) for word in re.findall(r"\w+", text.lower())]
    if not stems:
        return lambda title: ""
    pattern = re.compile(rf"\b(?:{'|'.join(stems[:50])})\w*", re.IGNORECASE)

    def mark(title: str) -> str:
        place, parts = 0, []
        for match in pattern.finditer(title):
            parts += [html.escape(title[place : match.start()]), f"<b>{html.escape(match[0])}</b>"]
            place = match.end()
        return "".join([*parts, html.escape(title[place:])])

    return mark
