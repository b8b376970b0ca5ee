"""
The values of features that the config declares (`funnel.extra`, `features.spec`), for a request.

Folds of histories look at the actions of the query's history that are not older than `age_days`;
with an attribute, at those on items that share it with the candidate. n candidates, h actions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.attributes import Attributes
from features.fold import DAY_MS, HOUR_MS, IMPRESSION, counted, longest, window_of
from features.spec import AGE_DAYS, LAST_ACTIONS, STRENGTH, extra_names
from funnel.config import Config, Extra
from funnel.extra import ITEM
from funnel.types import Array, Query, Rows

Value = Array | float
Columns = Mapping[str, Array]


@dataclass(frozen=True, slots=True, eq=False)
class Folds:
    """Evaluates the entries of one generation's config. `rates` has each counted action's rate over
    all impressions by the longest half-life, NaN without impressions."""

    entries: Sequence[Extra]
    positive: tuple[str, ...]
    days: float
    codes: Mapping[str, int]
    rates: Mapping[str, float]

    @staticmethod
    def of(config: Config, actions: Sequence[str], rates: Sequence[float]) -> Folds:
        """`actions` are the generation's, `rates` in the order of `features.fold.counted`."""
        return Folds(
            config.features.extra,
            tuple(a for a in config.all_actions if a in config.data.positive),
            longest(config),
            {name: code for code, name in enumerate(actions)},
            dict(zip(counted(config), rates, strict=True)),
        )

    def columns(
        self, query: Query, rows: Rows, counts: Columns, here: Attributes
    ) -> dict[str, Value]:
        """Name -> (n,) or one number for all; NaN where there is no value. `counts` are the
        candidates' columns; rows beyond `here.n` must not be there."""
        found: dict[str, Value] = {}
        past: _Actions | None = None
        for entry in self.entries:
            names = extra_names(entry)
            if entry.of == "history":
                past = past or _Actions.of(query, here)
                found |= zip(names, self._past(entry, past, rows), strict=True)
            else:
                found[names[0]] = self._counted(entry, query, rows, counts)
        return found

    def _counted(self, entry: Extra, query: Query, rows: Rows, counts: Columns) -> Value:
        """What is counted of items, users and pairs."""
        held: Columns = query.user if entry.of == "user" else counts
        missing: Value = 0.0 if entry.of == "user" else np.full(len(rows), np.nan, np.float32)
        days = entry.half_life or self.days
        suffix = f"in{entry.window}" if entry.window else f"{days:g}d"
        prefix = "live" if entry.of == "item" else entry.of

        def total(actions: Sequence[str], prefix: str, suffix: str) -> Value:
            parts = [held.get(f"{prefix}.{action}.{suffix}", missing) for action in actions]
            return sum(parts[1:], start=np.asarray(parts[0], np.float32))

        actions, over = entry.actions or self.positive, entry.over or (IMPRESSION,)
        some = total(actions, prefix, suffix)
        if entry.fold in ("decayed", "window"):
            return some
        every = total(over, prefix, suffix)
        if entry.fold == "ratio":
            return _over(some, every)
        prior = self._rate(actions, over)
        if entry.of == "pair":  # of the item, itself drawn towards that of all items
            long = f"{self.days:g}d"
            done, shown = total(actions, "live", long), total(over, "live", long)
            prior = (done + prior * STRENGTH) / (shown + STRENGTH)
        strength = entry.prior or STRENGTH
        return (some + prior * strength) / (every + strength)

    def _rate(self, actions: Sequence[str], over: Sequence[str]) -> Value:
        """Of all items together."""
        return _over(sum(self.rates[a] for a in actions), sum(self.rates[a] for a in over))

    def _past(self, entry: Extra, past: _Actions, rows: Rows) -> list[Value]:
        """What is folded of the history."""
        some = self._weights(entry, past, entry.actions or self.positive)
        theirs, own = past.codes(entry.attribute or ITEM), None
        if entry.attribute or entry.fold == "last":
            own = past.own(entry.attribute or ITEM, rows)
        if entry.fold == "last":
            return _last(theirs, own, some, entry.n or LAST_ACTIONS)
        if entry.fold == "distinct":
            return [float(len(np.unique(theirs[(some > 0) & (theirs >= 0)])))]
        if entry.fold == "since":
            return [_since(past.ages, theirs, own, some)]
        if entry.fold in ("count", "decayed", "window"):
            return [_sums(theirs, own, some)]
        every = self._weights(entry, past, entry.over or entry.actions or self.positive)
        part = _sums(theirs, own, some)
        if entry.fold == "ratio":  # without `over` a share: of the same actions on any item
            return [_over(part, _sums(theirs, own if entry.over else None, every))]
        prior = _over(float(some.sum()), float(every.sum()))  # of the user, whatever the item
        strength = entry.prior or STRENGTH
        return [(part + prior * strength) / (_sums(theirs, own, every) + strength)]

    def _weights(self, entry: Extra, past: _Actions, actions: Sequence[str]) -> NDArray[np.float64]:
        """(h,) what each action counts."""
        wanted = np.isin(past.actions, [self.codes[a] for a in actions if a in self.codes])
        wanted &= past.ages <= (entry.age_days or AGE_DAYS) * DAY_MS
        if entry.window:
            wanted &= past.ages < window_of(entry.window).ms
        if entry.half_life is not None:
            decayed: NDArray[np.float64] = np.exp2(-past.ages / (entry.half_life * DAY_MS))
            return decayed * wanted
        return wanted.astype(np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class _Actions:
    """A history as columns, oldest first; items that the catalogue has here."""

    rows: Rows  # (h,)
    ages: NDArray[np.int64]  # (h,) ms before the query
    actions: NDArray[np.int8]  # (h,)
    here: Attributes

    @staticmethod
    def of(query: Query, here: Attributes) -> _Actions:
        history = query.history
        keep = (history.rows >= 0) & (history.rows < here.n)
        ages = np.maximum(query.at - history.times[keep], 0)
        return _Actions(history.rows[keep], ages, history.actions[keep], here)

    def codes(self, attribute: str) -> Array:
        """(h,) codes of the actions' items, -1 where missing."""
        return self.own(attribute, self.rows)

    def own(self, attribute: str, rows: Rows) -> Array:
        """(k,) codes of items, -1 where missing."""
        if attribute == ITEM:
            return rows
        codes = self.here.codes[attribute]
        return np.full(len(rows), -1) if codes is None else codes[rows]


def _over(some: Value, every: Value) -> Value:
    """some / every, NaN over 0."""
    some, every = np.asarray(some, np.float64), np.asarray(every, np.float64)
    shape = np.broadcast_shapes(some.shape, every.shape)
    found: Array = np.divide(some, every, out=np.full(shape, np.nan), where=every > 0)
    return found


def _sums(theirs: Array, own: Array | None, weights: NDArray[np.float64]) -> Value:
    """The weight of all actions, or (n,) that of those with the candidate's code, NaN for -1."""
    if own is None:
        return float(weights.sum())
    if not len(theirs):
        return np.where(own >= 0, 0.0, np.nan)
    codes, place = np.unique(theirs, return_inverse=True)
    return _at(codes, np.bincount(place, weights, len(codes)), own, 0.0)


def _since(
    ages: NDArray[np.int64], theirs: Array, own: Array | None, weights: NDArray[np.float64]
) -> Value:
    """Hours since the newest action, or (n,) since that with the candidate's code."""
    ages, theirs = ages[weights > 0], theirs[weights > 0]
    if not len(ages):
        return np.nan
    if own is None:
        return float(ages.min() / HOUR_MS)
    codes, place = np.unique(theirs, return_inverse=True)
    newest = np.full(len(codes), np.inf)
    np.minimum.at(newest, place, ages)
    return _at(codes, newest / HOUR_MS, own, np.nan)


def _last(theirs: Array, own: Array | None, weights: NDArray[np.float64], n: int) -> list[Value]:
    """For each of the newest n actions, newest first: whether (n,) candidates have its code."""
    newest = theirs[weights > 0][::-1][:n]
    assert own is not None
    found: list[Value] = [np.nan] * n
    for place, code in enumerate(newest.tolist()):
        if code >= 0:
            found[place] = np.where(own >= 0, own == code, np.nan)
    return found


def _at(codes: Array, values: Array, own: Array, missing: float) -> Array:
    """values by code, `missing` for codes that are not there, NaN for -1."""
    places = np.minimum(np.searchsorted(codes, own), len(codes) - 1)
    found = np.where(codes[places] == own, values[places], missing)
    found[own < 0] = np.nan
    return found
