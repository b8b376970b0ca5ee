"""
How the live store keeps things: histories as packed bytes (`store.lua` reads and writes the same
form), events of the log as JSON.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from features.event import NAMES, Event, UserHistory
from funnel.errors import BadData

FORMAT = 2
SHOWN = 200  # characters of a text
HEAD = struct.Struct("<BHd")  # format, entries, the newest one's time
ENTRY = struct.Struct("<dBHH")  # time; lengths of action, item id and event id, which follow


def entry(event: Event) -> bytes:
    """One action of a history."""
    parts = event.action.encode(), event.item_id.encode(), event.event_id.encode()
    return ENTRY.pack(event.timestamp, *map(len, parts)) + b"".join(parts)


def history(events: Sequence[Event]) -> bytes:
    """Actions in the order of (time, event id) as one value."""
    newest = events[-1].timestamp if events else 0
    return HEAD.pack(FORMAT, len(events), newest) + b"".join(map(entry, events))


def unpacked(value: bytes, where: str, most: int) -> UserHistory:
    """The newest `most` actions of the history in `value`; `where` names it in the error of an
    unreadable one."""
    if value[0] != FORMAT:
        raise BadData(
            f"the store has the history of '{where}' in format {value[0]}, this version reads "
            f"{FORMAT}: empty the store and seed it again"
        )
    entries = list(_entries(value))[-most:]
    items, actions, times = zip(*entries, strict=True) if entries else ((), (), ())
    return UserHistory(items, actions, times)


def _entries(value: bytes) -> Iterator[tuple[str, str, int]]:
    at = HEAD.size
    while at < len(value):
        time, action, item, event_id = ENTRY.unpack_from(value, at)
        start = at + ENTRY.size
        middle, stop = start + action, start + action + item
        yield value[middle:stop].decode(), value[start:middle].decode(), int(time)
        at = stop + event_id


def record(event: Event) -> bytes:
    """An event of the log: its fields as JSON, empty ones left out."""
    fields = {name: getattr(event, name) for name in NAMES}
    return json.dumps({k: v for k, v in fields.items() if v not in ("", None)}).encode()


def readable(event: Event) -> bytes:
    """A refused event for people: JSON, whatever its fields hold, long ones cut."""
    found: dict[str, Any] = {}
    for name in NAMES:
        value = getattr(event, name)
        if value not in ("", None):
            plain = isinstance(value, int | float) and value == value and abs(value) < 1e300
            text = str(value)
            short = text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text):,} characters)"
            found[name] = value if plain else short
    return json.dumps(found).encode()


def event_of(record: Any) -> Event:
    return Event(**json.loads(record))
