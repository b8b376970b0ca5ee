"""What a hit says of its passage: where it stands in the document, and what stands around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from funnel.catalogue import Catalogue
from funnel.page import Passage
from funnel.types import Rows, taken

PARENT = "parent_id"
SHOWN = ("item_id", PARENT, "title", "description", "start", "end")


def passages(rows: Rows, items: Catalogue, neighbours: int) -> list[Passage | None]:
    """One for each item, None where it is no part of a document.

    A passage's text is its `description`, its title where it has none; `start` and `end`, where the
    items have these columns, count characters of the document. Up to `neighbours` passages before
    and after it come along, in the order of `start`, then of the item id.
    """
    if not items.has("codes", PARENT) or not len(rows):
        return [None] * len(rows)
    with items.still():
        codes, alive = items.codes(PARENT), items.alive
        own = taken(codes, rows, -1)
        parts = np.unique(rows[own >= 0])
        if neighbours and len(parts):
            wanted = np.zeros(int(codes.max()) + 2, bool)
            wanted[own[own >= 0]] = True
            there = wanted[codes] if alive is None else wanted[codes] & alive[: len(codes)]
            parts = np.union1d(parts, np.flatnonzero(there))
        table, documents = items.take(parts), taken(codes, parts, -1)
    kept = [name for name in SHOWN if name in table.column_names]
    known = [_passage(part) for part in table.select(kept).to_pylist()]
    order = sorted(range(len(parts)), key=lambda n: (documents[n], *_place(known[n])))
    place = {int(parts[n]): at for at, n in enumerate(order)}
    line = [known[n] for n in order]
    return [
        _among(line, place[int(row)], neighbours) if document >= 0 else None
        for row, document in zip(rows, own, strict=True)
    ]


def _among(line: list[Passage], at: int, neighbours: int) -> Passage:
    """The passage at a place of the line, with those around it that are of its document."""
    own = line[at]
    before = [p for p in line[max(at - neighbours, 0) : at] if p.parent_id == own.parent_id]
    after = [p for p in line[at + 1 : at + 1 + neighbours] if p.parent_id == own.parent_id]
    return Passage(
        own.passage_id, own.parent_id, own.start, own.end, own.text, tuple(before), tuple(after)
    )


def _passage(item: Mapping[str, Any]) -> Passage:
    return Passage(
        item["item_id"],
        item[PARENT] or "",
        _number(item.get("start")),
        _number(item.get("end")),
        item.get("description") or item["title"],
    )


def _place(passage: Passage) -> tuple[float, str]:
    return (np.inf if passage.start is None else float(passage.start)), passage.passage_id


def _number(value: object) -> int | None:
    """An offset, None where the column holds anything else."""
    whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    return int(value) if whole else None  # type: ignore[call-overload]


def representatives(rows: Rows, items: Catalogue) -> Rows:
    """(k,) for each item the lowest row of its document, its own where it is part of none."""
    if not items.has("codes", PARENT):
        return rows
    codes = items.codes(PARENT)
    lowest = np.full(int(codes.max(initial=-1)) + 1, len(codes), np.int64)
    parts = np.flatnonzero(codes >= 0)
    np.minimum.at(lowest, codes[parts], parts)
    own = taken(codes, rows, -1)
    parent = lowest[own] if len(lowest) else rows
    return np.where(own >= 0, parent, rows).astype(np.int32)
