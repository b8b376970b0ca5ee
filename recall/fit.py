"""
How much each channel counts, chosen on judged requests, and whether it is worth it.

The weights are searched from every single channel, from equal weights and from the config's by
moving shares from one channel to another in ever smaller steps, for every norm and for rrf. Each
half of the requests chooses for the other, so the gain over the best single channel is measured on
requests that had no say. A fusion that gains nothing, or so little that it may be chance, is
refused. The weights that stay are those chosen on all requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from funnel.metrics import bootstrap_interval, dcg
from funnel.types import Array, Candidates
from recall.fusion import Fusion, union
from recall.normalise import NORMS

STEPS = (0.2, 0.1, 0.05)
AT = 10  # of nDCG
FILLS_IN = 1e-6  # weight of channels that were refused: behind the best one, in their own order
WORTH = 0.01  # a gain of nDCG@10 that need not be beyond chance
FEWEST = 20  # requests in each half
SHARES = tuple(round(0.1 * step, 1) for step in range(11))  # of a channel, for its curve

Judged = tuple[Mapping[str, Candidates], Mapping[int, float]]  # by channel; grades by row
Figure = tuple[float, float, float]  # mean, and its 95 % bootstrap interval


@dataclass(frozen=True, slots=True)
class Fitted:
    """`metrics`: nDCG@10 of the fusion and of each channel, of the config's weights as `before`."""

    weights: Mapping[str, float]
    method: str
    norm: str
    refused: bool
    requests: int
    metrics: Mapping[str, Figure]
    gain: Figure  # over the best single channel, request by request
    curves: Mapping[str, Sequence[float]]  # by channel: nDCG@10 at SHARES of it

    @property
    def best(self) -> str:
        """The best single channel."""
        singles = [name for name in self.metrics if name not in ("fusion", "before")]
        return max(singles, key=lambda name: self.metrics[name][0])

    def fusion(self) -> Fusion:
        return Fusion(self.weights, self.method, self.norm)


@dataclass(frozen=True, eq=False)
class Sheet:
    """Requests as matrices under one norm: (channels, items) scores and (items,) gains each."""

    columns: Sequence[Array]
    gains: Sequence[Array]
    ideal: Array  # (requests,) the best DCG

    @staticmethod
    def of(requests: Sequence[Judged], names: Sequence[str], fusion: Fusion) -> Sheet:
        columns, gains, ideal = [], [], []
        for found, grades in requests:
            rows = union(found)
            placed = [(found[name], np.searchsorted(rows, found[name].rows)) for name in names]
            columns.append(np.stack([fusion.column(c, at, len(rows)) for c, at in placed]))
            grade = np.array([grades.get(row, 0.0) for row in rows.tolist()])
            gains.append(np.exp2(grade) - 1)
            ideal.append(dcg(-np.sort(-np.array(list(grades.values())))[:AT]))
        return Sheet(columns, gains, np.array(ideal))

    def ndcg(self, weights: Array, only: Array | None = None) -> Array:
        """nDCG@10 of each request (of those in `only`); ties by row."""
        chosen = range(len(self.columns)) if only is None else only.tolist()
        return np.array([self._one(q, weights) for q in chosen])

    def _one(self, q: int, weights: Array) -> float:
        gains = self.gains[q]
        scores = (weights @ self.columns[q]).astype(np.float32)
        n = len(scores)
        if n > 4 * AT:  # a cut first: all that ties with the last place
            worst = np.partition(scores, n - AT)[n - AT]
            pool = np.flatnonzero(scores >= worst)
            scores, gains = scores[pool], gains[pool]
        order = np.argsort(-scores, kind="stable")[:AT]
        reached = float((gains[order] / np.log2(np.arange(2, len(order) + 2))).sum())
        return reached / self.ideal[q] if self.ideal[q] > 0 else 0.0


def fit(
    requests: Sequence[Judged],
    names: Sequence[str],
    start: Fusion,
    norms: bool = True,
    methods: bool = True,
) -> Fitted:
    """Weights of the channels `names`; with `norms` every norm of a sum is tried, with `methods`
    rrf too. `start` is what the config says."""
    kinds = [start]
    if start.method == "sum" and norms:
        kinds = [replace(start, norm=norm) for norm in NORMS]
    if methods:
        kinds.append(replace(start, method="rrf"))
    sheets = [Sheet.of(requests, names, kind) for kind in kinds]
    own = np.array([start.weights.get(name, 0.0) for name in names])
    own = own / own.sum() if own.sum() else np.full(len(names), 1 / len(names))
    singles = _singles(requests, names)
    halves = np.arange(0, len(requests), 2), np.arange(1, len(requests), 2)
    apart = np.empty(len(requests))
    for half, other in (halves, halves[::-1]):
        sheet, weights = chosen(sheets, own, half)
        apart[other] = sheets[sheet].ndcg(weights, other)
    strongest = max(names, key=lambda name: singles[name].mean())
    gains = apart - singles[strongest]
    gain = figure(gains)
    refused = gain[0] <= 0 or (gain[0] < WORTH and gain[1] <= 0)
    sheet, weights = chosen(sheets, own, np.arange(len(requests)))
    kind, reached = kinds[sheet], apart
    if refused:  # by places, so that the order is the channel's own
        kind, reached = replace(start, method="sum", norm="rank"), singles[strongest]
        weights = np.array([1.0 if name == strongest else FILLS_IN for name in names])
    before = Sheet.of(requests, names, start).ndcg(own)
    metrics = {"fusion": reached, "before": before, **singles}
    return Fitted(
        dict(zip(names, (round(float(w), 6) for w in weights), strict=True)),
        kind.method,
        kind.norm,
        refused,
        len(requests),
        {name: figure(values) for name, values in metrics.items()},
        gain,
        _curves(sheets[sheet], names, weights),
    )


def chosen(sheets: Sequence[Sheet], own: Array, only: Array) -> tuple[int, Array]:
    """The sheet and the weights (channels,) of the highest mean nDCG over the requests `only`; of
    equal ones the more even weights, which lean less on one channel."""
    best: tuple[float, float, int, Array] | None = None
    for number, sheet in enumerate(sheets):
        value, weights = _climbed(sheet, own, only)
        found = value, -float(np.square(weights).sum()), number, weights
        if best is None or found[:2] > best[:2]:
            best = found
    assert best is not None
    return best[2], best[3]


def _climbed(sheet: Sheet, own: Array, only: Array) -> tuple[float, Array]:
    known: dict[bytes, float] = {}

    def value(weights: Array) -> float:
        key = weights.tobytes()
        if key not in known:
            known[key] = round(float(sheet.ndcg(weights, only).mean()), 12)
        return known[key]

    n = len(own)
    starts = [own, np.full(n, 1 / n), *np.eye(n)]
    weights = max(starts, key=lambda w: (value(w), -float(np.square(w).sum())))
    for step in STEPS:
        while True:
            moves = [
                moved
                for giver, taker in permutations(range(n), 2)
                if (moved := _moved(weights, giver, taker, step)) is not None
            ]
            better = max(moves, key=value, default=weights)
            if value(better) <= value(weights):
                break
            weights = better
    return value(weights), weights


def _moved(weights: Array, giver: int, taker: int, step: float) -> Array | None:
    share = min(step, weights[giver])
    if share <= 0:
        return None
    moved = weights.copy()
    moved[giver], moved[taker] = round(moved[giver] - share, 9), round(moved[taker] + share, 9)
    return moved


def _singles(requests: Sequence[Judged], names: Sequence[str]) -> dict[str, Array]:
    """nDCG@10 of each channel alone, request by request."""
    found: dict[str, Array] = {}
    for name in names:
        alone = [
            ({name: lists[name]} if name in lists else {}, grades) for lists, grades in requests
        ]
        found[name] = Sheet.of(alone, [name], Fusion({}, "sum", "rank")).ndcg(np.ones(1))
    return found


def _curves(sheet: Sheet, names: Sequence[str], weights: Array) -> dict[str, list[float]]:
    """What becomes of nDCG@10 as a channel's share goes from 0 to 1, the others as they are."""
    curves: dict[str, list[float]] = {}
    for place, name in enumerate(names):
        rest = weights.copy()
        rest[place] = 0.0
        rest = rest / rest.sum() if rest.sum() else np.where(np.arange(len(names)) == place, 0, 1)
        curve = []
        for share in SHARES:
            mixed = (1 - share) * rest / rest.sum()
            mixed[place] = share
            curve.append(round(float(sheet.ndcg(mixed).mean()), 4))
        curves[name] = curve
    return curves


def figure(values: Array) -> Figure:
    low, high = bootstrap_interval(values)
    return round(float(values.mean()), 4), round(low, 4), round(high, 4)
