"""
The live store on a cluster, where one step of the server may touch the keys of one slot only.

A user is one step: history, digests and counters, and an outbox beside them with what was accepted.
Then the outbox goes into the log and the items' counters, and is emptied. Nothing that was
acknowledged can be lost: who comes next to the user, or sends again after an `Unavailable`, finds
what is left in the outbox and passes it on. What was passed on twice, after a failure in between,
counts twice in the items' counters until the next generation; the archive has every event id once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from features import packed
from features.event import Event
from features.store import LOG, Store, _item, _key, _keys, _user

OUTBOX = ":out"


class Clustered(Store):
    """A `Store` at a url such as redis+cluster://host:port; any node will do."""

    seed_batch = 1

    def _track(self, events: Sequence[Event]) -> bytes:
        of_user: dict[str, list[int]] = {}
        for place, event in enumerate(events):
            of_user.setdefault(event.user_id, []).append(place)
        said = bytearray(len(events))
        for user, places in of_user.items():
            _, _, args = self._arguments([events[place] for place in places])
            answer = self._run([_user(user) + OUTBOX, *_keys(user)], args)
            for place, letter in zip(places, answer, strict=True):
                said[place] = letter
        self._pass_on(of_user)
        return bytes(said)

    def _pass_on(self, users: Iterable[str]) -> None:
        """Empties the users' outboxes into the log and the items' counters."""
        waiting = {user: self.entries(_user(user) + OUTBOX, count=10_000) for user in users}
        counted: dict[str, list[Any]] = {}
        for entries in waiting.values():
            for _, fields in entries:
                event = packed.event_of(fields[b"event"])
                if place := self._places.get(event.action, 0):
                    counted.setdefault(event.item_id, []).extend((event.timestamp, place))
                self.append(LOG, fields, self.log_length)
        head = ["tally", self.keep_s, len(self.counted), self._layout, len(self.spans), *self.spans]
        for item, args in counted.items():
            self._run([_key(_item(item))], [*head, *args])
        for user, entries in waiting.items():
            if entries:
                self._empty(_user(user) + OUTBOX, [position for position, _ in entries])

    def _empty(self, box: str, positions: Sequence[str]) -> None:
        self.ask(lambda client: client.xdel(box, *positions), patient=True)

    def _values(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        if not keys:
            return []
        found: Sequence[bytes | None] = self.ask(lambda client: client.mget_nonatomic(keys))
        return found
