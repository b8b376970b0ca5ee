"""
The lexical index of every item's searchable columns, for both drafts alike.

Writes bm25/: the arrays of recall/postings.py, funnel.json (columns with boosts, language) and the
file of synonyms.
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
