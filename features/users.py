"""
A user's decayed counters in one process, from a generation forward: for work without a live store.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from features.fold import counted, longest, span_ms, user_names
from funnel.catalogue import Catalogue
from funnel.config import Config
from funnel.generation import Generation
from funnel.types import Array


class UserCounts:
    """`user.<action>.<days>d` of every user; events come in the order of their times.

    A generation has users/ with counts list<double>: of the actions of `features.fold.counted` as
    of its cut.
    """

    def __init__(self, generation: Generation, config: Config):
        users = generation.users if generation.has("users") else None
        if users is not None and "counts" not in users.table.column_names:
            users = None
        self._set(config, generation.manifest.actions, generation.manifest.until, users)

    @staticmethod
    def empty(config: Config, at: int) -> UserCounts:
        """Of nobody, as of `at`."""
        counts = UserCounts.__new__(UserCounts)
        counts._set(config, config.all_actions, at, None)
        return counts

    def _set(
        self, config: Config, codes: Sequence[str], until: int, users: Catalogue | None
    ) -> None:
        self.names, self._span = user_names(config), span_ms(longest(config))
        self._places = {codes.index(name): place for place, name in enumerate(counted(config))}
        self._users, self._until = users, until
        self._counts: dict[str, tuple[int, NDArray[np.float64]]] = {}

    def add(self, user_id: str, action: int, time: int) -> None:
        """Counts one event: an action's code, epoch ms."""
        if action in self._places:
            counts = self._at(user_id, time)
            counts[self._places[action]] += 1.0
            self._counts[user_id] = time, counts

    def columns(self, user_id: str, at: int) -> dict[str, Array]:
        """One number a counter, as of `at`."""
        counts = self._at(user_id, at).astype(np.float32)
        return {name: np.asarray(count) for name, count in zip(self.names, counts, strict=True)}

    def _at(self, user_id: str, at: int) -> NDArray[np.float64]:
        if user_id not in self._counts:
            self._counts[user_id] = self._until, self._known(user_id)
        time, counts = self._counts[user_id]
        faded: NDArray[np.float64] = counts * 2.0 ** (min(time - at, 0) / self._span)
        return faded

    def _known(self, user_id: str) -> NDArray[np.float64]:
        """As of the cut."""
        found = np.zeros(len(self.names))
        row = self._users.row(user_id) if self._users is not None else -1
        if self._users is not None and row >= 0:
            known = self._users.table.column("counts")[row].as_py()
            found[: len(known)] = known
        return found
