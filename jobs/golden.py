"""
Golden requests: a dozen requests with the pages that the finished draft gives, so that whoever
loads the generation can tell whether it still answers as it did when it was built.

Writes golden.json beside the drafts: scene, text, user_id, item_id, limit, at; item_ids, scores.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from pyspark.sql import functions as F

from funnel.config import Config
from funnel.dataset import read
from funnel.errors import BadGeneration
from funnel.gateway import excluded_rows, user_columns
from funnel.generation import Generation
from funnel.pipeline import Pipeline, offline
from funnel.types import Candidates, History, Query
from jobs import events
from jobs.command import command
from jobs.requests import searches
from jobs.work import Work

EACH = 4  # requests a scene
PAGE = 10
TOLERANCE = 1e-4  # of the scores, relatively: other machines add up in another order

Golden = dict[str, Any]


def texts(work: Work) -> list[str]:
    """The queries to ask: graded ones, else the most frequent of the events, else titles."""
    if work.has("queries"):
        found = read(work.data, "queries", ["query_id", "query"]).column("query").to_pylist()
    else:
        found = [text for text, _ in Counter(_typed(work)).most_common(EACH)]
    if not found:
        titles = Generation.open(work.draft, check=False).items.titles
        found = [title for title in titles.to_pylist() if title and title.strip()]
    tidy = list(dict.fromkeys(" ".join(text.split()) for text in found if text and text.strip()))
    return [tidy[len(tidy) * i // EACH] for i in range(min(EACH, len(tidy)))]


def _typed(work: Work) -> list[str]:
    if not work.has("events"):
        return []
    typed = events.read(work).where((F.col("query") != "") & (F.col("timestamp") < work.until))
    counts = typed.groupBy("query").count().orderBy(F.desc("count"), "query").limit(EACH)
    return [row["query"] for row in counts.collect() for _ in range(row["count"])]


def people(generation: Generation) -> list[str]:
    """Users with much, with middling and with little history, and one that nobody knows."""
    if not generation.has("users") or "times" not in generation.users.table.column_names:
        return [""]
    lengths = pc.list_value_length(generation.users.table.column("times"))
    sizes = pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False)
    order = np.argsort(-sizes, kind="stable")[: int(np.count_nonzero(sizes))]
    places = [order[len(order) * i // (EACH - 1)] for i in range(min(EACH - 1, len(order)))]
    return [*generation.users.item_ids(np.array(places, np.int64)), ""]


def asks(work: Work, generation: Generation) -> Iterator[Golden]:
    """What is asked, scene by scene."""
    items = generation.items
    spread = [len(items) * i // EACH for i in range(min(EACH, len(items)))]
    for name, scene in work.config.scenes.items():
        blank: Golden = {"text": "", "user_id": "", "item_id": ""}
        if name == "similar":
            chosen = [{**blank, "item_id": item} for item in items.item_ids(np.array(spread, int))]
        elif searches(scene):
            chosen = [{**blank, "text": text} for text in texts(work)]
        else:
            chosen = [{**blank, "user_id": user} for user in people(generation)]
        limit = min(PAGE, scene.rank.keep)
        yield from ({"scene": name, **ask, "limit": limit, "at": work.until} for ask in chosen)


def query(ask: Mapping[str, Any], generation: Generation, config: Config) -> Query:
    """A golden request as the gateway asks it, with the history that the generation knows."""
    row = generation.items.row(ask["item_id"]) if ask["item_id"] else -1
    past = history(generation, ask["user_id"])
    scene = config.scene(ask["scene"])
    excluded = excluded_rows(past, scene, generation.manifest.actions)
    own = np.array([row] if row >= 0 else [], np.int32)
    return Query(
        request_id="golden",
        scene=ask["scene"],
        user_id=ask["user_id"],
        text=ask["text"],
        item=row,
        at=int(ask["at"]),
        limit=int(ask["limit"]),
        history=past,
        user=user_columns(ask["user_id"], generation, config),
        excluded=np.unique(np.concatenate([excluded, own])),
        generation=generation.id,
    )


def history(generation: Generation, user_id: str) -> History:
    """What the user did before the generation's cut."""
    if not user_id or not generation.has("users"):
        return History()
    row = generation.users.row(user_id)
    table = generation.users.table
    if row < 0 or "times" not in table.column_names:
        return History()
    rows, actions, times = (
        table.column(name)[row].as_py() or [] for name in ("item_rows", "actions", "times")
    )
    return History(
        np.asarray(rows, np.int32), np.asarray(actions, np.int8), np.asarray(times, np.int64)
    )


def page(ask: Mapping[str, Any], generation: Generation, funnels: Mapping[str, Pipeline]) -> Golden:
    """The request with the page that the funnel gives."""
    found = funnels[ask["scene"]].run(query(ask, generation, generation.config), Candidates.empty())
    ids = generation.items.item_ids(found.rows)
    return {**ask, "item_ids": ids, "scores": [round(float(score), 6) for score in found.scores]}


def verified(generation: Generation, golden: Sequence[Mapping[str, Any]]) -> int:
    """Asks again and compares. Raises `BadGeneration` naming the request that differs."""
    funnels = offline(generation, generation.config)
    for ask in golden:
        again = page(ask, generation, funnels)
        same = again["item_ids"] == ask["item_ids"]
        if not same or not np.allclose(again["scores"], ask["scores"], TOLERANCE, TOLERANCE):
            asked = ask["text"] or ask["user_id"] or ask["item_id"] or "nobody"
            raise BadGeneration(
                f"{generation.path} answers the golden request {ask['scene']} '{asked}' with "
                f"{again['item_ids'][:5]}, expected {list(ask['item_ids'])[:5]}: build again with "
                "--force; if it stays, a stage's answers depend on more than its query"
            )
    return len(golden)


def path(work: Work) -> Path:
    return work.root / "golden.json"


def run(work: Work) -> dict[str, Any]:
    generation = Generation.open(work.draft, check=False)
    funnels = offline(generation, generation.config)
    golden = [page(ask, generation, funnels) for ask in asks(work, generation)]
    path(work).write_text(json.dumps(golden, indent=1))
    return {"requests": len(golden), "items": sum(len(entry["item_ids"]) for entry in golden)}


if __name__ == "__main__":
    command(run, __doc__)
