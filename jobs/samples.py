"""
What prerank and rank learn from: training requests with the candidates that recall gave them.

The requests lie in [past, until); the generation that is asked knows what came before `past`, the
history and the live counters what came before each request, so a sample sees nothing of its
future. Graded queries of the training split join the searches, without a user, as of `past`.
Writes samples/<scene>/{requests,candidates}/, in the form of the request log. Only candidates that
recall returned are there, as in serving; the share of the positive ones it missed is a metric.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import from_arrow_schema

from features.fold import counted, counter_names
from funnel.catalogue import id_hash
from funnel.config import Config, Scene
from funnel.dataset import read
from funnel.evaluate import TEST_SHARE
from funnel.gateway import excluded_rows, user_columns
from funnel.generation import Generation
from funnel.log import Logged, tables
from funnel.types import Array, Candidates, History, Query
from jobs import events
from jobs.candidates import OUTCOME, Recalled, evidence
from jobs.command import command
from jobs.counters_at import counters_at
from jobs.fresh import fresh, removed
from jobs.requests import asked, keyed, surrounded
from jobs.spark import map_batches
from jobs.tables import literal
from jobs.work import Work

NEXT = 10  # of a user's positive actions, where each is a request by itself
Outcome = Mapping[int, tuple[float, int]]  # row -> label, position (0: not shown)


def outcome(after: Sequence[Mapping[str, Any]], alone: bool) -> Outcome:
    """What became of a request, from the events that followed it in order of time.

    The label of an item is the highest weight that an action on it has, in the request itself or
    later in the visit. A request that is one event by itself takes the user's next ones too.
    """
    found: dict[int, tuple[float, int]] = {}
    shown = {event["row"] for event in after if event["own"]}
    for event in after:
        row, weight, position = event["row"], event["weight"], 0
        if alone:
            if weight <= 0 or (row not in found and len(found) == NEXT):
                continue
        elif not event["own"] and not (event["visit"] and row in shown):
            continue
        if event["own"] and weight <= 0:  # an impression
            position = event["position"] or 1 + sum(at > 0 for _, at in found.values())
        label, place = found.get(row, (0.0, 0))
        found[row] = (max(label, weight), place or position)
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
        became = outcome(request["after"], request["alone"])
        scene = config.scenes[request["scene"]]
        excluded = excluded_rows(history, scene, config.all_actions)
        wanted = [row for row, (label, _) in became.items() if label > 0]
        query = Query(
            request_id=request["request"],
            scene=request["scene"],
            user_id=request["user_id"],
            text=request["text"],
            at=request["at"],
            limit=scene.limit,
            history=history,
            user=user_columns(request["user_id"], generation, config),
            excluded=np.setdiff1d(excluded, wanted).astype(np.int32),
            generation=generation.id,
        )
        yield query, became


def from_grades(work: Work, generation: Generation, scene: str) -> Iterator[tuple[Query, Outcome]]:
    """The graded queries of the training split; without splits those that `evaluate` leaves."""
    if not (work.has("queries") and work.has("qrels")):
        return
    queries = read(work.data, "queries", ["query_id", "query", "split"])
    if queries.column("split").null_count < len(queries):
        queries = queries.filter(pc.equal(queries.column("split"), "train"))
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
                request_id=f"query-{query['query_id']}",
                scene=scene,
                text=" ".join(query["query"].split()),
                at=work.past,
                limit=work.config.scene(scene).limit,
                generation=generation.id,
            )
            yield asked, became


def requests(work: Work, generation: Generation) -> list[tuple[Query, Outcome]]:
    """All training requests. Graded queries take at most half of a scene that has events too."""
    config, most = work.config, work.config.build.requests
    found: list[tuple[Query, Outcome]] = []
    if work.has("events"):
        happened = keyed(events.read(work), config)
        chosen = asked(happened, config, work.past, work.until)
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


def written(path: Path, found: Sequence[tuple[Query, Outcome]]) -> pa.Table:
    """The requests with their outcomes, as Parquet for the workers and as they are."""
    table, _ = tables([Logged(query, Candidates.empty()) for query, _ in found])
    columns: list[list[Any]] = [[list(became) for _, became in found]]
    columns += [[[part[i] for part in became.values()] for _, became in found] for i in (0, 1)]
    for (name, kind), values in zip(OUTCOME, columns, strict=True):
        table = table.append_column(name, pa.array(values, kind))
    pq.write_table(table, fresh(path) / "part-0.parquet", compression="zstd")
    return table


def recalled(work: Work, path: Path) -> DataFrame:
    """The candidates of the requests in `path`, one row each, from Spark's workers."""
    config = work.config
    channels = {name for scene in config.scenes.values() for name in scene.recall.channels}
    recall = Recalled(
        str(work.past_draft),
        evidence(sorted(channels)),
        config.build.negatives,
        config.build.seed,
    )
    spark = work.spark
    parts = spark.sparkContext.defaultParallelism
    frame = spark.read.parquet(literal(path)).repartition(parts, "request_id")
    schema = from_arrow_schema(recall.schema)
    return map_batches(frame, recall, schema)


def run(work: Work) -> dict[str, Any]:
    removed(work.root / "samples")
    config = work.config
    generation = Generation.open(work.past_draft, check=False)
    found = requests(work, generation)
    if not found:
        return {}
    path = work.tables / "requests"
    table = written(path, found)
    work.progress(f"samples: recall for {len(found)} requests")
    frame = recalled(work, path)
    if work.has("events"):
        middle = (work.past + work.until) // 2
        before = events.read(work).where(f"timestamp < {work.until}")
        frame = counters_at(frame, before, config, middle)
    candidates = frame.toArrow()
    candidates = candidates.sort_by(
        [("request_id", "ascending"), ("score", "descending"), ("row", "ascending")]
    )
    return _split(work, table, candidates)


def _split(work: Work, table: pa.Table, candidates: pa.Table) -> dict[str, Any]:
    """Writes each scene's part, and says how much of what was wanted is there."""
    metrics: dict[str, Any] = {}
    names = [name for name, _ in OUTCOME]
    counters = counter_names(counted(work.config), work.config.features.half_lives)
    for name, scene in work.config.scenes.items():
        own = table.filter(pc.equal(table.column("scene"), name))
        if not len(own):
            continue
        part = candidates.filter(pc.equal(candidates.column("scene"), name))
        used = set(evidence(list(scene.recall.channels))) | set(counters)
        used |= {"request_id", "row", "score", "label", "position"}
        part = part.select([column for column in part.column_names if column in used])
        target = work.samples / name
        pq.write_table(part, fresh(target / "candidates") / "part-0.parquet", compression="zstd")
        pq.write_table(
            own.drop_columns(names),
            fresh(target / "requests") / "part-0.parquet",
            compression="zstd",
        )
        wanted = int(_positive(pc.list_flatten(own.column("labels"))).sum())
        returned = int(_positive(part.column("label")).sum())
        metrics[name] = {
            "requests": len(own),
            "candidates": len(part),
            "positives": wanted,
            f"recall@{scene.recall.keep}": round(returned / max(wanted, 1), 4),
        }
    return metrics


def _positive(labels: pa.ChunkedArray) -> Array:
    positive: Array = labels.to_numpy() > 0
    return positive


if __name__ == "__main__":
    command(run, __doc__)
