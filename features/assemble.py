"""
A query and its candidates as numbers: the matrix for trees and the fields for torch.

The same code makes the training matrices out of logged requests and the rows that are scored, so
training and serving cannot differ. n candidates, M numeric features, K categorical fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features import tokens
from features.attributes import Attributes, Lists
from features.crosses import (
    Past,
    affinity_multi,
    gap,
    interest,
    matched,
    near,
    squashed,
    touched,
    usual,
)
from features.fold import (
    DAY_MS,
    IMPRESSION,
    ItemCounters,
    counted,
    longest,
    pair_names,
    user_names,
    window_names,
    windows_of,
)
from features.folds import Folds
from features.spec import LAST, STRENGTH, Spec, difference, has_pairs, peers_of
from funnel.catalogue import Catalogue, id_hash
from funnel.config import Config
from funnel.errors import BadConfig, BadGeneration
from funnel.generation import Generation
from funnel.types import NO_ITEM, Array, Candidates, Floats, Query, Rows, taken

MOST_BUCKETS = 1 << 20
VECTORS = ("behaviour", "text")
INTERESTS = "affinity", "recent", "liked", "since"  # of each categorical column
Columns = Mapping[str, Array | float]


@dataclass(frozen=True, slots=True, eq=False)
class Fields:
    """What embeddings are looked up by. Codes are from 1; 0 is missing or unknown.

    The history is oldest first and holds every action; its `items` have the columns of
    `Assembler.item_fields`.
    """

    ids: NDArray[np.int32]  # (n, K)
    numbers: Floats  # (n, M) the matrix, NaN where missing
    multi: Mapping[str, tuple[NDArray[np.int64], NDArray[np.int32]]]  # offsets (n + 1,), codes
    rows: Rows  # (h,)
    actions: NDArray[np.int8]  # (h,)
    hours: Floats  # (h,) since the action
    items: NDArray[np.int32]  # (h, item fields)
    vectors: Floats | None = None  # (n, V) of the items' texts, where they are asked for


class Assembler:
    """Assembles the features of one generation for the requests of one scene.

    Raises `BadConfig` when the running config means other features than the generation has.
    """

    def __init__(self, generation: Generation, config: Config, scene: str = ""):
        built = generation.config
        if Spec.of(config).hash != Spec.of(built).hash:
            raise BadConfig(
                f"the config means other features than generation {generation.id} was built with "
                f"({difference(Spec.of(config), Spec.of(built))}): build again, or put the config "
                "back"
            )
        self.spec = Spec.of(built, scene)
        self.names = self.spec.names("numeric")
        self.categorical = self.spec.names("categorical")  # the columns of `Fields.ids`
        self.multi = self.spec.names("multi")
        data, items = built.data, generation.items
        self.item_fields = ("item", *(f"item.{name}" for name in data.categorical))
        self._config, self._items, self._base = built, items, items.base
        positive = [built.data.positive.get(a, 0.0) for a in generation.manifest.actions]
        self._positive = np.array([*positive, 0.0])  # the last for the code -1
        self._counters = ItemCounters.open(generation).names
        self._prior = _prior(generation)
        self._long = [*built.features.half_lives].index(longest(built))
        rates = self._prior[:, self._long].tolist()
        self._folds = Folds.of(built, generation.manifest.actions, rates)
        self._paired = has_pairs(built, scene)
        self._vectors = {
            space: _vectors(generation, space)
            for space in VECTORS
            if generation.has(f"vector/{space}.npy")
        }
        for vectors in self._vectors.values():  # loads the kernel
            near(vectors, np.zeros(1, np.int32), np.zeros(1, np.int32), 0)
        self._defaults = [
            (place, feature.default)
            for place, feature in enumerate(f for f in self.spec.features if f.kind == "numeric")
            if not np.isnan(feature.default)
        ]
        self._read = Attributes.of(items, data)
        self._peers = peers_of(built)
        self._usual = self._of_peers()
        self.vocab = self._sizes(generation)
        self._own = self._item_codes(generation)

    def matrix(self, query: Query, candidates: Candidates) -> Floats:
        """(n, M) float32, C-contiguous, in the order of `names`; NaN where missing."""
        return self._matrix(query, candidates, self._here())

    def _here(self) -> Attributes:
        """The columns as they are now."""
        if self._read.version != self._items.version:
            self._read = Attributes.of(self._items, self._config.data)
        return self._read

    def _matrix(self, query: Query, candidates: Candidates, here: Attributes) -> Floats:
        rows, n = candidates.rows, len(candidates)
        later = rows >= here.n
        if later.any():  # another process has heard of items that this one has not
            whole = np.full((n, len(self.names)), np.nan, np.float32)
            for place, default in self._defaults:
                whole[:, place] = default
            known = np.flatnonzero(~later)
            whole[known] = self._matrix(query, candidates.take(known), here)
            return whole
        columns: dict[str, Array | float] = {}
        past = Past.of(query, here.n, self._positive)
        liked = past.liked()
        columns |= self._live(candidates)
        columns |= self._windowed(candidates)
        columns |= self._pairs(candidates, columns)
        columns |= self._users(query)
        columns |= self._folds.columns(query, rows, candidates.columns, here)
        columns |= self._item(query, rows, here)
        columns |= self._evidence(candidates)
        columns |= self._asked(query, rows, here)
        columns |= self._tastes(rows, liked, here)
        columns["seen.count"], columns["seen.hours"] = touched(rows, past)
        for space in VECTORS:
            columns |= self._near(space, query, rows, liked.rows[-LAST:])
        matrix = np.empty((len(self.names), n), np.float32)
        for place, name in enumerate(self.names):
            matrix[place] = columns[name]
        matrix[np.isinf(matrix)] = np.nan
        for place, default in self._defaults:
            column = matrix[place]
            column[np.isnan(column)] = default
        return np.ascontiguousarray(matrix.T)

    @property
    def width(self) -> int:
        """Dimensions of the items' text vectors, 0 where the generation has none."""
        return int(self._vectors["text"].shape[1]) if "text" in self._vectors else 0

    def fields(self, query: Query, candidates: Candidates, vectors: bool = False) -> Fields:
        """The codes for embeddings beside the matrix; with `vectors` the items' text vectors too,
        zero for items without one."""
        rows, here = candidates.rows, self._here()
        ids = np.zeros((len(rows), len(self.categorical)), np.int32)
        known = np.flatnonzero(rows < here.n)
        for place, name in enumerate(self.categorical):
            if name in self.item_fields:
                ids[known, place] = self._codes_of(name, rows[known], here)
            else:
                ids[:, place] = self._constant(query, name)
        multi = {f"item.{name}": _ragged(table, rows, known) for name, table in here.multi.items()}
        history = query.history
        keep = (history.rows >= 0) & (history.rows < here.n)
        done = history.rows[keep]
        return Fields(
            ids,
            self._matrix(query, candidates, here),
            multi,
            done,
            history.actions[keep],
            (np.maximum(query.at - history.times[keep], 0) / 3_600_000).astype(np.float32),
            np.stack([self._codes_of(name, done, here) for name in self.item_fields], axis=1),
            taken(self._vectors["text"], rows) if vectors and self.width else None,
        )

    def _of_peers(self) -> dict[str, Array | None]:
        """What is usual of each number, by the code of the items' peers, -1 last."""
        items, peers = self._items, self._peers
        found: dict[str, Array | None] = dict.fromkeys(self._config.data.numeric)
        for name in found if peers and items.has("codes", peers) else ():
            if items.has("number", name):
                numbers, codes = items.numbers(name)[: self._base], items.codes(peers)
                found[name] = usual(numbers, codes[: self._base], items.ordered(peers))
        return found

    def _codes_of(self, field: str, rows: Rows, here: Attributes) -> NDArray[np.int32]:
        """(k,) the codes of one of `item_fields`, 0 where missing."""
        if field == "item":
            found = self._own[np.minimum(rows, self._base - 1)]
            fresh = rows >= self._base
            found[fresh] = self._hashed(here.fresh[rows[fresh] - self._base])
            return found
        codes = here.codes[field.removeprefix("item.")]
        if codes is None:
            return np.zeros(len(rows), np.int32)
        coded: NDArray[np.int32] = codes[rows] + np.int32(1)
        return coded

    def _live(self, candidates: Candidates) -> Columns:
        n = len(candidates)
        counts = _stacked(candidates, self._counters)
        found: dict[str, Array | float] = _logs(self._counters, counts)
        logs = np.stack([found[name] for name in _logged(self._counters)])
        half_lives = self._config.features.half_lives
        actions = counted(self._config)
        counts, logs = (x.reshape(len(actions), len(half_lives), n) for x in (counts, logs))
        shown = counts[actions.index(IMPRESSION)] + np.float32(STRENGTH)
        short, long = np.argmin(half_lives), np.argmax(half_lives)
        share = np.float32(half_lives[short] / half_lives[long])
        for a, action in enumerate(actions):
            if action == IMPRESSION:
                continue
            rates = (counts[a] + (self._prior[a] * STRENGTH)[:, None]) / shown
            for h, days in enumerate(half_lives):
                found[f"rate.{action}.{days:g}d"] = rates[h]
            if len(half_lives) > 1:
                found[f"trend.{action}"] = logs[a, short] - np.log(counts[a, long] * share + 1)
        return found

    def _windowed(self, candidates: Candidates) -> Columns:
        names, windows = window_names(self._config), windows_of(self._config)
        if not names:
            return {}
        counts = _stacked(candidates, names)
        found: dict[str, Array | float] = _logs(names, counts)
        actions = counted(self._config)
        counts = counts.reshape(len(actions), len(windows), -1)
        shown = counts[actions.index(IMPRESSION)] + np.float32(STRENGTH)
        for a, action in enumerate(actions):
            if action != IMPRESSION:
                rates = (counts[a] + self._prior[a, self._long] * STRENGTH) / shown
                for window, column in zip(windows, rates, strict=True):
                    found[f"rate.{action}.in{window.name}"] = column
        return found

    def _pairs(self, candidates: Candidates, live: Columns) -> Columns:
        if not self._paired:
            return {}
        names, actions = pair_names(self._config), counted(self._config)
        counts = _stacked(candidates, names)
        found: dict[str, Array | float] = _logs(names, counts)
        shown = counts[actions.index(IMPRESSION)] + np.float32(STRENGTH)
        for a, action in enumerate(actions):
            if action != IMPRESSION:
                own = live[f"rate.{action}.{longest(self._config):g}d"]
                found[f"rate.{action}.pair"] = (counts[a] + own * np.float32(STRENGTH)) / shown
        return found

    def _users(self, query: Query) -> Columns:
        if not self._config.features.users:
            return {}
        names, actions = user_names(self._config), counted(self._config)
        counts = np.array([float(query.user.get(name, 0.0)) for name in names])
        found: dict[str, Array | float] = dict(zip(_logged(names), np.log1p(counts), strict=True))
        shown = counts[actions.index(IMPRESSION)] + STRENGTH
        for a, action in enumerate(actions):
            if action != IMPRESSION:
                prior = float(self._prior[a, self._long])
                found[f"rate.user.{action}"] = float((counts[a] + prior * STRENGTH) / shown)
        return found

    def _item(self, query: Query, rows: Rows, here: Attributes) -> Columns:
        found: dict[str, Array | float] = {
            f"item.{name}": np.nan if numbers is None else numbers[rows]
            for name, numbers in here.numbers.items()
        }
        created = here.numbers["created_at"]
        age = np.nan if created is None else np.maximum((query.at - created[rows]) / DAY_MS, 0.0)
        return found | {"age.days": age}

    def _evidence(self, candidates: Candidates) -> Columns:
        found: dict[str, Array | float] = {}
        returned = np.zeros(len(candidates), np.float32)
        for name in self.spec.names("numeric"):
            if name == "recall" or name.startswith("recall."):
                column = candidates.columns.get(name)
                found[name] = np.nan if column is None else column
                if column is not None and name not in ("recall", "recall.channels"):
                    returned += ~np.isnan(column)
        return found | {"recall.channels": returned}

    def _asked(self, query: Query, rows: Rows, here: Attributes) -> Columns:
        asked = tokens.codes(query.text)
        found: dict[str, Array | float] = {
            "query.words": float(len(asked)),
            "query.actions": float(len(query.history)),
            "query.hour": float(_hour(query.at)),
            "query.weekday": float(_weekday(query.at)),
            "title.query": np.nan,
            "title.covered": np.nan,
        }
        if here.tokens is not None:
            found["title.query"], found["title.covered"] = matched(here.tokens, rows, asked)
        known = 0 <= query.item < here.n
        for name, codes in here.codes.items():
            code = codes[query.item] if codes is not None and known else -1
            found[f"same.{name}"] = (
                np.nan if codes is None or code < 0 else (codes[rows] == code).astype(np.float32)
            )
        return found

    def _tastes(self, rows: Rows, liked: Past, here: Attributes) -> Columns:
        found: dict[str, Array | float] = {}
        for name, codes in here.codes.items():
            if codes is None:
                found |= {f"{title}.{name}": np.nan for title in INTERESTS}
            else:
                columns = interest(codes, rows, liked)
                found |= {f"{title}.{name}": columns[title] for title in INTERESTS}
        for name, table in here.multi.items():
            for title, weights in (("affinity", liked.weights), ("recent", liked.recent)):
                found[f"{title}.{name}"] = (
                    np.nan if table is None else affinity_multi(table, rows, liked, weights)
                )
        for name in self._config.data.numeric:
            numbers = here.numbers[name]
            if numbers is None:
                found[f"gap.{name}"] = np.nan
                continue
            own, theirs = squashed(numbers[rows]), squashed(numbers[liked.rows])
            found[f"gap.{name}"] = gap(own, theirs, liked)
        found |= self._among_peers(rows, liked, here)
        return found

    def _among_peers(self, rows: Rows, liked: Past, here: Attributes) -> Columns:
        """How each number differs from what is usual among the item's peers."""
        found: dict[str, Array | float] = {}
        for name in self._config.data.numeric if self._peers else ():
            numbers, codes, means = here.numbers[name], here.codes[self._peers], self._usual[name]
            titles = f"item.{name}.in.{self._peers}", f"gap.{name}.in.{self._peers}"
            if numbers is None or codes is None or means is None:
                found |= dict.fromkeys(titles, np.nan)
                continue
            last = len(means) - 1  # NaN; a value that the generation does not know has no usual one
            own, theirs = (
                squashed(numbers[of]) - means[np.minimum(codes[of], last)]
                for of in (rows, liked.rows)
            )
            found |= dict(zip(titles, (own, gap(own, theirs, liked)), strict=True))
        return found

    def _near(self, space: str, query: Query, rows: Rows, liked: Rows) -> Columns:
        if space not in self._vectors:
            return {f"{space}.{name}": np.nan for name in ("last", "max", "mean", "item")}
        item = query.item if 0 <= query.item < self._base else NO_ITEM
        cosines = near(self._vectors[space], rows, liked, item)
        return {f"{space}.{name}": column for name, column in cosines.items()}

    def _constant(self, query: Query, name: str) -> int:
        """The code of a field that is the same for all candidates."""
        if name == "user":
            buckets = self.vocab["user"] - 1
            return id_hash(query.user_id) % buckets + 1 if query.user_id else 0
        if name == "query.hour":
            return _hour(query.at) + 1
        if name == "query.weekday":
            return _weekday(query.at) + 1
        value = query.user.get(name.removeprefix("user."))
        code = -1 if value is None else int(np.asarray(value))
        return code + 1 if 0 <= code < self.vocab[name] - 1 else 0

    def _sizes(self, generation: Generation) -> dict[str, int]:
        """The number of codes of every field, 0 included."""
        data, items = self._config.data, generation.items
        users = generation.users if generation.has("users") else None
        sizes = {"item": buckets(self._base) + 1, "user": buckets(len(users) if users else 0) + 1}
        sizes |= {"query.hour": 25, "query.weekday": 8}
        for name in (*data.categorical, *data.multi):
            sizes[f"item.{name}"] = _values(items, name) + 1
        for name in data.user_categorical:
            sizes[f"user.{name}"] = (_values(users, name) if users else 0) + 1
        return {name: sizes[name] for name in (*self.categorical, *self.multi)}

    def _item_codes(self, generation: Generation) -> NDArray[np.int32]:
        """(base,) the code of every item of the generation."""
        codes = np.zeros(self._base, np.int32)
        codes[generation.array("items/hash_rows")] = self._hashed(generation.array("items/hash"))
        return codes

    def _hashed(self, hashes: Array) -> NDArray[np.int32]:
        codes = hashes % np.uint64(self.vocab["item"] - 1) + np.uint64(1)
        return codes.astype(np.int32)


def _stacked(candidates: Candidates, names: Sequence[str]) -> Floats:
    """(C, n) columns of the candidates, NaN for those that are not there."""
    columns = candidates.columns
    missing = np.full(len(candidates), np.nan, np.float32)
    return np.stack([columns.get(name, missing) for name in names])


def _logs(names: Sequence[str], counts: Floats) -> dict[str, Array | float]:
    # Not np.log1p, which is three times slower: what it keeps of tiny counts says nothing.
    return dict(zip(_logged(names), np.log(counts + 1), strict=True))


def _logged(names: Sequence[str]) -> list[str]:
    return [f"log.{name}" for name in names]


def _ragged(
    table: Lists | None, rows: Rows, known: NDArray[np.intp]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The values of a multi-valued attribute: offsets (n + 1,) and codes from 1."""
    lengths = np.zeros(len(rows), np.int64)
    codes: Array = np.empty(0, np.int32)
    if table is not None:
        _, codes, lengths[known] = table.gathered(rows[known])
    return np.concatenate([[0], np.cumsum(lengths)]), (codes + 1).astype(np.int32)


def buckets(ids: int) -> int:
    """Hash buckets for that many ids: few collisions, and the same while a catalogue grows."""
    return int(min(max(1 << (4 * ids - 1).bit_length(), 1 << 10), MOST_BUCKETS))


def _hour(at: int) -> int:
    return at // 3_600_000 % 24


def _weekday(at: int) -> int:
    return (at // DAY_MS + 3) % 7  # 1970 began on a Thursday


def _values(catalogue: Catalogue, name: str) -> int:
    """How many the generation has: the models know no others."""
    return catalogue.ordered(name) if catalogue.has("codes", name) else 0


def _prior(generation: Generation) -> NDArray[np.float32]:
    """(actions, half-lives) each action's rate over all impressions; NaN without impressions."""
    counters = ItemCounters.open(generation)
    actions, half_lives = counted(generation.config), generation.config.features.half_lives
    totals = np.asarray(counters.state).sum(axis=0).reshape(len(actions), len(half_lives))
    shown = totals[actions.index(IMPRESSION)]
    with np.errstate(invalid="ignore", divide="ignore"):
        rates: NDArray[np.float32] = np.where(shown > 0, totals / shown, np.nan).astype(np.float32)
    return rates


def _vectors(generation: Generation, space: str) -> Array:
    vectors = np.asarray(generation.array(f"vector/{space}"))
    if vectors.ndim != 2 or len(vectors) != generation.items.base:
        raise BadGeneration(
            f"{generation.path}/vector/{space} has {len(vectors)} rows for "
            f"{generation.items.base} items: build the generation again"
        )
    return vectors
