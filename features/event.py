"""
Events as they come in: who did what to which item, when; and what is wrong with one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from hashlib import blake2b, sha256
from typing import Any

SKEW_MS = 5 * 60_000  # clocks of clients run ahead; further than this is a mistake
EARLIEST_MS = 631_152_000_000  # 1990-01-01
ID_BYTES = 1 << 10
TEXT_BYTES = 10 << 10
LARGEST_VALUE = 1e12


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that a user did. `timestamp` is epoch ms; an empty `event_id` is made from the
    other fields by `identified`."""

    user_id: str
    item_id: str
    action: str
    timestamp: int
    event_id: str = ""
    session_id: str = ""
    request_id: str = ""
    scene: str = ""
    query: str = ""
    position: int | None = None  # from 1
    value: float | None = None


@dataclass(frozen=True, slots=True)
class UserHistory:
    """A user's newest actions, oldest first: three columns of one length; and the user's decayed
    counters (`features.fold.user_names`) as of when it was read, where they are known."""

    item_ids: Sequence[str] = ()
    actions: Sequence[str] = ()
    times: Sequence[int] = ()  # epoch ms
    counters: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.item_ids)


FORGOTTEN = "forgotten"  # the stream of the store that says who was deleted
NAMES = tuple(column.name for column in fields(Event))
_IDS = ("event_id", "user_id", "item_id", "session_id", "request_id")


def user_digest(user_id: str) -> str:
    """SHA-256 in hexadecimal, as Spark's `sha2(user_id, 256)`: who is forgotten is not named."""
    return sha256(user_id.encode("utf-8", "surrogatepass")).hexdigest()


def identified(event: Event) -> Event:
    """The event with an id: the same fields always get the same one, so sending twice is safe."""
    if event.event_id:
        return event
    parts = [getattr(event, name) for name in NAMES if name != "event_id"]
    digest = blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=16)
    return replace(event, event_id=digest.hexdigest())


def problem(event: Event, actions: Collection[str], now: int) -> str:
    """Why the event is refused, naming the value; empty when nothing is wrong with it.

    `actions` are the names that the config knows, `now` is epoch ms.
    """
    return _bad_text(event) or _bad_action(event, actions) or _bad_number(event, now)


def _bad_text(event: Event) -> str:
    for name in NAMES:
        if name in ("timestamp", "position", "value"):
            continue
        value: Any = getattr(event, name)
        if not isinstance(value, str):
            return f"{name} must be a string, not {type(value).__name__}"
        if name in ("user_id", "item_id") and not value:
            return f"{name} is empty"
        most = ID_BYTES if name in _IDS else TEXT_BYTES
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            return f"{name} is not valid Unicode"
        if size > most:
            return f"{name} has {size:,} bytes; at most {most:,} are taken"
    return ""


def _bad_action(event: Event, actions: Collection[str]) -> str:
    if event.action in actions:
        return ""
    return f"unknown action '{event.action[:50]}'; known: {', '.join(actions)}"


def _bad_number(event: Event, now: int) -> str:
    time: Any = event.timestamp
    if not isinstance(time, int) or isinstance(time, bool):
        return f"timestamp must be epoch milliseconds, not {type(time).__name__}"
    if time > now + SKEW_MS:
        return f"timestamp {time} lies {(time - now) / 1e3:,.0f} s in the future"
    if time < EARLIEST_MS:
        return f"timestamp {time} lies before 1990; it is epoch milliseconds"
    position: Any = event.position
    if position is not None and (
        not isinstance(position, int) or isinstance(position, bool) or not 0 <= position < 1 << 31
    ):
        return f"position {str(position)[:50]} is not a whole number from 0"
    value: Any = event.value
    if value is None:
        return ""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return f"value must be a number, not {type(value).__name__}"
    if not math.isfinite(value) or abs(value) > LARGEST_VALUE:
        return f"value {value} is not a finite number within ±{LARGEST_VALUE:g}"
    return ""
