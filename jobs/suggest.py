"""
Suggestions: titles and past queries, for both drafts.

A past query is one that at least `suggest.min_users` different users typed before the cut: what one
person searched for is nobody else's to read. Queries without a user prove nothing and do not count.

Writes suggest/ (recall/suggest.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from funnel.catalogue import Catalogue
from jobs import events
from jobs.command import command
from jobs.fresh import fresh
from jobs.work import Work
from recall.suggest import write_suggest
from recall.text import texts


def typed(found: DataFrame, before: int, users: int) -> DataFrame:
    """query, count: by how many different users each was typed, where enough of them did."""
    said = F.regexp_replace(F.trim(F.lower("query")), r"\s+", " ").alias("query")
    asked = found.where(
        (F.col("timestamp") < before) & (F.col("query") != "") & (F.col("user_id") != "")
    )
    counts = asked.select(said, "user_id").groupBy("query")
    return counts.agg(F.countDistinct("user_id").alias("count")).where(F.col("count") >= users)


def run(work: Work) -> Mapping[str, Any]:
    items, metrics = Catalogue(work.draft / "items"), {}
    titles = texts(items.titles)
    for draft, cut in work.drafts:
        queries: list[tuple[str, int]] = []
        if work.has("events"):
            table = typed(events.read(work), cut, work.config.suggest.min_users).toArrow()
            names = (table.column(name).to_pylist() for name in ("query", "count"))
            queries = sorted(zip(*names, strict=True))
        wanted = np.zeros(len(items))
        if (draft / "popular/rows.npy").exists():
            wanted[np.load(draft / "popular/rows.npy")] = np.load(draft / "popular/scores.npy")
        write_suggest(fresh(draft / "suggest"), titles, np.maximum(wanted, 0), queries)
        metrics["titles"], metrics["queries"] = len(titles), len(queries)
    return metrics


if __name__ == "__main__":
    command(run, __doc__)
