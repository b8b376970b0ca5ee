"""
Training requests, point in time: what was asked, what the user had done before, and what the user
did then.

Events with one request id are a request; without ids, what a user looked at after typing a query in
a session. In scenes that have neither, each positive event is a request by itself. What a query
was typed for is told by its own request and visit; a page that nobody typed for by what the user
wanted next, there or elsewhere, as in `funnel evaluate`.
Requests lie in [past, until). Graded queries of the training and the validation split join the
searches, without a user, as of `past`.

Writes tables/requests: a request log's requests, with the `rows`, `labels` and `positions` of what
the user saw and did, or a judge said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from features.fold import IMPRESSION, user_names
from funnel.cases import TEST_SHARE
from funnel.catalogue import id_hash
from funnel.config import Config, Scene
from funnel.dataset import read
from funnel.errors import BadData
from funnel.gateway import excluded_rows, user_columns
from funnel.generation import Generation
from funnel.log import Logged, tables
from funnel.types import Candidates, History, Query
from jobs import events
from jobs.command import command
from jobs.counters_at import users_at
from jobs.fresh import fresh
from jobs.user_stats import NEWEST
from jobs.work import Work

HOUR_MS = 3_600_000  # what a user does within it belongs to a request
VISIT_MS = HOUR_MS // 2  # conversions in the same session count for what was shown this long before
NEXT = 10  # items that a user wants next, where nothing was typed
AHEAD = 100  # positive events that they are looked for among
OUTCOME = (  # lists of one length, beside each request
    ("rows", pa.list_(pa.int32())),  # items that the user saw, or that were judged
    ("labels", pa.list_(pa.float32())),
    ("positions", pa.list_(pa.int32())),  # from 1, 0 where not shown
)
Outcome = Mapping[int, tuple[float, int]]  # row -> label, position (0: not shown)


def keyed(happened: DataFrame, config: Config) -> DataFrame:
    """Events with `weight` (as a label), `scene` and `text` (never null), and the request they
    belong to: `request`, null where they do not, and `alone` where one event is the request."""
    text = F.trim(F.regexp_replace(F.coalesce("query", F.lit("")), r"\s+", " "))
    weight = events.positives(config.data.positive, config.all_actions)
    visit = F.concat_ws("\n", F.coalesce("session_id", "user_id"), F.col("text"))
    own = F.concat(F.lit("event-"), F.hex(F.xxhash64("user_id", "row", "action", "timestamp")))
    named = F.nullif(F.col("request_id"), F.lit(""))
    shared = F.coalesce(named, F.when(F.col("text") != "", visit))
    scene = F.coalesce(
        F.nullif(F.col("scene"), F.lit("")),
        F.when(F.col("text") != "", "search").otherwise("home"),
    )
    return (
        happened.withColumns({"text": text, "weight": weight})
        .withColumn("scene", scene)
        .withColumn("alone", shared.isNull())
        .withColumn("request", F.coalesce(shared, F.when(F.col("weight") > 0, own)))
    )


def asked(events: DataFrame, config: Config, since: int, before: int) -> DataFrame:
    """The requests in [since, before) that led to something positive, at most `build.requests` a
    scene: request, scene, user_id, session_id, text, alone, at (their first event, epoch ms).

    Which ones are kept depends on their ids and the build's seed alone.
    """
    scenes = [name for name in config.scenes if name != "similar"]  # `similar` asks about an item
    inside = events.where(F.col("timestamp").between(since, before - 1))
    inside = inside.where(F.col("request").isNotNull() & F.col("scene").isin(scenes))
    found = inside.groupBy("request", "scene").agg(
        F.min("user_id").alias("user_id"),
        F.min("session_id").alias("session_id"),
        F.max("text").alias("text"),
        F.max("alone").alias("alone"),
        F.min("timestamp").alias("at"),
        F.max("weight").alias("best"),
    )
    # Shared ones first: where there are any, single events are conversions, not requests.
    number = F.xxhash64(F.lit(config.build.seed), "request")
    order = Window.partitionBy("scene").orderBy("alone", number, "request")
    chosen = found.where("best > 0").withColumn("place", F.row_number().over(order))
    chosen = chosen.where(F.col("place") <= config.build.requests)
    single = F.min("alone").over(Window.partitionBy("scene"))
    chosen = chosen.withColumn("single", single).where(F.col("alone") == F.col("single"))
    return chosen.drop("place", "best", "single")


def surrounded(requests: DataFrame, events: DataFrame, config: Config, before: int) -> DataFrame:
    """Requests with what their users did before and after.

    history_rows, history_actions, history_times: the newest `features.history` actions strictly
    before `at`, oldest first. `after`: the request's own events within an hour and, all before the
    cut, the user's positive ones, within that hour too where a query was typed, else the next
    `AHEAD`, as (timestamp, row, weight, position, own, visit).
    """
    event = events.select(
        "user_id",
        F.col("request").alias("of"),
        F.col("session_id").alias("session"),
        *("row", "action", "timestamp", "event_id", "weight", "position"),
    )
    impression = config.all_actions.index(IMPRESSION)
    own = F.coalesce(F.col("of") == F.col("request"), F.lit(False))
    time, at = F.col("timestamp"), F.col("at")
    earlier = (time < at) & (F.col("action") != impression)
    soon = time <= at + HOUR_MS
    wanted = (F.col("weight") > 0) & (soon | (F.col("text") == ""))
    later = time.between(at, F.lit(before - 1)) & ((own & soon) | wanted)
    both = event.join(F.broadcast(requests), "user_id").where(earlier | later)
    key = [F.col(f"`{name}`") for name in requests.columns]
    line = Window.partitionBy("scene", "request")
    newest = line.orderBy(*(F.desc_nulls_last(name) for name in NEWEST))
    oldest = line.orderBy(*(F.asc_nulls_first(name) for name in NEWEST))
    both = both.withColumns(
        {
            "place": F.count(F.when(time < at, 1)).over(newest),
            "ahead": F.count(F.when((time >= at) & ~own, 1)).over(oldest),
        }
    )
    near = (time >= at) & (own | (F.col("ahead") <= AHEAD))
    both = both.where(near | ((time < at) & (F.col("place") <= config.features.history)))
    visit = F.coalesce(F.col("session") == F.col("session_id"), F.lit(False))
    entry = F.struct(
        *("timestamp", "row", "weight", "position"),
        own.alias("own"),
        (visit & (time <= at + VISIT_MS)).alias("visit"),
    )
    done = F.struct(-F.col("place").alias("place"), "row", "action", "timestamp")
    listed = both.groupBy(*key).agg(
        _sorted(F.when(time < at, done)).alias("done"),
        _sorted(F.when(time >= at, entry)).alias("after"),
    )
    return listed.select(
        *key,
        F.col("done.row").alias("history_rows"),
        F.col("done.action").cast("array<tinyint>").alias("history_actions"),
        F.col("done.timestamp").alias("history_times"),
        "after",
    )


def _sorted(entry: Column) -> Column:
    """The entries that are not null, in the order of their first field."""
    return F.sort_array(F.collect_list(entry))


def label_of(weight: float) -> float:
    """The label of an action of that weight in `data.positive`, as a float32 holds it. The gain of
    a label is 2^label - 1 everywhere, as of a grade, so an action's gain is its weight: a purchase
    of weight 4 counts as much as four clicks of weight 1."""
    return float(np.float32(np.log2(1 + weight)))


def outcome(after: Sequence[Mapping[str, Any]], typed: bool) -> Outcome:
    """What became of a request, from the events that followed it in order of time.

    The label of an item is that of the highest weight that an action on it has, in the request
    itself. To that come, where a query was `typed`, actions later in the visit on what the request
    had shown; elsewhere any later ones, until `NEXT` items are wanted.
    """
    found: dict[int, tuple[float, int]] = {}
    shown = {event["row"] for event in after if event["own"]}
    for event in after:
        row, weight, position = event["row"], event["weight"], 0
        label, place = found.get(row, (0.0, 0))
        if not event["own"]:
            if typed and not (event["visit"] and row in shown):
                continue
            wanted = sum(at > 0 for at, _ in found.values())
            if not typed and (weight <= 0 or (not label and wanted >= NEXT)):
                continue
        if event["own"] and weight <= 0:  # an impression
            position = event["position"] or 1 + sum(at > 0 for _, at in found.values())
        found[row] = (max(label, label_of(weight)), place or position)
    return found


def from_events(
    table: pa.Table, generation: Generation, config: Config
) -> Iterator[tuple[Query, Outcome]]:
    """Requests as `surrounded` gives them, as queries with what became of them."""
    for request in table.to_pylist():
        history = History(
            np.asarray(request["history_rows"], np.int32),
            np.asarray(request["history_actions"], np.int8),
            np.asarray(request["history_times"], np.int64),
        )
        known = user_names(config) if config.features.users else ()
        counts = {name: np.asarray(request[name], np.float32) for name in known}
        scene = config.scenes[request["scene"]]
        excluded = excluded_rows(history, scene, config.all_actions)
        # What the scene excludes is no candidate, wanted again or not: let in because it was
        # wanted, it would be known by what the user had done with it.
        became = outcome(request["after"], bool(request["text"]))
        became = {row: one for row, one in became.items() if row not in excluded}
        query = Query(
            request_id=request["request"],
            scene=request["scene"],
            user_id=request["user_id"],
            text=request["text"],
            at=request["at"],
            limit=scene.limit,
            history=history,
            user=user_columns(request["user_id"], generation, config) | counts,
            excluded=excluded,
            generation=generation.id,
        )
        yield query, became


def from_grades(work: Work, generation: Generation, scene: str) -> Iterator[tuple[Query, Outcome]]:
    """The graded queries of the training and the validation split; without splits those that
    `evaluate` leaves."""
    if not (work.has("queries") and work.has("qrels")):
        return
    queries = read(work.data, "queries", ["query_id", "query", "split"])
    if queries.column("split").null_count < len(queries):
        ours = pa.array(["train", "valid"])
        queries = queries.filter(pc.is_in(queries.column("split"), ours))
    else:
        train = [id_hash(q) / 2**64 >= TEST_SHARE for q in queries.column("query_id").to_pylist()]
        queries = queries.filter(pa.array(train, pa.bool_()))
    qrels = read(work.data, "qrels", ["query_id", "item_id", "grade"])
    rows = generation.items.rows(qrels.column("item_id").to_pylist())
    judged: dict[str, dict[int, tuple[float, int]]] = {}
    columns = zip(
        qrels.column("query_id").to_pylist(),
        rows.tolist(),
        qrels.column("grade").to_pylist(),
        strict=True,
    )
    for name, row, grade in columns:
        if row >= 0:
            judged.setdefault(name, {})[row] = (float(grade), 0)
    for query in queries.to_pylist():
        became = judged.get(query["query_id"], {})
        if any(label > 0 for label, _ in became.values()):
            asked = Query(
                request_id=graded_id(query["query_id"]),
                scene=scene,
                text=" ".join(query["query"].split()),
                at=work.past,
                limit=work.config.scene(scene).limit,
                generation=generation.id,
            )
            yield asked, became


def graded_id(query_id: str) -> str:
    """The request id of a graded query."""
    return f"query-{query_id}"


def validating(work: Work) -> frozenset[str]:
    """The request ids of the queries of the validation split, from which nothing is to learn."""
    if not work.has("queries"):
        return frozenset()
    queries = read(work.data, "queries", ["query_id", "split"])
    held = queries.filter(pc.equal(queries.column("split"), "valid"))
    return frozenset(map(graded_id, held.column("query_id").to_pylist()))


def drawn(work: Work, generation: Generation) -> list[tuple[Query, Outcome]]:
    """All training requests. Graded queries take at most half of a scene that has events too."""
    config, most = work.config, work.config.build.requests
    found: list[tuple[Query, Outcome]] = []
    if work.has("events"):
        happened = keyed(events.read(work), config)
        chosen = asked(happened, config, work.past, work.until)
        if config.features.users:
            chosen = users_at(chosen, happened, config)
        around = surrounded(chosen, happened, config, work.until).toArrow()
        around = around.sort_by([("at", "ascending"), ("request", "ascending")])
        found = list(from_events(around, generation, config))
    for name, scene in config.scenes.items():
        if searches(scene):
            own = [query.request_id for query, _ in found if query.scene == name]
            graded = list(from_grades(work, generation, name))
            graded = graded[: max(most // 2, most - len(own))]
            spare = set(sorted(own, key=id_hash)[most - len(graded) :])
            found = [entry for entry in found if entry[0].request_id not in spare] + graded
    return found


def searches(scene: Scene) -> bool:
    bm25 = scene.recall.channels.get("bm25")
    return bm25 is not None and bm25.limit > 0


def path(work: Work) -> Path:
    return work.tables / "requests"


def written(path: Path, found: Sequence[tuple[Query, Outcome]]) -> None:
    """The requests and what became of them, as Parquet."""
    table, _ = tables([Logged(query, Candidates.empty()) for query, _ in found])
    columns: list[list[Any]] = [[list(became) for _, became in found]]
    columns += [[[part[i] for part in became.values()] for _, became in found] for i in (0, 1)]
    for (name, kind), values in zip(OUTCOME, columns, strict=True):
        table = table.append_column(name, pa.array(values, kind))
    pq.write_table(table, fresh(path) / "part-0.parquet", compression="zstd")


def read_back(request: Mapping[str, Any]) -> tuple[Query, Outcome]:
    """A row of the table as it was before it was written, user columns left out."""
    query = Query(
        request_id=request["request_id"],
        scene=request["scene"],
        user_id=request["user_id"],
        text=request["text"],
        at=request["at"],
        limit=request["limit"],
        history=History(
            np.asarray(request["history_rows"], np.int32),
            np.asarray(request["history_actions"], np.int8),
            np.asarray(request["history_times"], np.int64),
        ),
        excluded=np.asarray(request["excluded"], np.int32),
        generation=request["generation"],
    )
    became = zip(request["labels"], request["positions"], strict=True)
    return query, dict(zip(request["rows"], became, strict=True))


def requests(work: Work) -> list[tuple[Query, Outcome]]:
    """What this job wrote. Raises `BadData` before it ran."""
    return [read_back(request) for request in table(work).to_pylist()]


def table(work: Work) -> pa.Table:
    if not path(work).is_dir():
        raise BadData(f"{path(work)} is missing: run `python -m jobs.requests {work.data}` first")
    return pq.read_table(path(work))


def run(work: Work) -> dict[str, Any]:
    found = drawn(work, Generation.open(work.past_draft, check=False))
    written(path(work), found)
    return dict(Counter(query.scene for query, _ in found))


if __name__ == "__main__":
    command(run, __doc__)
