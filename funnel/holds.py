"""
Conditions on some rows of a catalogue: which of them a predicate holds for. For a page's worth of
candidates; recall makes bitmaps of whole catalogues (recall/filters.py).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from funnel.catalogue import Catalogue
from funnel.errors import BadQuery
from funnel.types import All, AnyOf, Array, Filter, Not, Predicate

Mask = NDArray[np.bool_]


def kind_of(items: Catalogue, name: str) -> str:
    """How the catalogue keeps an attribute: `number`, `codes` or `offsets`; empty: not at all."""
    if items.has("number", name):
        return "number"
    if items.has("offsets", name):  # a multi-valued one has codes as well
        return "offsets"
    return "codes" if items.has("codes", name) else ""


def holds(items: Catalogue, predicate: Predicate, rows: Array) -> Mask:
    """(n,) True where the predicate holds. An item without the attribute fails a condition and
    passes an excluded one. Raises `BadQuery` for an attribute that the catalogue does not have, or
    a condition that does not fit it."""
    match predicate:
        case Filter():
            held = _condition(items, predicate, rows)
            return ~held if predicate.exclude else held
        case Not(part):
            return ~holds(items, part, rows)
        case All(parts):
            found = np.ones(len(rows), bool)
            for part in parts:
                found &= holds(items, part, rows)
            return found
        case AnyOf(parts):
            found = np.zeros(len(rows), bool)
            for part in parts:
                found |= holds(items, part, rows)
            return found


def _condition(items: Catalogue, condition: Filter, rows: Array) -> Mask:
    name, kind = condition.attribute, kind_of(items, condition.attribute)
    if not kind:
        raise BadQuery(f"the catalogue has no attribute '{name}'; is it in the config's data?")
    bounded = condition.low is not None or condition.high is not None
    if bounded == bool(condition.any_of):
        raise BadQuery(f"the condition on '{name}' needs either values or bounds")
    if kind == "number":
        values = np.asarray(items.numbers(name)[rows])
        if condition.any_of:
            return np.isin(values, [number(name, text) for text in condition.any_of])
        low = -math.inf if condition.low is None else condition.low
        high = math.inf if condition.high is None else condition.high
        found: Mask = (values >= low) & (values <= high)
        return found
    if bounded:
        raise BadQuery(f"'{name}' has values, not numbers: ask for values")
    known, ordered = items.values(name), items.ordered(name)
    places = [place for value in condition.any_of for place in spans(value, known, ordered)]
    wanted = np.zeros(len(known) + 1, bool)  # the last place is for -1: no value
    for start, end in places:
        wanted[start:end] = True
    codes = items.codes(name)
    if kind == "codes":
        return np.asarray(wanted[codes[rows]])
    starts, ends = items.bounds(name)
    of = [wanted[codes[starts[row] : ends[row]]].any() for row in rows.tolist()]
    return np.array(of, bool)


def spans(value: str, known: Sequence[str], ordered: int | None = None) -> list[tuple[int, int]]:
    """Where the value and the paths below it lie: `Shoes` finds `Shoes/Running` too.

    The first `ordered` values (all if None) are sorted; those that came since are looked through.
    """
    ordered = len(known) if ordered is None else ordered
    at = bisect_left(known, value, 0, ordered)
    exact = at < ordered and known[at] == value
    upper = value + chr(ord("/") + 1)
    below = bisect_left(known, value + "/", 0, ordered), bisect_left(known, upper, 0, ordered)
    new = [
        (place, place + 1)
        for place in range(ordered, len(known))
        if known[place] == value or known[place].startswith(value + "/")
    ]
    return [(at, at + exact), below, *new]


def number(name: str, text: str) -> float:
    """The number that a condition spells; `true` and `false` are 1 and 0."""
    truths = {"true": 1.0, "false": 0.0}
    try:
        return truths[text.lower()] if text.lower() in truths else float(text)
    except ValueError as error:
        raise BadQuery(f"'{name}' is a number, and '{text}' is not") from error
