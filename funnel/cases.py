"""
What a scene is measured with: requests with what was relevant to them.

Recommendation (and search without grades): one request a user, or at most so many as are asked
for, each at the start of one of the user's held-out requests, with the live state of that moment;
relevant is what the user did positively from then on. Search with grades: the queries of the test
split, without a user.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from funnel.catalogue import id_hash
from funnel.config import Config
from funnel.dataset import accepted, has, read
from funnel.forgotten import marks
from funnel.gateway import excluded_rows, user_columns
from funnel.generation import Generation
from funnel.stage import Hydrator
from funnel.timeline import Events, Timeline, groups, read_events
from funnel.types import Array, Query, Rows

TEST_SHARE = 0.25  # of the queries, where the data set names no split


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One request with what was relevant to it: rows and their grades."""

    query: Query
    rows: Rows
    grades: Array


def graded_cases(
    generation: Generation, data: Path, scene: str, split: str = "test", limit: int = 20
) -> list[Case]:
    """The graded queries of a split, at the generation's cut.

    Without a `split` column a quarter of the queries, by hash of their id, is the test split. The
    queries without one relevant item are left out: no order is better than another for them.
    """
    queries = read(data, "queries", ["query_id", "query", "split"])
    if queries.column("split").null_count < len(queries):
        queries = queries.filter(pc.equal(queries.column("split"), split))
    else:
        names = queries.column("query_id").to_pylist()
        test = np.array([id_hash(name) / 2**64 < TEST_SHARE for name in names], bool)
        queries = queries.filter(pa.array(test if split == "test" else ~test))
    qrels = read(data, "qrels", ["query_id", "item_id", "grade"])
    rows = generation.items.rows(qrels.column("item_id").to_pylist())
    grades = qrels.column("grade").to_numpy().astype(np.float64)
    judged = dict(groups(qrels.column("query_id").to_pylist()))
    cases: list[Case] = []
    for query in queries.sort_by("query_id").to_pylist():
        part = judged.get(query["query_id"], np.empty(0, np.int64))
        part = part[(rows[part] >= 0) & (grades[part] > 0)]
        if len(part):
            asked = Query(
                request_id=f"evaluate-{query['query_id']}",
                scene=scene,
                text=" ".join(query["query"].split()),
                at=generation.manifest.until,
                limit=limit,
                generation=generation.id,
            )
            cases.append(Case(asked, rows[part], grades[part]))
    return cases


def held_out_cases(
    generation: Generation,
    config: Config,
    events: Events,
    scene: str,
    most: int,
    per_user: int = 1,
    limit: int = 20,
) -> Iterator[tuple[Timeline, Case]]:
    """Requests of the held-out events in time order, with the live state of their moment.

    At most `per_user` requests a user and `most` in all, drawn with the build's seed. For a scene
    that types queries relevant is what was clicked on in the request itself, else everything the
    user did positively from the request on.
    """
    timeline = Timeline(generation, config, events)
    settings = config.scene(scene)
    weights = np.zeros(len(generation.manifest.actions))
    for name, weight in config.data.positive.items():
        weights[generation.manifest.actions.index(name)] = weight
    positive = weights[events.actions] > 0
    of_user = dict(groups(events.users))
    starts = _requests(events, scene, positive)
    seed = np.random.default_rng(config.build.seed)
    chosen = starts[np.sort(_drawn(events.users[starts], seed, most, per_user))]
    for place in chosen:
        user, at = str(events.users[place]), int(events.times[place])
        timeline.advance(at)
        history = timeline.history(user)
        excluded = excluded_rows(history, settings, generation.manifest.actions)
        own = of_user[user]
        if events.texts[place]:
            later = own[positive[own] & (events.requests[own] == events.requests[place])]
        else:
            later = own[positive[own] & (events.times[own] >= at)]
        rows = np.setdiff1d(events.rows[later], excluded).astype(np.int32)
        if not len(rows):
            continue
        query = Query(
            request_id=f"evaluate-{place}",
            scene=scene,
            user_id=user,
            text=str(events.texts[place]),
            at=at,
            limit=limit,
            history=history,
            user=user_columns(user, generation, config) | timeline.user(user, at),
            excluded=excluded,
            generation=generation.id,
        )
        yield timeline, Case(query, rows, np.ones(len(rows)))


def _requests(events: Events, scene: str, positive: Array) -> Array:
    """The place of the first event of each request of the scene that led to something positive.

    Data without requests: every positive event is one. A scene that the data do not name (the
    events have no scene column, say) takes all events that are not searches.
    """
    wanted = events.scenes == scene
    if not wanted.any():
        wanted = (events.texts != "") == (scene == "search")
    if not (events.requests[wanted] != "").any():
        places: Array = np.flatnonzero(wanted & positive)
        return places
    inside = np.flatnonzero(wanted)
    firsts = [
        part[0] for _, part in groups(events.requests[inside]) if positive[inside[part]].any()
    ]
    return inside[np.array(sorted(firsts), np.int64)]


def _drawn(users: Array, seed: np.random.Generator, most: int, per_user: int) -> Array:
    """Places of at most `most` requests, `per_user` of one user."""
    order = seed.permutation(len(users))
    by_user = order[np.argsort(users[order].astype(str), kind="stable")]
    named = users[by_user].astype(str)
    first = np.append(True, named[1:] != named[:-1])
    place = np.arange(len(named)) - np.flatnonzero(first)[np.cumsum(first) - 1]
    kept: Array = seed.permutation(by_user[place < per_user])[:most]
    return kept


@dataclass(frozen=True, eq=False)
class Requests:
    """What a data set can measure a scene with: the counters as of each case (`None`: those of the
    generation's cut), which go along with the cases, and the case."""

    kind: str  # graded queries or held-out events
    most: int
    cases: Iterable[tuple[Hydrator | None, Case]]


def requests(
    generation: Generation,
    config: Config,
    data: Path,
    scene: str,
    most: int = 1000,
    per_user: int = 1,
) -> Requests:
    """The graded test queries of a scene that searches, where there are some; else at most `most`
    requests, `per_user` of one user, out of the events after the generation's cut. May be none."""
    searches = "bm25" in config.scene(scene).recall.channels
    graded = searches and has(data, "queries") and has(data, "qrels")
    cases = graded_cases(generation, data, scene) if graded else []
    if cases:
        return Requests("graded queries", len(cases), [(None, case) for case in cases])
    if scene == "similar" or not (paths := _events(data, config)):
        return Requests("held-out events", 0, ())
    past = generation.manifest.until
    events = read_events(paths, generation, since=past, marks=marks(Path(config.log.dir)))
    found = held_out_cases(generation, config, events, scene, most, per_user)
    return Requests("held-out events", most, ((line.counters, case) for line, case in found))


def _events(data: Path, config: Config) -> list[Path]:
    """Where events are: in the data set and in the archive of the live log."""
    found = [accepted(data, "events")] if has(data, "events") else []
    archive = Path(config.log.dir) / "events"
    there = config.build.archive and config.log.dir and any(archive.glob("[0-9]*.parquet"))
    return [*found, archive] if there else found


def askers(cases: Sequence[Case]) -> Array:
    """(R,) the number of each request's user, in the order in which they first ask; a request
    without a user has a number of its own."""
    numbers: dict[str | int, int] = {}
    users = [case.query.user_id or at for at, case in enumerate(cases)]
    return np.array([numbers.setdefault(user, len(numbers)) for user in users], np.int64)
