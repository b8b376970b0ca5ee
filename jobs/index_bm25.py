"""
The lexical index: every item's searchable columns in Tantivy, for both drafts alike.

Writes bm25/: the index and funnel.json (fields with boosts, language, number of items).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from funnel.catalogue import Catalogue
from jobs.command import command
from jobs.fresh import mirrored, removed
from jobs.work import Work
from recall.bm25 import write_index


def run(work: Work) -> Mapping[str, Any]:
    target = removed(work.draft / "bm25")
    items = Catalogue(work.draft / "items")
    some = write_index(target, items, work.config)
    mirrored(target, work.past_draft / "bm25")
    return {"items": len(items), "with_text": some}


if __name__ == "__main__":
    command(run, __doc__)
