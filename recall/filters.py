"""
Which items a request may return: its filters and exclusions as one bitmap that every channel reads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from funnel.catalogue import Catalogue
from funnel.config import Config
from funnel.errors import BadQuery
from funnel.generation import Generation
from funnel.holds import number, spans
from funnel.types import NO_ITEM, All, AnyOf, Array, Filter, Not, Predicate, Query
from recall.masks import Mask, Masks
from recall.passages import Documents


@dataclass(frozen=True, eq=False)
class Filters:
    """The attributes of one generation that requests may filter on."""

    items: Catalogue
    kinds: dict[str, str]  # filterable attribute -> codes, offsets or number
    standing: Standing
    documents: Documents | None = None
    masks: Masks = field(default_factory=Masks)

    @staticmethod
    def open(generation: Generation, config: Config) -> Filters:
        """Attributes that the config names and the catalogue lacks are not filterable."""
        items = generation.items
        kinds = {
            name: kind
            for name in config.data.filterable
            for kind in ("number", "codes", "offsets")  # a multi-valued one has codes as well
            if items.has(kind, name)
        }
        return Filters(items, kinds, Standing(items), Documents.open(generation))

    def allowed(self, query: Query) -> Mask | None:
        """(n,) True where an item may be returned; None where all may. n is what the live
        catalogue has now: an item that comes while the request is answered is not allowed to it.

        Never: what is deleted or not available, what the query excludes, and the item that it asks
        about, each with its document (recall/passages.py). Raises `BadQuery` for an attribute that
        is not filterable here, or a condition that does not fit it.
        """
        with self.items.still():
            mask, n = self.standing.mask(), len(self.items)
            for condition in query.filters:
                held = self.holds(condition)
                mask = held if mask is None else mask & held
        excluded = query.excluded
        if query.item != NO_ITEM:
            excluded = np.append(excluded, np.int32(query.item))
        excluded = excluded[(excluded >= 0) & (excluded < n)]
        if len(excluded):
            mask = np.ones(n, bool) if mask is None else mask.copy()
            mask[excluded] = False
            if self.documents is not None:
                others = self.documents.others(excluded)
                mask[: len(others)] &= others[:n]
        return mask

    def holds(self, predicate: Predicate) -> Mask:
        """(n,) True where the predicate holds. An item without the attribute fails a condition and
        passes an excluded one. Nobody may write into the mask."""
        match predicate:
            case Filter():
                plain = replace(predicate, exclude=False)
                held = self.masks.of(plain, self.items.version, self._condition)
                return ~held if predicate.exclude else held
            case Not(part):
                return ~self.holds(part)
            case All(parts):
                return self._joined(parts, np.logical_and, True)
            case AnyOf(parts):
                return self._joined(parts, np.logical_or, False)

    def _joined(self, parts: Sequence[Predicate], join: np.ufunc, empty: bool) -> Mask:
        if not parts:
            return np.full(len(self.items), empty)
        if len(parts) == 1:
            return self.holds(parts[0])
        mask: Mask = join(self.holds(parts[0]), self.holds(parts[1]))
        for part in parts[2:]:
            join(mask, self.holds(part), out=mask)
        return mask

    def _condition(self, condition: Filter) -> Mask:
        name = condition.attribute
        if name not in self.kinds:
            known = ", ".join(self.kinds) or "nothing"
            raise BadQuery(f"cannot filter on '{name}'; filterable here: {known}")
        bounded = condition.low is not None or condition.high is not None
        if bounded == bool(condition.any_of):
            raise BadQuery(
                f"the filter on '{name}' needs either values or bounds, not both or neither"
            )
        if self.kinds[name] == "number":
            return self._number(condition)
        if bounded:
            raise BadQuery(f"'{name}' has values, not numbers: filter it by values")
        return self._value(condition)

    def _number(self, condition: Filter) -> Mask:
        name, values = condition.attribute, self.items.numbers(condition.attribute)
        if condition.any_of:
            wanted = [number(name, text) for text in condition.any_of]
            return np.isin(values, wanted) if len(wanted) > 4 else equal(values, wanted)
        low = -math.inf if condition.low is None else condition.low
        high = math.inf if condition.high is None else condition.high
        if math.isnan(low) or math.isnan(high):
            raise BadQuery(f"a bound of the filter on '{name}' is not a number")
        if low > high:
            raise BadQuery(f"the filter {low:g} <= {name} <= {high:g} is empty: swap the bounds")
        held: Mask = values >= low
        if math.isfinite(high):
            held &= values <= high
        return held

    def _value(self, condition: Filter) -> Mask:
        name, known = condition.attribute, self.items.values(condition.attribute)
        ordered = self.items.ordered(name)
        places = [place for value in condition.any_of for place in spans(value, known, ordered)]
        found = within(self.items.codes(name), places, len(known))
        return found if self.kinds[name] == "codes" else any_of(found, *self.items.bounds(name))


class Standing:
    """What no request may return: what is deleted, or not available. Worked out once a version."""

    def __init__(self, items: Catalogue):
        self.items = items
        self._known = items.has("number", "available")
        self._last: tuple[int, Mask | None] = (-1, None)
        self.mask()

    def mask(self) -> Mask | None:
        """(n,) False for these; None where there are none. Nobody may write into it."""
        version, mask = self._last
        if version != self.items.version:
            with self.items.still():
                version, mask = self.items.version, self._made()
            self._last = version, mask
        return mask

    def _made(self) -> Mask | None:
        alive = self.items.alive
        mask = np.ones(len(self.items), bool) if alive is None else alive.copy()
        if self._known:
            mask &= self.items.numbers("available") != 0  # not known counts as available
        return None if mask.all() else mask


def within(codes: Array, places: Sequence[tuple[int, int]], known: int) -> Mask:
    """(n,) whether the code lies in one of the places [low, high), of `known` codes."""
    places = [(low, high) for low, high in places if low < high]
    if len(places) > 4:  # a table is quicker than so many comparisons
        wanted = np.zeros(known + 1, bool)  # the last place is for -1: no value
        for low, high in places:
            wanted[low:high] = True
        return wanted[codes]
    found = np.zeros(len(codes), bool)
    for low, high in places:
        # One comparison for two: below `low` wraps round to a very large number.
        found |= (codes - np.int32(low)).view(np.uint32) < np.uint32(high - low)
    return found


def equal(values: Array, wanted: Sequence[float]) -> Mask:
    found = values == wanted[0]
    for value in wanted[1:]:
        found |= values == value
    return np.asarray(found)


def any_of(found: Mask, starts: Array, ends: Array) -> Mask:
    """(n,) whether any of each item's values was found."""
    counts = np.concatenate([[0], np.cumsum(found)])
    held: Mask = counts[ends] > counts[starts]
    return held
