"""
Who wanted what, both ways: what the channel `user_cf` finds people alike in.

Writes user_cf/ into both drafts: user_ptr.npy int64 (u + 1) and user_rows.npy int32, the items of
each user of two or more, newest first; item_ptr.npy int64 (n + 1) and item_users.npy int32, the
newest such users of each item; fame.npy int32 (n) how many wanted it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from funnel.catalogue import Catalogue
from jobs import wants
from jobs.command import command
from jobs.fresh import fresh, removed
from jobs.wants import Wants
from jobs.work import Work

USERS = 2_000  # newest of an item


def write(target: Path, found: Wants) -> int:
    """Writes the new directory `target`; how many users there are. Nothing where there are none."""
    removed(target)
    sizes = np.bincount(found.users)
    kept = sizes[found.users] > 1 if len(sizes) else np.zeros(0, bool)
    if not kept.any():
        return 0
    owners, rows, times = found.users[kept], found.rows[kept], found.times[kept]
    number = np.cumsum(sizes > 1) - 1
    owners = number[owners].astype(np.int32)
    by_user = np.lexsort((rows, -times, owners))
    by_item = np.lexsort((owners, -times, rows))
    begin = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=found.items))])
    held = rows[by_item]
    new = by_item[np.arange(len(held)) - begin[held] < USERS]
    fresh(target)
    np.save(target / "user_ptr.npy", np.concatenate([[0], np.cumsum(np.bincount(owners))]))
    np.save(target / "user_rows.npy", rows[by_user])
    counts = np.bincount(rows[new], minlength=found.items)
    np.save(target / "item_ptr.npy", np.concatenate([[0], np.cumsum(counts)]))
    np.save(target / "item_users.npy", owners[new])
    fame = np.maximum(np.bincount(found.rows, minlength=found.items), 1)
    np.save(target / "fame.npy", fame.astype(np.int32))
    return int(number[-1]) + 1


def run(work: Work) -> Mapping[str, Any]:
    total = 0
    for draft, cut in work.drafts:
        removed(draft / "user_cf")
        if work.has("events"):
            found = wants.read(work, cut, len(Catalogue(draft / "items")))
            total = write(draft / "user_cf", found)
    return {"users": total}


if __name__ == "__main__":
    command(run, __doc__)
