"""
Guaranteed exposure of new items: their values are raised by a factor that a controller holds where
they have their share of all places.

The controller integrates what is missing, page by page: `log factor += gain · (share · k − new)`,
k places of which `new` were new items'. It lives with the store (funnel.moment): all gateways move
one number, and queries carry it as `fresh.boost`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from funnel.config import Fresh as Settings
from funnel.types import Array, Query

DAY_MS = 86_400_000


@dataclass(frozen=True)
class Fresh:
    """`made` gives rows (n,) when they were made, epoch ms, NaN where that is not known."""

    made: Callable[[Array], Array]
    settings: Settings

    def fresh(self, query: Query, rows: Array) -> NDArray[np.bool_]:
        ages = query.at - np.asarray(self.made(rows), np.float64)
        found: NDArray[np.bool_] = (ages >= 0) & (ages <= self.settings.days * DAY_MS)
        return found

    def factor(self, query: Query, rows: Array) -> NDArray[np.float64]:
        boost = float(query.live.get("fresh.boost", 0.0))
        factor = math.exp(min(max(boost, 0.0), math.log(self.settings.most)))
        return np.where(self.fresh(query, rows), factor, 1.0)
