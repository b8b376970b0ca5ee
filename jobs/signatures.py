"""
MinHash signatures of every item's title and description, by which rerank finds near-duplicates.

Writes dedup/signatures.npy (n, 128) uint8 into both drafts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from funnel.catalogue import Catalogue
from jobs.command import command
from jobs.fresh import fresh, mirrored
from jobs.work import Work
from recall.text import texts
from rerank.signatures import signatures


def run(work: Work) -> Mapping[str, Any]:
    items = Catalogue(work.draft / "items").table
    names = [name for name in ("title", "description") if name in items.column_names]
    columns = [texts(items.column(name)) for name in names]
    found = signatures([" ".join(parts) for parts in zip(*columns, strict=True)])
    target = fresh(work.draft / "dedup")
    np.save(target / "signatures.npy", found)
    mirrored(target, work.past_draft / "dedup")
    return {"items": len(found), "with_words": int(found.any(1).sum())}


if __name__ == "__main__":
    command(run, __doc__)
