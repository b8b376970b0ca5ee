"""
Every feature, declared once. The jobs, the live store and the assembler go by these declarations.

Which there are follows from the config: what its columns are for, which actions are positive, the
half-lives and the channels. The hash of the list is part of a generation, and a model takes no
other features than those it was trained with.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Literal

from features.fold import (
    IMPRESSION,
    counted,
    counter_names,
    longest,
    pair_names,
    user_names,
    window_names,
    windows_of,
)
from funnel.config import CHANNELS, Config, Extra

VERSION = 1  # rises when a formula changes that the declarations below do not spell out
STRENGTH = 20.0  # impressions that the prior of a rate is worth
AFFINITY_DAYS = 14.0  # half-life of an action's weight in affinities
RECENT_DAYS = 3.0  # the same of what a user is after just now
AGE_DAYS = 365.0  # older actions do not count in crosses
LAST_ACTIONS = 5  # that an extra `last` looks at, where it does not say
LAST = 20  # newest positive actions that vectors are compared with

Kind = Literal["numeric", "categorical", "multi", "sequence"]
Source = Literal["item", "user", "query", "live", "cross", "recall"]


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature. Numeric ones are columns of the matrix, NaN where missing unless `default`
    says otherwise; `age_days` is how old an action may be to count."""

    name: str
    kind: Kind
    source: Source
    formula: str
    default: float = math.nan
    age_days: float = math.inf


@dataclass(frozen=True)
class Spec:
    """The features in the order of their columns."""

    features: tuple[Feature, ...]

    @staticmethod
    def of(config: Config, scene: str = "") -> Spec:
        """The features of a scene; without one, or for an unknown one, with every channel."""
        return Spec(
            (
                *_live(config),
                *_windows(config),
                *_users(config),
                *_pairs(config, scene),
                *_item(config),
                *_query(),
                *_recall(config, scene),
                *_cross(config),
                *(feature for entry in config.features.extra for feature in _extra(entry, config)),
                *_fields(config),
            )
        )

    def names(self, kind: Kind) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features if feature.kind == kind)

    @property
    def hash(self) -> str:
        """The same in every process for the same features."""
        table = [VERSION, [asdict(feature) for feature in self.features]]
        return blake2b(json.dumps(table, sort_keys=True).encode(), digest_size=16).hexdigest()


def channels_of(config: Config, scene: str) -> tuple[str, ...]:
    """The channels of a scene in a fixed order, whatever their limits."""
    if scene not in config.scenes:
        return CHANNELS
    named: Sequence[str] = tuple(config.scenes[scene].recall.channels)
    return tuple(name for name in CHANNELS if name in named)


def _live(config: Config) -> Iterator[Feature]:
    half_lives = config.features.half_lives
    for name in counter_names(counted(config), half_lives):
        yield Feature(f"log.{name}", "numeric", "live", f"log1p({name})")
    wanted = [action for action in counted(config) if action != IMPRESSION]
    for action in wanted:
        for days in half_lives:
            yield Feature(
                f"rate.{action}.{days:g}d",
                "numeric",
                "live",
                f"(live.{action} + prior*{STRENGTH:g}) / (live.{IMPRESSION} + {STRENGTH:g}), "
                "prior = the generation's rate over all items",
            )
    for action in wanted if len(half_lives) > 1 else ():
        short, long = min(half_lives), max(half_lives)
        formula = f"log1p({short:g}d) - log1p({long:g}d * {short:g}/{long:g})"
        yield Feature(f"trend.{action}", "numeric", "live", formula)


def _windows(config: Config) -> Iterator[Feature]:
    for name in window_names(config):
        yield Feature(f"log.{name}", "numeric", "live", f"log1p({name})")
    for action in counted(config):
        for window in windows_of(config) if action != IMPRESSION else ():
            yield Feature(
                f"rate.{action}.in{window.name}",
                "numeric",
                "live",
                f"(live.{action} + prior*{STRENGTH:g}) / (live.{IMPRESSION} + {STRENGTH:g}), "
                f"prior = the generation's rate over all items by {longest(config):g} days",
            )


def _users(config: Config) -> Iterator[Feature]:
    if not config.features.users:
        return
    for name in user_names(config):
        yield Feature(f"log.{name}", "numeric", "user", f"log1p({name}), 0 for unknown users")
    for action in counted(config):
        if action != IMPRESSION:
            yield Feature(
                f"rate.user.{action}",
                "numeric",
                "user",
                f"(user.{action} + prior*{STRENGTH:g}) / (user.{IMPRESSION} + {STRENGTH:g}), "
                "prior = the generation's rate over all items",
            )


def has_pairs(config: Config, scene: str) -> bool:
    """Whether pairs are features: scenes that search have them, and what is for all scenes."""
    return config.features.pairs > 0 and "bm25" in channels_of(config, scene)


def _pairs(config: Config, scene: str) -> Iterator[Feature]:
    if not has_pairs(config, scene):
        return
    for name in pair_names(config):
        formula = f"log1p({name}) of the query's text and the item"
        yield Feature(f"log.{name}", "numeric", "cross", formula)
    for action in counted(config):
        if action != IMPRESSION:
            yield Feature(
                f"rate.{action}.pair",
                "numeric",
                "cross",
                f"(pair.{action} + prior*{STRENGTH:g}) / (pair.{IMPRESSION} + {STRENGTH:g}), "
                f"prior = rate.{action}.{longest(config):g}d of the item",
            )


def extra_names(entry: Extra) -> tuple[str, ...]:
    """The names of an entry's features: `last` has one for each of the newest actions."""
    if entry.fold == "last":
        return tuple(f"extra.{entry.name}.{i + 1}" for i in range(entry.n or LAST_ACTIONS))
    return (f"extra.{entry.name}",)


def _extra(entry: Extra, config: Config) -> Iterator[Feature]:
    said = entry.model_dump(exclude={"name", "fold", "of", "default", "age_days"})
    said["actions"] = entry.actions or sorted(config.data.positive)
    options = ", ".join(f"{name}={value}" for name, value in said.items() if value)
    zero = entry.fold in ("count", "window", "decayed", "distinct")
    default = (0.0 if zero else math.nan) if entry.default is None else entry.default
    past = entry.of == "history"
    age = (entry.age_days or AGE_DAYS) if past else math.inf
    source: Source = "cross" if past or entry.of == "pair" else "live"
    for name in extra_names(entry):
        formula = f"{entry.fold} of {entry.of}: {options}"
        yield Feature(name, "numeric", source, formula, default, age)


def peers_of(config: Config) -> str:
    """The column whose values say which items are each other's peers; empty without one."""
    return next(iter(config.data.categorical), "")


def _item(config: Config) -> Iterator[Feature]:
    for name in dict.fromkeys((*config.data.numeric, "available")):
        yield Feature(f"item.{name}", "numeric", "item", name)
    if peers := peers_of(config):
        for name in config.data.numeric:
            formula = f"s({name}) - mean of s over the generation's items of its {peers}"
            yield Feature(f"item.{name}.in.{peers}", "numeric", "item", formula)
    yield Feature("age.days", "numeric", "item", "query.at - created_at, at least 0")


def _query() -> Iterator[Feature]:
    yield Feature("query.words", "numeric", "query", "distinct words of the text")
    yield Feature("query.actions", "numeric", "query", "length of the history")
    yield Feature("query.hour", "numeric", "query", "hour of query.at, UTC")
    yield Feature("query.weekday", "numeric", "query", "day of query.at, UTC, Monday 0")


def _recall(config: Config, scene: str) -> Iterator[Feature]:
    yield Feature("recall", "numeric", "recall", "fused score")
    for name in channels_of(config, scene):
        yield Feature(f"recall.{name}", "numeric", "recall", "score in the channel")
    yield Feature("recall.channels", "numeric", "recall", "channels that returned it", default=0.0)


def _cross(config: Config) -> Iterator[Feature]:
    weights = ", ".join(f"{a}={w:g}" for a, w in sorted(config.data.positive.items()))
    decayed, fast = (
        f"positive actions ({weights}) decayed by half every {days:g} days"
        for days in (AFFINITY_DAYS, RECENT_DAYS)
    )

    def cross(name: str, formula: str, default: float = math.nan) -> Feature:
        return Feature(name, "numeric", "cross", formula, default, AGE_DAYS)

    for name in config.data.categorical:
        yield cross(f"affinity.{name}", f"share of {decayed} with the item's {name}")
        yield cross(f"recent.{name}", f"share of {fast} with the item's {name}")
        yield cross(f"liked.{name}", f"log1p of the sum of {decayed} with the item's {name}")
        yield cross(f"since.{name}", f"hours since the newest positive action with its {name}")
    for name in config.data.multi:
        for title, kind in (("affinity", decayed), ("recent", fast)):
            yield cross(f"{title}.{name}", f"mean over the item's {name} of the share of {kind}")
    for name in config.data.numeric:
        formula = f"s({name}) - mean of s over {decayed}; s(x) = sign(x) log1p(|x|)"
        yield cross(f"gap.{name}", formula)
    if peers := peers_of(config):
        for name in config.data.numeric:
            formula = f"item.{name}.in.{peers} - mean of it over {decayed}"
            yield cross(f"gap.{name}.in.{peers}", formula)
    yield cross("seen.count", "actions of the user on the item", default=0.0)
    yield cross("seen.hours", "hours since the last of them")
    for space in ("behaviour", "text"):
        yield cross(f"{space}.last", "cosine to the newest positive action")
        yield cross(f"{space}.max", f"largest cosine to the last {LAST} positive actions")
        yield cross(f"{space}.mean", f"mean cosine to the last {LAST} positive actions")
        yield cross(f"{space}.item", "cosine to the item that the query asks about")
    for name in config.data.categorical:
        yield cross(f"same.{name}", f"the same {name} as the item that the query asks about")
    yield cross("title.query", "share of the query's words in the title")
    yield cross("title.covered", "share of the title's words in the query")


def _fields(config: Config) -> Iterator[Feature]:
    data = config.data
    yield Feature("item", "categorical", "item", "hash of the item id in buckets, from 1")
    for name in data.categorical:
        yield Feature(f"item.{name}", "categorical", "item", f"code of {name}, from 1")
    yield Feature("user", "categorical", "user", "hash of the user id in buckets, from 1")
    for name in data.user_categorical:
        yield Feature(f"user.{name}", "categorical", "user", f"code of {name}, from 1")
    yield Feature("query.hour", "categorical", "query", "hour of query.at, UTC, from 1")
    yield Feature("query.weekday", "categorical", "query", "day of query.at, UTC, from 1")
    for name in data.multi:
        yield Feature(f"item.{name}", "multi", "item", f"codes of {name}, from 1")
    yield Feature("history", "sequence", "query", "item fields of the actions, oldest first")


def difference(ours: Spec, theirs: Spec) -> str:
    """What the first has that the second has not, and the other way round, in a line."""
    mine = {(f.kind, f.name): f.formula for f in ours.features}
    other = {(f.kind, f.name): f.formula for f in theirs.features}
    said = {
        "adds": [name for kind, name in mine if (kind, name) not in other],
        "lacks": [name for kind, name in other if (kind, name) not in mine],
        "changes": [f[1] for f in mine if f in other and mine[f] != other[f]],
    }
    parts = [f"it {verb} {', '.join(names[:5])}" for verb, names in said.items() if names]
    return "; ".join(parts) or "the order of the features"
