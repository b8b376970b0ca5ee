"""
What the assembler gives, as the codes and numbers that rankers take.

Rare codes share code 0 with the unknown ones, so a table has rows for what training saw and no
more, however large the catalogue. Numbers come twice: by quantile, as codes, so that factorization
machines can cross them; and standardised, for the deep layers.

N candidates of R requests, K categorical fields, M numbers, L bags (multi-valued fields) of P
values, S actions of all histories together, J item fields of each
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from features.assemble import Fields
from funnel.types import Array, Floats
from rank.batch import Codes, Encoded, Histories, classes

BINS = 24  # quantiles of a number
RARE = 3  # a code seen less often in training is unknown
BAG = 8  # values of a multi-valued field that are looked at
TAIL = 0.005  # share of a number's values on either side that are clipped


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """The fields of some requests, joined. Code 0 is missing, unknown or padding."""

    ids: Codes  # (N, K)
    numbers: Floats  # (N, M), NaN where missing
    bags: Codes  # (N, L, P)
    history: Histories
    owner: NDArray[np.int64]  # (N,) the request of each candidate
    vectors: Floats | None = None  # (N, V)

    @staticmethod
    def of(fields: Sequence[Fields], multi: Sequence[str], keep: int, liked: Array) -> Raw:
        """`keep` newest actions with `liked[action]` of each request."""
        sizes = [len(one.ids) for one in fields]
        return Raw(
            np.concatenate([one.ids for one in fields]),
            np.concatenate([one.numbers for one in fields]),
            np.concatenate([_bags(one, multi) for one in fields]),
            _histories(fields, keep, liked),
            np.repeat(np.arange(len(fields)), sizes),
            _joined([one.vectors for one in fields]),
        )

    @staticmethod
    def joined(parts: Sequence[Raw]) -> Raw:
        """The parts one after another."""
        pasts = [part.history for part in parts]
        requests = np.cumsum([0, *(len(past) for past in pasts)])
        return Raw(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.numbers for part in parts]),
            np.concatenate([part.bags for part in parts]),
            Histories.joined(pasts),
            np.concatenate([p.owner + at for p, at in zip(parts, requests, strict=False)]),
            _joined([part.vectors for part in parts]),
        )


def _joined(parts: Sequence[Floats | None]) -> Floats | None:
    there = [part for part in parts if part is not None]
    return np.concatenate(there).astype(np.float32) if there else None


def _bags(fields: Fields, multi: Sequence[str]) -> Codes:
    n = len(fields.ids)
    bags = np.zeros((n, len(multi), BAG), np.int32)
    for place, name in enumerate(multi):
        offsets, codes = fields.multi[name]
        owner = np.repeat(np.arange(n), np.diff(offsets))
        within = np.arange(len(codes)) - offsets[owner]
        few = within < BAG
        bags[owner[few], place, within[few]] = codes[few]
    return bags


def _histories(fields: Sequence[Fields], keep: int, liked: Array) -> Histories:
    kept = [np.flatnonzero(liked[one.actions])[-keep:] for one in fields]
    pairs = list(zip(fields, kept, strict=True))
    return Histories(
        np.concatenate([one.items[places] for one, places in pairs]),
        np.concatenate([one.actions[places] for one, places in pairs]).astype(np.int32) + 1,
        classes(np.concatenate([one.hours[places] for one, places in pairs])),
        np.concatenate([[0], np.cumsum([len(places) for places in kept])]),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Encoding:
    """Fitted on the training data; applied there and in serving alike."""

    table: Codes  # codes of the assembler -> codes of the model, all fields one after another
    starts: NDArray[np.int64]  # (K + L + 1,) where each field begins in it, bags last
    bags: NDArray[np.int64]  # (L,) the fields that are bags
    shared: NDArray[np.int64]  # (J,) the categorical field that each history field is
    edges: Floats  # (M, BINS - 1) rising, padded with infinity
    low: Floats  # (M,) and `high`: numbers are clipped to these
    high: Floats
    mean: Floats
    scale: Floats

    @staticmethod
    def fit(raw: Raw, sizes: Sequence[int], shared: Sequence[int]) -> Encoding:
        """`sizes`: the assembler's codes of every categorical field, then of every bag."""
        k = raw.ids.shape[1]
        tables = []
        for field, size in enumerate(sizes):
            codes = raw.ids[:, field] if field < k else raw.bags[:, field - k]
            counts = np.bincount(codes.ravel(), minlength=size)
            for place in np.flatnonzero(np.asarray(shared) == field):
                counts += np.bincount(raw.history.codes[:, place], minlength=size)
            kept = counts >= RARE
            kept[0] = False
            tables.append(np.where(kept, np.cumsum(kept), 0).astype(np.int32))
        starts = np.concatenate([[0], np.cumsum([len(table) for table in tables])])
        bags = np.arange(k, len(sizes))
        columns = [_fitted(column) for column in raw.numbers.T]
        edges = np.array([column[0] for column in columns], np.float32).reshape(-1, BINS - 1)
        low, high, mean, scale = (
            np.array([column[place] for column in columns], np.float32) for place in range(1, 5)
        )
        table, own = np.concatenate(tables), np.asarray(shared, np.int64)
        return Encoding(table, starts, bags, own, edges, low, high, mean, scale)

    @property
    def vocab(self) -> tuple[int, ...]:
        """The model's codes of every categorical field, every quantile and every bag."""
        sizes = [int(self.table[a:b].max()) + 1 for a, b in pairwise(self.starts)]
        k = len(sizes) - len(self.bags)
        return (*sizes[:k], *([BINS + 1] * len(self.edges)), *sizes[k:])

    def __call__(self, raw: Raw) -> Encoded:
        own = np.arange(raw.ids.shape[1])
        ids = np.concatenate([self._codes(raw.ids, own), self.quantiles(raw.numbers)], axis=1)
        numbers = (np.clip(raw.numbers, self.low, self.high) - self.mean) / self.scale
        return Encoded(
            ids,
            np.nan_to_num(numbers, copy=False),
            self._codes(raw.bags, self.bags[:, None]),
            replace(raw.history, codes=self._codes(raw.history.codes, self.shared)),
            raw.owner,
            raw.vectors,
        )

    def quantiles(self, numbers: Floats) -> Codes:
        """(N, M) from 1 to BINS, 0 where missing."""
        codes = np.empty(numbers.shape[::-1], np.int32)
        for place, edges in enumerate(self.edges):
            codes[place] = np.searchsorted(edges, numbers[:, place], "right") + 1
        codes[np.isnan(numbers.T)] = 0
        return codes.T

    def _codes(self, codes: Codes, fields: Array) -> Codes:
        """Codes of the assembler, as the model's; codes it has not heard of are unknown."""
        start, size = self.starts[fields], np.diff(self.starts)[fields]
        known = (codes >= 0) & (codes < size)
        found: Codes = self.table[np.where(known, codes, 0) + start]
        return found

    def arrays(self) -> Mapping[str, Array]:
        """To be saved beside the weights."""
        return {name: getattr(self, name) for name in self.__slots__}


def _fitted(column: Floats) -> tuple[Floats, float, float, float, float]:
    """The edges, bounds, mean and scale of one number."""
    edges = np.full(BINS - 1, np.inf, np.float32)
    known = column[~np.isnan(column)]
    if not len(known):
        return edges, 0.0, 0.0, 0.0, 1.0
    cuts = np.unique(np.quantile(known, np.arange(1, BINS) / BINS).astype(np.float32))
    edges[: len(cuts)] = cuts
    low, high = np.quantile(known, [TAIL, 1 - TAIL])
    clipped = np.clip(known, low, high)
    return edges, float(low), float(high), float(clipped.mean()), float(clipped.std()) or 1.0
