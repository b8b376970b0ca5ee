"""
The users and their attributes, sorted by id: those of the users table, without one those of the
events before the cut.

Writes users/ into both drafts.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from pyspark.sql import functions as F

from funnel.catalogue import write_catalogue
from jobs import events
from jobs.command import command
from jobs.fresh import fresh, mirrored, removed
from jobs.items import roles
from jobs.tables import arrow_types, load
from jobs.work import Work


def run(work: Work) -> dict[str, Any]:
    if work.has("users"):
        frame = load(work.spark, work.data, "users")
    elif work.has("events"):
        before = events.read(work).where(F.col("timestamp") < work.until)
        frame = before.select("user_id").distinct()
    else:
        for draft, _ in work.drafts:
            removed(draft / "users")
        return {}
    users = frame.orderBy("user_id").toArrow().cast(pa.schema(list(arrow_types(frame).items())))
    target = fresh(work.draft / "users")
    write_catalogue(target, users, roles(work).user_categorical, (), (), key="user_id")
    mirrored(target, work.past_draft / "users")
    return {"users": len(users)}


if __name__ == "__main__":
    command(run, __doc__)
