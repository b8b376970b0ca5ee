"""
Features that the config declares, one entry of `features.extra` each: what an entry may say.

    of        folds
    item      decayed, window, rate, ratio
    user      decayed, rate, ratio
    pair      decayed, rate, ratio
    history   count, decayed, window, rate, ratio, since, distinct, last
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Literal, Protocol

Fold = Literal["count", "decayed", "window", "rate", "ratio", "since", "distinct", "last"]
Of = Literal["item", "user", "pair", "history"]

ITEM = "item"  # as an attribute: the item itself
FOLDS: dict[Of, tuple[Fold, ...]] = {
    "item": ("decayed", "window", "rate", "ratio"),
    "user": ("decayed", "rate", "ratio"),
    "pair": ("decayed", "rate", "ratio"),
    "history": ("count", "decayed", "window", "rate", "ratio", "since", "distinct", "last"),
}
# What a fold takes beside `actions` and `default`; of everything but histories no attribute and age
TAKES: dict[Fold, tuple[str, ...]] = {
    "count": ("attribute", "age_days"),
    "decayed": ("half_life", "attribute", "age_days"),
    "window": ("window", "attribute"),
    "rate": ("over", "window", "half_life", "prior", "attribute", "age_days"),
    "ratio": ("over", "window", "half_life", "attribute", "age_days"),
    "since": ("attribute", "age_days"),
    "distinct": ("window", "attribute", "age_days"),
    "last": ("n", "attribute", "age_days"),
}
OPTIONS = ("over", "window", "half_life", "prior", "attribute", "n", "age_days")
NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)*")


def span_days(name: str) -> float:
    """The days of a window such as 6h or 30d; 0 where it is none. Whole days beyond 24 hours, so
    that whole buckets make it; 60 days at most."""
    if not re.fullmatch(r"[1-9]\d*[hd]", name):
        return 0.0
    count = int(name[:-1])
    days = count / 24 if name[-1] == "h" else float(count)
    return days if days <= 60 and (days <= 1 or days == int(days)) else 0.0


class Entry(Protocol):
    """`funnel.config.Extra`; what was not said is None or empty."""

    @property
    def name(self) -> str: ...
    @property
    def fold(self) -> Fold: ...
    @property
    def of(self) -> Of: ...
    @property
    def actions(self) -> tuple[str, ...]: ...
    @property
    def over(self) -> tuple[str, ...]: ...
    @property
    def window(self) -> str: ...
    @property
    def half_life(self) -> float | None: ...
    @property
    def prior(self) -> float | None: ...
    @property
    def attribute(self) -> str: ...
    @property
    def n(self) -> int | None: ...
    @property
    def age_days(self) -> float | None: ...


class Known(Protocol):
    """What entries may speak of."""

    @property
    def half_lives(self) -> tuple[float, ...]: ...
    @property
    def windows(self) -> tuple[str, ...]: ...
    @property
    def pairs(self) -> int: ...
    @property
    def users(self) -> bool: ...


def problem(
    entries: Sequence[Entry],
    known: Known,
    actions: Sequence[str],
    positive: Collection[str],
    attributes: Sequence[str],
) -> str:
    """What is wrong with the first bad entry, and what would be right; empty if all are good.

    `actions` are all of them, `attributes` the categorical ones.
    """
    names: set[str] = set()
    for place, entry in enumerate(entries):
        if entry.name in names:
            return f"features.extra: two entries are called '{entry.name}': rename one"
        names.add(entry.name)
        said = next(_problems(entry, known, actions, positive, attributes), "")
        if said:
            return f"features.extra[{place}] '{entry.name}': {said}"
    return ""


def _problems(
    entry: Entry,
    known: Known,
    actions: Sequence[str],
    positive: Collection[str],
    attributes: Sequence[str],
) -> Iterator[str]:
    past = entry.of == "history"
    if not NAME.fullmatch(entry.name):
        yield "a name is lower-case letters, digits and _, in parts joined by dots"
    if entry.fold not in FOLDS[entry.of]:
        elsewhere = ' (a history has it: of = "history")' if entry.fold in FOLDS["history"] else ""
        yield (
            f"there is no {entry.fold} of {entry.of}{elsewhere}; known: "
            f"{', '.join(FOLDS[entry.of])}"
        )
    takes = [o for o in TAKES[entry.fold] if past or o not in ("attribute", "age_days")]
    for option in OPTIONS:
        if getattr(entry, option) not in (None, "", ()) and option not in takes:
            yield (
                f"{option} means nothing to the {entry.fold} of {entry.of}: leave it out; it "
                f"takes {', '.join(('actions', *takes))}"
            )
    yield from _spans(entry, known)
    may = [a for a in actions if (a != "impression" if past else a in ("impression", *positive))]
    for name in (*entry.actions, *entry.over):
        if name not in may:
            what = "a history has" if past else "are counted (impression and data.positive)"
            yield f"the action '{name}' is not one of those that {what}: {', '.join(may)}"
    if past and entry.fold == "rate" and not entry.over:
        yield "a rate of a history needs over = [actions]: histories have no impressions"
    if past and entry.fold == "ratio" and not (entry.over or entry.attribute):
        yield "a ratio of a history needs over = [actions], or an attribute to be a share of"
    if entry.attribute and entry.attribute not in (ITEM, *attributes):
        yield f"unknown attribute '{entry.attribute}'; known: {', '.join((ITEM, *attributes))}"
    if entry.of == "user" and not known.users:
        yield "users are not counted: set features.users = true"
    if entry.of == "pair" and not known.pairs:
        yield "pairs are not counted: set features.pairs, to 200000 say"


def _spans(entry: Entry, known: Known) -> Iterator[str]:
    """What is wrong with a window and a half-life."""
    lives, windows = ", ".join(f"{d:g}" for d in known.half_lives), ", ".join(known.windows)
    if entry.window and not span_days(entry.window):
        yield f"'{entry.window}' is no window; hours (1h to 24h) or days (1d to 60d) are"
    if entry.window and entry.half_life is not None:
        yield "it has a window and a half_life: leave one out"
    if entry.fold == "window" and not entry.window:
        yield 'window is missing, such as window = "7d"'
    if entry.of == "history":
        if entry.fold == "decayed" and entry.half_life is None:
            yield "half_life is missing, in days"
    elif entry.of == "item":
        if entry.fold != "window" and not entry.window and entry.half_life is None:
            yield f"half_life (one of {lives}) is missing"
        if entry.window and entry.window not in known.windows:
            yield f"items are not counted in {entry.window}: add it to features.windows ({windows})"
        if entry.half_life is not None and entry.half_life not in known.half_lives:
            yield (
                f"items are not counted by {entry.half_life:g} days: add it to "
                f"features.half_lives ({lives})"
            )
    else:
        most = max(known.half_lives, default=0.0)
        if entry.window:
            yield f"{entry.of}s are not counted in windows: leave window out"
        if entry.half_life not in (None, most):
            yield f"{entry.of}s are counted by the longest half-life only, {most:g} days"
