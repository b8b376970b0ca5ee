"""
What rank orders by, and what it says about a click, out of the network's logits.

The network and prerank's trees err in different places, so their sum orders better than either:
logit + weight · prerank. The network is trained without prerank's score, which is better on
the requests that prerank was fitted to than it will ever be again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from features.fold import DAY_MS
from funnel.catalogue import Catalogue
from funnel.choice import likeliest, log_likelihood
from funnel.formula import Formula
from funnel.generation import Generation
from funnel.types import Array, Candidates, Floats, Query, taken

LOGIT, AGE = "rank.logit", "age.days"
ALWAYS = "available", "bid"  # numbers of catalogues that have them, named in the config or not
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # that `weighed` tries
NEAREST = (3, 4, 2, 5, 1, 6, 7, 0)  # their places, from 1 on; prerank weighs more before less


@dataclass(frozen=True, slots=True)
class Platt:
    """sigmoid(scale · logit + offset): a probability out of a logit.
    Platt 1999, "Probabilistic outputs for support vector machines"."""

    scale: float = 1.0
    offset: float = 0.0

    @staticmethod
    def fit(logits: Array, labels: Array) -> Platt:
        """The likeliest for `labels` > 0, pulled a little to what it starts from."""
        x = np.asarray(logits, np.float64)
        sign = np.where(np.asarray(labels) > 0, 1.0, -1.0)
        start = np.array([1.0, 0.0])

        def loss(at: Array) -> tuple[float, Array]:
            margin = sign * (at[0] * x + at[1])
            slope = -sign * sigmoid(-margin)
            pull = at - start
            value = np.logaddexp(0, -margin).sum() + 0.5 * pull @ pull
            return float(value), np.array([slope @ x, slope.sum()]) + pull

        at = minimize(loss, start, jac=True, method="L-BFGS-B").x
        return Platt(float(at[0]), float(at[1]))

    def __call__(self, logits: Array) -> Floats:
        """(n,) probabilities."""
        return sigmoid(self.scale * np.asarray(logits, np.float64) + self.offset).astype(np.float32)


def sigmoid(x: Array) -> NDArray[np.float64]:
    """1 / (1 + e^-x), without an overflow on either side."""
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(x, np.float64)))


@dataclass(frozen=True, slots=True)
class Head:
    """What one column of the logits says: how likely `action`, where that of the head before it
    happened."""

    action: str
    level: float  # it happened where the label is above this
    platt: Platt = Platt()


class Logits(Protocol):
    """(n, T) a column a head."""

    def logits(self, query: Query, candidates: Candidates) -> Floats: ...


def nested(logits: Array) -> NDArray[np.float64]:
    """(N, T) logits of actions that nest -> (N, T) the logits of each as such: p_t is the product
    of the sigmoids up to t."""
    likely = -np.logaddexp(0, -np.asarray(logits, np.float64)).cumsum(axis=1)
    at_most = np.minimum(likely, -1e-12)
    joint: NDArray[np.float64] = at_most - np.log(-np.expm1(at_most))
    return joint


def probabilities(heads: Sequence[Head], logits: Array) -> dict[str, Floats]:
    """`p.<action>` of every head. A further action is never likelier than the one before it."""
    joint = nested(logits)
    columns = np.stack([head.platt(joint[:, place]) for place, head in enumerate(heads)])
    columns = np.minimum.accumulate(columns, axis=0)
    return {f"p.{head.action}": own for head, own in zip(heads, columns, strict=True)}


@dataclass(frozen=True, slots=True)
class Predicted:
    """A stage that adds the network's logit and the probabilities of its heads."""

    network: Logits
    heads: tuple[Head, ...]

    def run(self, query: Query, candidates: Candidates) -> Candidates:
        logits = self.network.logits(query, candidates)
        return candidates.with_columns({LOGIT: logits[:, 0], **probabilities(self.heads, logits)})


def known_names(
    generation: Generation, heads: Sequence[Head], channels: Iterable[str]
) -> tuple[str, ...]:
    """What a formula may name."""
    items = generation.items
    named = dict.fromkeys((*generation.config.data.numeric, *ALWAYS))
    numbers = [f"item.{name}" for name in named if items.has("number", name)]
    return (
        *(f"p.{head.action}" for head in heads),
        "rank",
        LOGIT,
        "prerank",
        "recall",
        *(f"recall.{channel}" for channel in channels),
        *numbers,
        AGE,
    )


@dataclass(frozen=True, eq=False)
class Valued:
    """A `Scorer`: the value of a formula; what it names and is not there is NaN."""

    formula: Formula
    items: Catalogue

    def score(self, query: Query, candidates: Candidates) -> Floats:
        columns = {name: self._column(name, query, candidates) for name in self.formula.names}
        return self.formula(columns, len(candidates)).astype(np.float32)

    def _column(self, name: str, query: Query, candidates: Candidates) -> Array:
        if name in candidates.columns:
            return candidates.columns[name]
        own = "created_at" if name == AGE else name.removeprefix("item.")
        if own == name or not self.items.has("number", own):
            return np.full(len(candidates), np.nan)
        with self.items.still():
            numbers: Array = taken(self.items.numbers(own), candidates.rows, np.nan)
        numbers = numbers.astype(np.float64)
        return np.maximum(query.at - numbers, 0) / DAY_MS if name == AGE else numbers


@dataclass(frozen=True, slots=True)
class Blend:
    """A `Scorer`: logit + weight · prerank. `usual` is what prerank says on average: it stands in
    where prerank was late or is switched off, so that such candidates lose nothing by it."""

    weight: float = 0.0
    usual: float = 0.0

    def score(self, query: Query, candidates: Candidates) -> Floats:
        before = candidates.columns.get("prerank", np.full(len(candidates), np.nan))
        return self.of(candidates.columns[LOGIT], before)

    def of(self, logits: Array, before: Array) -> Floats:
        known = np.where(np.isfinite(before), before, self.usual)
        return (logits + self.weight * known).astype(np.float32)


def likelier(
    logits: Array, before: Array, labels: Array, sizes: Array, counts: Array
) -> NDArray[np.float64]:
    """(R,) by how much likelier, in logarithms, network and prerank together make what was wanted
    in each request than prerank does alone; for each half with what fits the other half."""
    owner, even = np.repeat(np.arange(len(sizes)), sizes), np.arange(len(sizes)) % 2 == 0
    found = np.zeros(len(sizes))
    alone = np.asarray(before, np.float64)[:, None]
    both = np.concatenate([alone, np.asarray(logits, np.float64)[:, None]], axis=1)
    for own in (even, ~even):
        learn = ~own[owner]

        def said(columns: Array, own: Array = own, learn: Array = learn) -> Array:
            at = likeliest(columns[learn], labels[learn], sizes[~own], counts[~own])
            return log_likelihood(columns @ at, labels, sizes)

        found[own] = (said(both) - said(alone))[own]
    return found


def weighed(judge: Callable[[float], Array], counts: Array) -> tuple[float, Array]:
    """The weight of `WEIGHTS` nearest to 1 that `judge` (weight -> (R,) quality) does not like less
    than the best by more than a standard error of the requests' differences (the rule of one
    standard error, Breiman et al. 1984, "Classification and regression trees", section 3.4.3): of
    few requests the very best is luck. And honest qualities: of one half with the weight that the
    other half chose, so that a choice is no advantage. `counts` (R,) says how much each request
    counts."""
    values = np.stack([judge(weight) for weight in WEIGHTS])  # (weights, R)

    def best(of: Array) -> int:
        own = (values * counts)[:, of]
        if own.shape[1] < 2:
            return NEAREST[0]
        short = own[own.sum(1).argmax()] - own  # (weights, R) below the best
        error = short.std(1, ddof=1) / np.sqrt(own.shape[1])
        return next(place for place in NEAREST if short[place].mean() <= error[place])

    even = np.arange(len(counts)) % 2 == 0
    honest = np.empty(len(counts))
    for own in (even, ~even):
        honest[own] = values[best(~own), own]
    return WEIGHTS[best(even | ~even)], honest
