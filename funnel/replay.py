"""
What would the other variant have done: logged requests through two configs of the same pipeline.

Every request is asked again as it was logged (history, user columns and exclusions included), in
time order, with the item counters as of its moment. Relevant is what the user did positively after
it. A variant that showed an item the log did not show gets no credit for it, so this compares
orders of what was shown; it is not an unbiased estimate of what users would have done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from funnel.changes import archived
from funnel.config import Config
from funnel.errors import BadData, BadGeneration
from funnel.forgotten import marks
from funnel.generation import Generation, current
from funnel.log import Logged, read
from funnel.metrics import bootstrap_interval, ndcg_at_k
from funnel.overlay import LiveCatalogue
from funnel.pipeline import Pipeline, offline
from funnel.roles import SPONSOR
from funnel.timeline import Events, Timeline, groups, read_events
from funnel.types import NO_ITEM, Array, History, Query, Rows

HORIZON_MS = 24 * 3_600_000  # later than this an action is no answer to the page


@dataclass(frozen=True, eq=False)
class Runner:
    """One generation under one config, with the live state swept along."""

    generation: Generation
    timeline: Timeline
    pipelines: Mapping[str, Pipeline]


@dataclass(frozen=True, slots=True)
class Difference:
    """Means of A and B and the paired difference B - A with its 95 % bootstrap interval."""

    a: float
    b: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """What `funnel replay` prints.

    `overlap` is the share of A's page that is on B's; `same` the share of requests where both pages
    are equal; `reproduced_*` the share of logged pages that the variant gives again, row by row,
    among requests whose page was not degraded.
    """

    requests: int
    answered: int  # requests with a positive action after them
    metrics: Mapping[str, Difference]
    overlap: float
    same: float
    reproduced_a: float
    reproduced_b: float
    ms_a: tuple[float, float]  # p50, p99
    ms_b: tuple[float, float]
    degraded: int = field(default=0)


def opened(config: Config, generation: Generation, events: Events) -> Runner:
    """Everything that answers for one generation under one config, in this process."""
    timeline = Timeline(generation, config, events)
    return Runner(generation, timeline, offline(generation, config, timeline.counters))


class Side:
    """One variant: a config, and the generations of its root as the log asks for them."""

    def __init__(self, name: str, config: Config, log: Path, generation: str = ""):
        self.name, self.config, self.log = name, config, log
        self.root = Path(config.build.root)
        self.fixed = generation
        self._runners: dict[str, Runner] = {}
        self._logged: dict[str, Generation] = {}

    def runner(self, logged: str) -> Runner:
        """The generation that was logged where this root has it, the published one otherwise."""
        wanted = self.fixed or (logged if (self.root / logged).is_dir() else current(self.root))
        if wanted not in self._runners:
            generation = Generation.open(self.root / wanted)
            events = self.log / "events"
            known = any(events.rglob("*.parquet")) if events.is_dir() else False
            until, gone = generation.manifest.until, marks(self.log)
            swept = read_events(events, generation, until, marks=gone) if known else NOTHING
            self._runners[wanted] = opened(self.config, generation, swept)
        return self._runners[wanted]

    def origin(self, logged: str) -> Generation:
        """The generation that a request was logged with, and what came into its catalogue later:
        the log's row numbers are theirs."""
        if logged not in self._logged:
            if not (self.root / logged).is_dir():
                raise BadGeneration(
                    f"the log names generation {logged}, which is not in {self.root}: its row "
                    "numbers cannot be read without it"
                )
            opened = Generation.open(self.root / logged, live=True)
            assert isinstance(opened.items, LiveCatalogue)
            opened.items.apply(list(archived(self.log, opened.manifest.catalog_position)))
            self._logged[logged] = opened
        return self._logged[logged]

    def ask(self, entry: Logged, origin: Callable[[str], Generation]) -> tuple[Rows, float]:
        """The page (rows of the logged generation) and how many ms it took."""
        query = entry.query
        runner = self.runner(query.generation)
        runner.timeline.advance(query.at)
        same = runner.generation.id == query.generation
        asked = query if same else moved(query, origin(query.generation), runner.generation)
        if asked.scene not in runner.pipelines:
            known = ", ".join(runner.pipelines)
            raise BadData(f"the log has scene '{asked.scene}', {self.name} has: {known}")
        start = time.perf_counter()
        rows = runner.pipelines[asked.scene].trail(asked)["rerank"].rows
        ms = 1e3 * (time.perf_counter() - start)
        if not same:
            rows = _mapped(rows, runner.generation, origin(query.generation))
        return rows, ms


NOTHING = Events(
    np.empty(0, object),
    np.empty(0, np.int32),
    np.empty(0, np.int8),
    np.empty(0, np.int64),
    np.empty(0, np.int64),
    np.empty(0, np.int64),
    np.empty(0, object),
    np.empty(0, object),
    np.empty(0, object),
)


def _mapped(rows: Array, source: Generation, target: Generation) -> Rows:
    """Rows of one generation as rows of another, NO_ITEM where it lacks the item."""
    return target.items.rows(source.items.item_ids(rows))


def _sponsors(generation: Generation) -> list[str]:
    return generation.items.values(SPONSOR) if generation.items.has("codes", SPONSOR) else []


def moved(query: Query, source: Generation, target: Generation) -> Query:
    """The query in another generation's rows; items that it lacks are left out."""
    rows = _mapped(query.history.rows, source, target)
    kept = rows != NO_ITEM
    excluded = _mapped(query.excluded, source, target)
    live = dict(query.live)
    if "shown.rows" in live:
        shown = _mapped(live["shown.rows"], source, target)
        live["shown.rows"] = shown[shown != NO_ITEM]
        live["shown.times"] = live["shown.times"][shown != NO_ITEM]
    if "page.rows" in live:
        above = _mapped(live["page.rows"], source, target)
        live["page.rows"] = above[above != NO_ITEM]
    if "sponsor.codes" in live:
        codes = {name: code for code, name in enumerate(_sponsors(target))}
        names = [_sponsors(source)[code] for code in live["sponsor.codes"].tolist()]
        there = np.array([name in codes for name in names], bool)
        live["sponsor.codes"] = np.array([codes[n] for n in names if n in codes], np.int32)
        live["sponsor.rates"] = live["sponsor.rates"][there]
    item = query.item
    return replace(
        query,
        history=History(rows[kept], query.history.actions[kept], query.history.times[kept]),
        excluded=excluded[excluded != NO_ITEM],
        live=live,
        item=int(_mapped(np.array([item]), source, target)[0]) if item >= 0 else item,
        generation=target.id,
    )


def replay(
    log: Path,
    a: Side,
    b: Side,
    scene: str | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Comparison:
    """Runs every logged request (of `scene`) through both sides and compares."""
    actions = _later(log, a)
    found: dict[str, list[tuple[float, float]]] = {"nDCG@10": [], "HR@10": []}
    times: list[tuple[float, float]] = []
    overlaps: list[float] = []
    same: list[bool] = []
    again: list[tuple[bool, bool]] = []
    degraded = 0
    for done, entry in enumerate(read(log, scene), 1):
        (rows_a, ms_a), (rows_b, ms_b) = a.ask(entry, a.origin), b.ask(entry, a.origin)
        times.append((ms_a, ms_b))
        overlaps.append(float(np.isin(rows_a, rows_b).mean()) if len(rows_a) else 1.0)
        same.append(np.array_equal(rows_a, rows_b))
        if entry.degraded:
            degraded += 1
        else:
            page = entry.page
            again.append((np.array_equal(rows_a, page), np.array_equal(rows_b, page)))
        relevant = actions(entry.query)
        if len(relevant):
            ideal = np.ones(len(relevant))
            gains = [np.isin(rows, relevant).astype(np.float64) for rows in (rows_a, rows_b)]
            found["nDCG@10"].append(tuple(ndcg_at_k(g, ideal, 10) for g in gains))  # type: ignore[arg-type]
            found["HR@10"].append(tuple(float(g[:10].any()) for g in gains))  # type: ignore[arg-type]
        progress(done)
    if not times:
        raise BadData(f"no logged request{f' of scene {scene}' if scene else ''} in {log}")
    sides = np.array(times)
    shares = np.array(again, np.float64).reshape(-1, 2)
    reproduced = shares.mean(0) if len(shares) else np.full(2, np.nan)
    return Comparison(
        requests=len(times),
        answered=len(found["nDCG@10"]),
        metrics={name: _difference(np.array(pairs)) for name, pairs in found.items() if pairs},
        overlap=float(np.mean(overlaps)),
        same=float(np.mean(same)),
        reproduced_a=float(reproduced[0]),
        reproduced_b=float(reproduced[1]),
        ms_a=_percentiles(sides[:, 0]),
        ms_b=_percentiles(sides[:, 1]),
        degraded=degraded,
    )


def _later(log: Path, side: Side) -> Callable[[Query], Rows]:
    """What a user did positively within the horizon after a request, by the log's own events."""
    opened: dict[str, tuple[Events, dict[str, Array], Array]] = {}
    there = (log / "events").is_dir() and any((log / "events").rglob("*.parquet"))

    def rows(query: Query) -> Rows:
        if not there or not query.user_id:
            return np.empty(0, np.int32)
        if query.generation not in opened:
            generation = side.origin(query.generation)
            events = read_events(log / "events", generation, marks=marks(log))
            names = generation.manifest.actions
            codes = [names.index(name) for name in side.config.data.positive if name in names]
            positive = np.isin(events.actions, codes)
            opened[query.generation] = events, dict(groups(events.users)), positive
        events, of_user, positive = opened[query.generation]
        own = of_user.get(query.user_id, np.empty(0, np.int64))
        times = events.times[own]
        wanted = positive[own] & (times > query.at) & (times <= query.at + HORIZON_MS)
        return np.unique(events.rows[own[wanted]])

    return rows


def _difference(pairs: Array) -> Difference:
    by_request = pairs[:, 1] - pairs[:, 0]
    low, high = bootstrap_interval(by_request)
    a, b = pairs.mean(0)
    return Difference(float(a), float(b), float(by_request.mean()), low, high)


def _percentiles(ms: Array) -> tuple[float, float]:
    return float(np.percentile(ms, 50)), float(np.percentile(ms, 99))
