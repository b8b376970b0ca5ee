"""
Quotas: at most so many of one brand (category, seller …) among so many places in a row.

A hard rule: the next place goes to the best item that keeps every quota, and where no item does the
page ends. Items without the attribute are bound by nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from funnel.types import Array, Candidates, Query

Codes = Callable[[Array], Array]  # rows (n,) -> (n,) codes, -1 for none


@dataclass(frozen=True)
class Quota:
    codes: Codes
    most: int
    among: int  # places in a row


@dataclass(frozen=True)
class Quotas:
    """Keeps the order that comes in, but for items that would break a quota: they move down."""

    quotas: Mapping[str, Quota]

    def select(self, query: Query, candidates: Candidates) -> Array:
        values = {
            name: quota.codes(candidates.rows).tolist() for name, quota in self.quotas.items()
        }
        left = list(range(len(candidates)))
        picked: list[int] = []
        while left and len(picked) < query.limit:  # a page of twenty out of tens
            full = {name: self._full(name, values[name], picked) for name in self.quotas}
            fits = (i for i in left if all(values[n][i] not in full[n] for n in full))
            chosen = next(fits, None)
            if chosen is None:
                break
            picked.append(chosen)
            left.remove(chosen)
        return np.array(picked, np.intp)

    def _full(self, name: str, values: list[int], picked: list[int]) -> set[int]:
        """The values that the next place may not have."""
        quota = self.quotas[name]
        recent = picked[-(quota.among - 1) :] if quota.among > 1 else []
        counts = Counter(values[i] for i in recent if values[i] >= 0)
        return {value for value, count in counts.items() if count >= quota.most}
