"""
The values that flow through the funnel: a `Query` and, stage by stage, its `Candidates`.

Candidates are columns, never a list of objects: cutting 2,000 of them is one NumPy call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Rows = NDArray[np.int32]
Floats = NDArray[np.float32]

NO_ITEM = -1
# Columns that rerank adds to a page, where the scene can have such: whether the item is an ad and
# what a click on it costs, its chance of standing there given the items above it, whether it is
# pinned, whether it is new.
AD, PRICE, PROPENSITY, PINNED, FRESH = "ad", "ad.price", "propensity", "rerank.pinned", "rerank.new"
NO_ROWS: Rows = np.empty(0, np.int32)
NO_ROWS.setflags(write=False)


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """What a user did, oldest first: three columns of one length.

    `actions` are codes into the generation's action list (`Generation.actions`). Impressions are
    not part of a history.
    """

    rows: Rows = field(default_factory=lambda: NO_ROWS)  # (h,) int32
    actions: NDArray[np.int8] = field(default_factory=lambda: np.empty(0, np.int8))  # (h,)
    times: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))  # (h,) epoch ms

    def __len__(self) -> int:
        return len(self.rows)

    def last(self, n: int) -> History:
        """The newest n actions, still oldest first."""
        start = max(len(self.rows) - n, 0)
        return History(self.rows[start:], self.actions[start:], self.times[start:])


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition on one attribute.

    `any_of` keeps items whose attribute (or one of its values) is in the list; `low`/`high` are
    inclusive bounds on a numeric attribute. `exclude` turns the condition round. An item without
    the attribute fails a condition and passes an excluded one.
    """

    attribute: str
    any_of: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    exclude: bool = False


@dataclass(frozen=True, slots=True)
class All:
    """Holds where every part does; without parts everywhere."""

    parts: tuple[Predicate, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Holds where one of the parts does; without parts nowhere."""

    parts: tuple[Predicate, ...]


@dataclass(frozen=True, slots=True)
class Not:
    part: Predicate


Predicate = Filter | All | AnyOf | Not


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """One request, with everything a stage may know about it: no stage asks anybody else.

    `at` is the moment of asking in epoch ms, so a replay sees the same moment. `deadline` is an
    instant of this process's `time.monotonic()`; it stays off the wire, where RPC deadlines carry
    it. `user` holds the user's attributes, each a NumPy scalar array or (k,) array. `live` is what
    rerank must know of the moment, in the same form: `shown.rows` and `shown.times` (what the user
    was shown, and when), `page.rows` and `page.above` (what the pages before this one showed, and
    on how many places), `sponsor.codes` and `sponsor.rates` (the share of requests that a sponsor
    takes part in), `fresh.boost` (the logarithm of the factor on new items).
    """

    request_id: str = ""
    scene: str = "home"
    user_id: str = ""
    text: str = ""  # empty for recommendation
    item: int = NO_ITEM  # the row that `similar` asks about
    at: int = 0
    limit: int = 20
    history: History = field(default_factory=History)
    user: Mapping[str, Array] = field(default_factory=dict)
    live: Mapping[str, Array] = field(default_factory=dict)
    filters: tuple[Predicate, ...] = ()  # all must hold
    excluded: Rows = field(default_factory=lambda: NO_ROWS)  # must not be returned
    sort: str = ""  # a numeric attribute, `-` before it: highest first; empty: by relevance
    generation: str = ""
    variants: Mapping[str, str] = field(default_factory=dict)
    trace: int = 0  # 0 counts and times only, 1 keeps every channel's columns
    deadline: float = float("inf")


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What a user may be about to type."""

    text: str
    score: float
    corrected: bool = False  # it does not begin like what was typed, but like what was meant


@dataclass(frozen=True, slots=True)
class Step:
    """What one stage or channel did to one request."""

    name: str  # `recall`, `recall.bm25`, `rank`, ...
    seen: int
    kept: int
    ms: float
    fault: str = ""  # why it was late, missing or replaced; empty when all went well
    notes: tuple[str, ...] = ()  # traced requests: what became of single items


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """n items and what is known about them, column by column.

    `columns` holds each stage's evidence under its name (`recall.bm25`, `prerank`, `p.click`);
    NaN where a channel did not return the item. `steps` says how the candidates came about.
    """

    rows: Rows  # (n,) int32
    scores: Floats  # (n,) float32
    columns: Mapping[str, Array] = field(default_factory=dict)  # name -> (n, ...)
    steps: tuple[Step, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @staticmethod
    def empty() -> Candidates:
        return Candidates(NO_ROWS, np.empty(0, np.float32))

    def take(self, index: Array) -> Candidates:
        """The candidates at `index`, in that order."""
        return Candidates(
            self.rows[index],
            self.scores[index],
            {name: column[index] for name, column in self.columns.items()},
            self.steps,
        )

    def top(self, k: int) -> Candidates:
        """The best k, best first; ties break by row. NaN and infinities sink below any score."""
        return self.take(best(self.scores, self.rows, k))

    def scored(self, scores: Array, name: str) -> Candidates:
        """The same items with new scores, kept as a column `name` too."""
        scores = np.asarray(scores, np.float32)
        return replace(self, scores=scores, columns={**self.columns, name: scores})

    def with_columns(self, columns: Mapping[str, Array]) -> Candidates:
        return replace(self, columns={**self.columns, **columns})

    def step(self, *steps: Step) -> Candidates:
        return replace(self, steps=(*self.steps, *steps))

    @property
    def faults(self) -> tuple[str, ...]:
        return tuple(f"{step.name}: {step.fault}" for step in self.steps if step.fault)


def taken(column: Array, rows: Array, missing: float = 0) -> Array:
    """column[rows], and `missing` for rows beyond its end: items newer than what it was made of."""
    n = len(column)
    beyond = rows >= n
    if not beyond.any():
        return np.asarray(column[rows])
    found = np.full((len(rows), *column.shape[1:]), missing, column.dtype)
    found[~beyond] = column[rows[~beyond]]
    return found


def best(scores: Array, rows: Array, k: int) -> NDArray[np.intp]:
    """Indices of the k highest finite scores, highest first, ties by row; a total order.

    Broken scores (NaN, infinities) come last: they must not win a place.
    """
    k = min(max(k, 0), len(scores))
    if not k:
        return np.empty(0, np.intp)
    finite = np.where(np.isfinite(scores), scores, -np.inf)
    if k < len(scores) // 2:  # cut first, keeping everything that ties with the last place
        worst = np.partition(finite, len(finite) - k)[len(finite) - k]
        pool = np.flatnonzero(finite >= worst)
        return pool[np.lexsort((rows[pool], -finite[pool]))[:k]]
    return np.lexsort((rows, -finite))[:k]
