"""
The archive of the catalogue's log: every upsert and delete, in Parquet, so that a build can fold
them into the items of the data set long after the live log has let them go.

    catalogue/<position>.parquet    one row an item, in the order of the log: its columns, and
                                    `log.position`, `log.deleted`

The truth about items is the data set's items/ with these changes over it, in their order. A
generation says how far it has folded them (`Manifest.catalog_position`), and the processes that
serve it go on in the live log from there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from funnel.errors import BadData
from funnel.log import Archive, positions
from funnel.overlay import Change, fitted

if TYPE_CHECKING:
    from funnel.live import CatalogueLog, Entry

log = logging.getLogger(__name__)

FOLDER = "catalogue"
POSITION, DELETED = "log.position", "log.deleted"
ENTRIES = 500  # in a file


class ChangeArchive(Archive):
    """Copies the catalogue's log to `catalogue/`, each entry once."""

    def __init__(self, path: str | Path, source: CatalogueLog, seconds: float = 5.0):
        self.source = source
        self._checked = False
        super().__init__(Path(path) / FOLDER, seconds)

    def copied(self) -> int:
        if not self._checked and self.source.trimmed(self.position):
            log.error(
                "changes of items after %s left the live log before they were archived: the next "
                "build will not have them; raise store.catalogue_length",
                self.position,
            )
        self._checked = True
        entries = self.source.read(self.position, ENTRIES)
        if entries:
            self.put(entries[-1].position, table(entries))
        return len(entries)


def table(entries: Sequence[Entry]) -> pa.Table:
    """One row an item: its columns, or its id alone where it was deleted."""
    parts = [part for entry in entries for part in _rows(entry.position, entry.change)]
    return pa.concat_tables(parts, promote_options="permissive")


def _rows(position: str, change: Change) -> Iterator[pa.Table]:
    gone = pa.table({"item_id": pa.array(change.deleted, pa.string())})
    for items, deleted in ((change.items, False), (gone, True)):
        if items is not None and len(items):
            marks = {POSITION: [position] * len(items), DELETED: [deleted] * len(items)}
            for name, values in marks.items():
                items = items.append_column(name, pa.array(values))
            yield items


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """Items with all changes up to a position of the log in them: how many were put in, new or
    changed, and how many are gone."""

    items: pa.Table
    position: str
    upserted: int = 0
    deleted: int = 0


def end(path: str | Path, since: int = 0) -> str:
    """The position that a fold of everything in the archive of a log directory reaches."""
    last = max([*_files(path, since), _before(since)])
    return "-".join(map(str, last)) if any(last) else "0"


def folded(items: pa.Table, path: str | Path, since: int = 0) -> Folded:
    """`items`, sorted by item_id, as they are after the archived changes; sorted again.

    Changes that arrived before `since` (epoch ms) are in `items` already. The columns stay those of
    `items`. Raises `BadData` for a file of the archive that cannot be read.
    """
    position = end(path, since)
    changed: list[pa.Table] = []
    gone: list[pa.Array] = []
    for name in _files(path, since):
        found = _read(Path(path) / FOLDER / f"{name[0]}-{name[1]}.parquet", since)
        changed.append(fitted(found.drop_columns([POSITION, DELETED]), items.schema))
        gone.append(found.column(DELETED))
    if not changed:
        return Folded(items, position)
    every = pa.concat_tables(changed).combine_chunks()
    deleted = pa.chunked_array([chunk for column in gone for chunk in column.chunks], pa.bool_())
    last = _last(every.column("item_id"))
    every, here = every.take(last), pc.invert(deleted.take(last))
    known = pc.is_in(items.column("item_id"), value_set=every.column("item_id"))
    kept, fresh = items.filter(pc.invert(known)), every.filter(here)
    both = pa.concat_tables([kept, fresh]).combine_chunks()
    both = both.take(pc.sort_indices(both.column("item_id")))
    again = pc.sum(pc.is_in(fresh.column("item_id"), value_set=items.column("item_id"))).as_py()
    return Folded(both, position, len(fresh), len(items) - len(kept) - (again or 0))


def archived(path: str | Path, after: str = "0") -> Iterator[Change]:
    """The archived changes after a position, in their order: a live catalogue that applies them has
    the rows that every process of that time had."""
    start = tuple(map(int, f"{after}-0".split("-")[:2]))
    for name in positions(Path(path) / FOLDER):
        if name <= start:
            continue
        found = _read(Path(path) / FOLDER / f"{name[0]}-{name[1]}.parquet", 0)
        later = [tuple(map(int, p.split("-"))) > start for p in found.column(POSITION).to_pylist()]
        found = found.filter(pa.array(later, pa.bool_()))
        gone = found.column(DELETED).to_numpy()
        edges = (np.flatnonzero(gone[1:] != gone[:-1]) + 1).tolist()
        for first, stop in pairwise([0, *edges, len(found)]):
            part = found.slice(first, stop - first)
            if gone[first]:
                yield Change(None, tuple(part.column("item_id").to_pylist()))
            else:
                yield Change(part.drop_columns([POSITION, DELETED]))


def _before(since: int) -> tuple[int, int]:
    """The last position before a moment."""
    return (since - 1, (1 << 64) - 1) if since else (0, 0)


def _files(path: str | Path, since: int) -> list[tuple[int, ...]]:
    return (
        [name for name in positions(Path(path) / FOLDER) if name > _before(since)] if path else []
    )


def _read(file: Path, since: int) -> pa.Table:
    try:
        found = pq.read_table(file)
        arrived = pc.list_element(pc.split_pattern(found.column(POSITION), "-"), 0)
        return found.filter(pc.greater_equal(arrived.cast(pa.int64()), since))
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise BadData(
            f"{file} is not a file of the catalogue's archive ({error}): move it away"
        ) from error


def _last(ids: pa.ChunkedArray) -> pa.Array:
    """The last place of every distinct id."""
    codes = pc.dictionary_encode(ids.combine_chunks()).indices.to_numpy()
    _, first = np.unique(codes[::-1], return_index=True)
    return pa.array(np.sort(len(codes) - 1 - first))
