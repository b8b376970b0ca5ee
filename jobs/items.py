"""
The catalogue: items sorted by id, with the attributes that stages use as arrays.

Folds what was upserted and deleted meanwhile (funnel.changes) into the items of the data set.
Writes items/ into both drafts, and tables/item_rows (item_id, row) for the jobs that follow. Also
begins the drafts: their manifests say what the build may know.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.tokens import write_tokens
from funnel.catalogue import write_catalogue
from funnel.changes import folded
from funnel.dataset import accepted, schema_of
from funnel.generation import Manifest, write_text
from funnel.passages import PARENT
from funnel.roles import ALWAYS, SPONSOR, Roles
from jobs.command import command
from jobs.fresh import fresh, mirrored
from jobs.tables import arrow_types, load
from jobs.work import Work

FOLDED = "folded.json"  # in items/: how far in the catalogue's log they are


def roles(work: Work) -> Roles:
    """What the columns of this data set are for. Raises `BadData` where the config misnames one."""
    schemas = {
        name: schema_of(accepted(work.data, name)) for name in ("items", "users") if work.has(name)
    }
    return Roles.of(work.config.data, schemas["items"], schemas.get("users"))


def attributes(columns: Sequence[str], roles: Roles) -> tuple[tuple[str, ...], ...]:
    """The columns that become codes, lists of codes, and numbers."""
    key = (roles.product_key,) if roles.product_key else ()
    named = (name for name in (PARENT, SPONSOR) if name in columns)
    always = (name for name in ALWAYS if name in columns)
    return (
        tuple(dict.fromkeys((*roles.categorical, *key, *named))),
        roles.multi,
        tuple(dict.fromkeys((*roles.numeric, *always))),
    )


def begin(work: Work) -> None:
    """The drafts' manifests: with them a draft opens as a generation."""
    for draft, cut in work.drafts:
        (draft / "manifest.json").unlink(missing_ok=True)
        Manifest(
            id="draft",
            until=cut,
            past=work.past,
            actions=work.config.all_actions,
            config=work.config.model_dump(mode="json"),
        ).write(draft)


def run(work: Work) -> dict[str, Any]:
    begin(work)
    known = roles(work)
    frame = load(work.spark, work.data, "items")
    items = frame.orderBy("item_id").toArrow().cast(pa.schema(list(arrow_types(frame).items())))
    found = folded(items, work.config.log.dir, work.config.data.items_at)
    items = found.items
    target = fresh(work.draft / "items")
    categorical, multi, numeric = attributes(items.column_names, known)
    write_catalogue(target, items, categorical, multi, numeric)
    write_tokens(target, items.column("title").to_pylist())
    write_text(target / FOLDED, json.dumps({"position": found.position}))
    mirrored(target, work.past_draft / "items")
    rows = pa.table(
        {"item_id": items.column("item_id"), "row": pa.array(np.arange(len(items), dtype=np.int32))}
    )
    pq.write_table(rows, fresh(work.tables / "item_rows") / "part-0.parquet", compression="zstd")
    changed = {"upserted": found.upserted, "deleted": found.deleted}
    return {"items": len(items), **{name: n for name, n in changed.items() if n}}


def position(work: Work) -> str:
    """How far in the catalogue's log the draft's items are."""
    return str(json.loads((work.draft / "items" / FOLDED).read_text())["position"])


if __name__ == "__main__":
    command(run, __doc__)
