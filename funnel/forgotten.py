"""
Users who asked to be forgotten: what a log directory knows of them goes, for good.

The live store forgets at once and leaves a mark in a stream; the archive copies the marks to
`forgotten/`: a digest of the user id, and the time up to which nothing of the user may be read.
Jobs, replay and evaluation leave such events out as they read; `funnel forget` rewrites the files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.event import FORGOTTEN, user_digest
from funnel.log import Archive
from funnel.types import Array

FOLDER = "forgotten"
MARKS = pa.schema([("user", pa.string()), ("until", pa.int64())])


class Marked(Protocol):
    """Where the marks come from: the live store."""

    def entries(
        self, stream: str, after: str = "0", count: int = 100, block_ms: int = 0
    ) -> list[tuple[str, dict[bytes, bytes]]]: ...


class ForgottenArchive(Archive):
    """Copies the marks to `forgotten/`, each once."""

    def __init__(self, path: str | Path, source: Marked, seconds: float = 5.0):
        self.source = source
        super().__init__(Path(path) / FOLDER, seconds)

    def copied(self) -> int:
        found = self.source.entries(FORGOTTEN, self.position, 1000)
        if found:
            users = [fields[b"user"].decode() for _, fields in found]
            until = [int(fields[b"until"]) for _, fields in found]
            self.put(found[-1][0], pa.table({"user": users, "until": until}, schema=MARKS))
        return len(found)


def marks(path: Path) -> dict[str, int]:
    """The digest of every forgotten user of a log directory, and up to when (epoch ms)."""
    found: dict[str, int] = {}
    for file in sorted((path / FOLDER).glob("*.parquet")):
        table = pq.read_table(file)
        for user, until in zip(*(table.column(n).to_pylist() for n in MARKS.names), strict=True):
            found[user] = max(until, found.get(user, 0))
    return found


def remaining(users: pa.ChunkedArray, times: pa.ChunkedArray, marks: dict[str, int]) -> Array:
    """(n,) False for what belongs to a forgotten user."""
    encoded = users.combine_chunks().dictionary_encode()
    until = [
        marks.get(user_digest(user), -1) if user else -1 for user in encoded.dictionary.to_pylist()
    ]
    codes = pc.fill_null(encoded.indices, len(until)).to_numpy(zero_copy_only=False)
    kept: Array = times.to_numpy() > np.array([*until, -1], np.int64)[codes]
    return kept


def forget(path: Path, progress: Callable[[str], None] = lambda text: None) -> dict[str, int]:
    """Rewrites a log directory's files without what belongs to forgotten users: rows that went, by
    folder. A file is replaced whole, so a reader or a crash meets the old or the new one."""
    known = marks(path)
    gone = {"events": 0, "requests": 0, "candidates": 0}
    if not known:
        return gone
    for file in _files(path / "events"):
        progress(f"forget: {file.name}")
        table = pq.read_table(file)
        kept = remaining(table.column("user_id"), table.column("timestamp"), known)
        gone["events"] += _rewritten(file, table, kept)
    lost: set[str] = set()
    for file in _files(path / "requests"):
        progress(f"forget: {file.name}")
        table = pq.read_table(file)
        kept = remaining(table.column("user_id"), table.column("at"), known)
        lost |= set(table.filter(pa.array(~kept)).column("request_id").to_pylist())
        gone["requests"] += _rewritten(file, table, kept)
    for file in _files(path / "candidates") if lost else []:
        progress(f"forget: {file.name}")
        table = pq.read_table(file)
        mine = pc.is_in(table.column("request_id"), pa.array(sorted(lost)))
        kept = ~mine.to_numpy(zero_copy_only=False).astype(bool)
        gone["candidates"] += _rewritten(file, table, kept)
    return gone


def _files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.parquet"))


def _rewritten(file: Path, table: pa.Table, kept: Array) -> int:
    """How many rows went."""
    gone = int(len(kept) - np.count_nonzero(kept))
    if gone:
        fresh = file.with_name(f".{file.name}")
        pq.write_table(table.filter(pa.array(kept)), fresh, compression="zstd")
        fresh.replace(file)
    return gone
