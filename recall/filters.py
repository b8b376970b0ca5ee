"""
Which items a request may return: its filters and exclusions as one bitmap that every channel reads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from funnel.config import Config
from funnel.errors import BadQuery
from funnel.generation import Generation
from funnel.types import Filter, Query

Mask = NDArray[np.bool_]


def allowed(query: Query, generation: Generation, config: Config) -> Mask | None:
    """(n,) True where an item may be returned; None where all may.

    Items with `available` = false are never returned. Raises `BadQuery` for an attribute that is
    not filterable, or a condition that does not fit its kind.
    """
    items, mask = generation.items, None
    if items.has("number", "available"):
        mask = items.numbers("available") != 0
        mask = None if mask.all() else mask
    for condition in query.filters:
        held = holds(condition, generation, config)
        mask = held if mask is None else mask & held
    excluded = query.excluded[(query.excluded >= 0) & (query.excluded < len(items))]
    if len(excluded):
        mask = np.ones(len(items), bool) if mask is None else mask.copy()
        mask[excluded] = False
    return mask


def holds(condition: Filter, generation: Generation, config: Config) -> Mask:
    """(n,) True where the condition holds."""
    name, items = condition.attribute, generation.items
    kinds = [kind for kind in ("offsets", "codes", "number") if items.has(kind, name)]
    if name not in config.data.filterable or not kinds:
        known = [
            attribute
            for attribute in config.data.filterable
            if any(items.has(kind, attribute) for kind in ("codes", "number"))
        ]
        raise BadQuery(
            f"cannot filter on '{name}'; filterable here: {', '.join(known) or 'nothing'}"
        )
    bounded = condition.low is not None or condition.high is not None
    if bounded == bool(condition.any_of):
        raise BadQuery(f"the filter on '{name}' needs either values or bounds, not both or neither")
    if kinds[0] == "number":
        held = _between(condition, items.numbers(name))
    elif bounded:
        raise BadQuery(f"'{name}' has values, not numbers: filter it by values")
    else:
        wanted = _codes(condition.any_of, items.values(name))
        found = np.isin(items.codes(name), wanted)
        held = found if kinds[0] == "codes" else _any(found, items.offsets(name))
    return ~held if condition.exclude else held


def _between(condition: Filter, values: NDArray[np.float64]) -> Mask:
    name = condition.attribute
    if condition.any_of:
        try:
            wanted = [_number(value) for value in condition.any_of]
        except ValueError as error:
            raise BadQuery(f"'{name}' is a number, not one of {condition.any_of}") from error
        return np.isin(values, wanted)
    low = -np.inf if condition.low is None else condition.low
    high = np.inf if condition.high is None else condition.high
    if not low <= high:
        raise BadQuery(f"the filter {low} <= {name} <= {high} holds for nothing: swap the bounds")
    return (values >= low) & (values <= high)


def _number(value: str) -> float:
    truths = {"true": 1.0, "false": 0.0}
    return truths[value.lower()] if value.lower() in truths else float(value)


def _codes(values: tuple[str, ...], known: list[str]) -> list[int]:
    """The codes of the values, and of the paths below them: `Shoes` finds `Shoes/Running`."""
    return [
        code
        for code, name in enumerate(known)
        if any(name == value or name.startswith(value + "/") for value in values)
    ]


def _any(found: Mask, offsets: NDArray[np.int64]) -> Mask:
    """Whether any value of each item was found."""
    counts = np.concatenate([[0], np.cumsum(found)])
    return counts[offsets[1:]] > counts[offsets[:-1]]
