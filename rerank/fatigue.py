"""
Fatigue: what a user was shown and did not want loses some of its value, less the longer ago it was;
and is left out once it was shown too often.

    value · keep ^ Σ 2^(−age / half-life)     over the times it was shown since the user wanted it
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from funnel.config import Fatigue as Settings
from funnel.types import Array, Query

HOUR_MS = 3_600_000


@dataclass(frozen=True)
class Fatigue:
    """`positive(actions)` (h,) says which actions of the history say that an item was wanted."""

    settings: Settings
    positive: Callable[[Array], Array]

    def shown(self, query: Query, rows: Array) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """How often each of the rows was shown since it was wanted, and that with decay."""
        seen = np.asarray(query.live.get("shown.rows", ()), np.int64)
        times = np.asarray(query.live.get("shown.times", ()), np.int64)
        history = query.history
        wanted = self.positive(history.actions)
        last = np.full(len(seen), -1, np.int64)
        if len(seen) and wanted.any():
            same = seen[:, None] == history.rows[None, wanted]
            last = np.where(same, history.times[None, wanted], -1).max(1)
        counts = (seen >= 0) & (times <= query.at) & (times > last)
        at = seen[counts][:, None] == np.asarray(rows)[None, :]  # (shown, n): a page's worth
        ages = (query.at - times[counts]) / HOUR_MS
        decay = np.exp2(-ages / self.settings.half_life_hours)
        return at.sum(0), decay @ at

    def factor(self, query: Query, rows: Array) -> NDArray[np.float64]:
        """(n,) in (0, 1]."""
        found: NDArray[np.float64] = self.settings.keep ** self.shown(query, rows)[1]
        return found

    def tired(self, query: Query, rows: Array) -> NDArray[np.bool_]:
        """(n,) what was shown too often."""
        if not self.settings.most:
            return np.zeros(len(rows), bool)
        found: NDArray[np.bool_] = self.shown(query, rows)[0] >= self.settings.most
        return found
