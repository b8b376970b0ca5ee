"""A generation of items without texts, so that channels of behaviour open as they do in serving."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import harness
from funnel.catalogue import write_catalogue
from funnel.config import Config, parse
from funnel.generation import Generation, Manifest
from funnel.types import Array, History, Query
from recall import OPENERS
from recall.channel import Channel


def config(channels: Iterable[str], table: dict[str, Any] | None = None) -> Config:
    """The defaults, with these channels in the scene `home`."""
    limits = {name: {"limit": 500} for name in channels}
    return parse({**(table or {}), "scenes": {"home": {"recall": {"channels": limits}}}})


def blank(path: Path, items: int, settings: Config) -> Path:
    """A draft in `path` that has rows 0 to items - 1 and nothing else."""
    names = [f"{row:09}" for row in range(items)]
    write_catalogue(path / "items", pa.table({"item_id": names, "title": names}), [], [], [])
    table = settings.model_dump(mode="json")
    actions = settings.all_actions
    Manifest(path.name, until=0, past=0, actions=actions, config=table).write(path)
    return path


def opened(path: Path, name: str, settings: Config) -> Channel:
    """The channel as serving opens it."""
    channel = OPENERS[name](Generation.open(path), settings)
    if channel is None:
        raise ValueError(f"the trainer of {name} made nothing in {path}")
    return channel


def lists(table: pa.Table, name: str) -> tuple[Array, Array]:
    """A column of lists as offsets (k + 1,) from 0 and values."""
    column = table.column(name).combine_chunks()
    offsets = column.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0], column.flatten().to_numpy()


def asked(rows: Array, times: Array, settings: Config) -> Query:
    """What a user who clicked `rows` in this order asks for."""
    click = settings.all_actions.index("click")
    history = History(np.asarray(rows, np.int32), np.full(len(rows), click, np.int8), times)
    return Query(history=history, at=int(times[-1]) + 1 if len(times) else 0)


def sequences(path: Path) -> tuple[Array, Array]:
    """(user, items) or (user, item, pos) as offsets (users + 1,) and items, in order."""
    table = harness.read(path, ["user"])
    if "items" in table.column_names:
        return lists(table, "items")
    table = harness.read(path, ["user", "item", "pos"]).sort_by(
        [("user", "ascending"), ("pos", "ascending")]
    )
    users, rows = table.column("user").to_numpy(), table.column("item").to_numpy()
    head = np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
    return np.append(head, len(users)), rows
