"""
Click-through rates by the rankers' DeepFM: `python -m benchmarks.ctr DIR`.

DIR has train.parquet and test.parquet, and valid.parquet or else a tenth of train is validation:
`label`, and features that are numbers where their type is float and categories otherwise; to each
category comes how often its codes were clicked (benchmarks/rates.py). The model, its encoding of
rare and unheard codes and its training loop are those of the rank stage; every row is a request of
one candidate. The learning rate and its decay, the strength of the embeddings' L2 and the dropout
are those with the best log loss on validation: one after another is made weaker and stronger for as
long as that gets better, again and again until nothing does, the L2 beginning with a strength that
falls with the number of rows, as that of a prior does. With them, and for as many epochs as were
best, it learns from train and validation together; so does `logistic`, the regression of
scikit-learn, its strength chosen the same way: on the codes, and on codes and rates. The test is
looked at once a model.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import typer
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from torch import nn

from benchmarks import harness
from benchmarks.rates import Rates, apart
from funnel.config import Rank
from funnel.metrics import auc, bootstrap_interval, log_loss
from funnel.types import Array, Floats
from rank.batch import Histories
from rank.encoding import Encoding, Raw
from rank.fields import Shape
from rank.models import MODELS
from rank.train import Table, fit, predict
from rank.value import Platt, sigmoid

LADDERS: dict[str, tuple[float, ...]] = {  # what validation chooses, by the names of its settings
    "learning_rate": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    "decay": (0.7, 0.85, 0.95, 1.0),
    "embedding_l2": (1e-8, 1e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1),
    "dropout": (0.0, 0.2, 0.5),
}
PRIOR = 10.0  # the strength tried first, times rows
STRENGTHS = (1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
SETTINGS = Rank(
    width=10, hidden=(400, 400, 400), epochs=30, batch=1024, learning_rate=1e-3, dropout=0.0
)


@dataclass(frozen=True)
class Rows:
    raw: Raw
    labels: Floats

    def take(self, rows: Array) -> Rows:
        raw = replace(
            self.raw,
            ids=self.raw.ids[rows],
            numbers=self.raw.numbers[rows],
            bags=self.raw.bags[rows],
            history=Histories.none(len(rows)),
            owner=np.arange(len(rows)),
        )
        return Rows(raw, self.labels[rows])

    def joined(self, other: Rows) -> Rows:
        one, two = self.raw, other.raw
        n = len(self.labels) + len(other.labels)
        raw = Raw(
            np.concatenate([one.ids, two.ids]),
            np.concatenate([one.numbers, two.numbers]),
            np.concatenate([one.bags, two.bags]),
            Histories.none(n),
            np.arange(n),
        )
        return Rows(raw, np.concatenate([self.labels, other.labels]))

    def rated(self, rates: Floats) -> Rows:
        """With a number more for each category."""
        numbers = np.concatenate([self.raw.numbers, rates], 1)
        return Rows(replace(self.raw, numbers=numbers), self.labels)

    def table(self, encoding: Encoding) -> Table:
        n = len(self.labels)
        rows, weights = np.arange(n, dtype=np.int32), np.ones(n, np.float32)
        return Table(encoding(self.raw), self.labels, rows, weights)


def read(path: Path, kinds: dict[str, bool], values: dict[str, pa.Array]) -> Rows:
    """`kinds` says which columns are numbers; codes are places among `values`, from 1."""
    table = harness.read(path, ["label", *kinds])
    n = len(table)
    codes = [
        pc.fill_null(pc.index_in(table.column(name), values[name]), -1).to_numpy() + 1
        for name in kinds
        if not kinds[name]
    ]
    numbers = [table.column(name).to_numpy() for name in kinds if kinds[name]]
    raw = Raw(
        np.stack(codes, 1).astype(np.int32) if codes else np.zeros((n, 0), np.int32),
        np.stack(numbers, 1).astype(np.float32) if numbers else np.zeros((n, 0), np.float32),
        np.zeros((n, 0, 1), np.int32),
        Histories.none(n),
        np.arange(n),
    )
    return Rows(raw, table.column("label").to_numpy().astype(np.float32))


def splits(path: Path) -> tuple[Rows, Rows, Rows, list[int]]:
    """train, valid, test and how many codes each category has in train, 0 included."""
    first = harness.read(path / "train.parquet", ["label"]).drop_columns(["label"])
    kinds = {field.name: pa.types.is_floating(field.type) for field in first.schema}
    values = {name: pc.unique(first.column(name).drop_null()) for name in kinds if not kinds[name]}
    train, test = (read(path / f"{name}.parquet", kinds, values) for name in ("train", "test"))
    if (path / "valid.parquet").exists():
        valid = read(path / "valid.parquet", kinds, values)
    else:
        order = np.random.default_rng(0).permutation(len(train.labels))
        tenth = len(order) // 10
        train, valid = train.take(order[tenth:]), train.take(order[:tenth])
    return train, valid, test, [len(own) + 1 for own in values.values()]


class Deep:
    """DeepFM with the settings that validation liked best."""

    def __init__(self, train: Rows, valid: Rows, sizes: list[int]):
        self.encoding = Encoding.fit(train.raw, sizes, [])
        self.train, self.valid = (rows.table(self.encoding) for rows in (train, valid))
        self.sizes = sizes
        tried = dict[Rank, float]()

        def worth(settings: Rank) -> float:
            if settings not in tried:
                _, platt, logits = self.fitted(settings, 0)
                tried[settings] = found = log_loss(valid.labels, platt(logits))
                print(f"{told(settings)}: log loss {found:.4f} on validation", file=sys.stderr)
            return tried[settings]

        usual = PRIOR / len(train.labels)
        l2 = min(LADDERS["embedding_l2"], key=lambda rung: abs(np.log(rung / usual)))
        self.settings = climbed(SETTINGS.model_copy(update={"embedding_l2": l2}), worth)

    def fitted(self, settings: Rank, seed: int) -> tuple[int, Platt, Floats]:
        """Epochs, scale and logits of validation."""
        shape = self.shape(self.encoding, settings)
        made = fit(lambda: MODELS["deepfm"](shape), self.train, self.valid, settings, seed)
        logits = predict(made.model, self.valid.inputs)[:, 0]
        return made.best + 1, Platt.fit(logits, self.valid.labels), logits

    def whole(self, every: Rows, epochs: int, seed: int) -> tuple[nn.Module, Encoding]:
        """Learned from everything."""
        encoding = Encoding.fit(every.raw, self.sizes, [])
        shape = self.shape(encoding, self.settings)
        table = every.table(encoding)
        settings = self.settings.model_copy(update={"epochs": epochs})
        return fit(lambda: MODELS["deepfm"](shape), table, table, settings, seed).model, encoding

    def shape(self, encoding: Encoding, settings: Rank) -> Shape:
        return Shape(
            vocab=encoding.vocab,
            numbers=len(encoding.mean),
            width=settings.width,
            hidden=settings.hidden,
            dropout=settings.dropout,
        )


def told(settings: Rank) -> str:
    """What validation chose, or what it is asked about."""
    regular = f"L2 {settings.embedding_l2:g}, dropout {settings.dropout:g}"
    return f"{regular}, learning rate {settings.learning_rate:g}, decay {settings.decay:g}"


def climbed(start: Rank, worth: Callable[[Rank], float]) -> Rank:
    """The settings where `worth` is least: one after another is walked along its ladder, until none
    of them gets better."""
    best, before = start, None
    while best != before:
        before = best
        for name, ladder in LADDERS.items():

            def at(rung: float, of: Rank = best, name: str = name) -> float:
                return worth(of.model_copy(update={name: rung}))

            best = best.model_copy(update={name: walked(ladder, getattr(best, name), at)})
    return best


def walked(ladder: Sequence[float], start: float, worth: Callable[[float], float]) -> float:
    """The rung where `worth` is least, going down and up from `start` while it gets less."""
    worth, place = cache(worth), ladder.index(start)
    best = worth(start)
    for step in (-1, 1):
        while 0 <= place + step < len(ladder) and worth(ladder[place + step]) < best:
            place += step
            best = worth(ladder[place])
    return ladder[place]


def onehot(encoding: Encoding, rows: Rows) -> sparse.csr_matrix:
    """(N, codes + numbers) what the regression sees."""
    found = encoding(rows.raw)
    starts = np.concatenate([[0], np.cumsum(encoding.vocab)])
    n, fields = found.ids.shape
    columns = (found.ids + starts[:-1]).ravel()
    shape = n, int(starts[-1])
    ones = np.ones(n * fields, np.float32)
    return sparse.csr_matrix(
        sparse.hstack(
            [
                sparse.csr_matrix((ones, columns, np.arange(0, n * fields + 1, fields)), shape),
                sparse.csr_matrix(found.numbers),
            ]
        )
    )


def row(
    method: str, valid: tuple[Array, Array], test: tuple[Array, Array], s: float
) -> dict[str, Any]:
    """Each split as labels and probabilities."""
    low, high = _interval(*test)
    return {
        "method": method,
        "valid AUC": auc(*valid),
        "valid log loss": log_loss(*valid),
        "test AUC": auc(*test),
        "from": low,
        "to": high,
        "test log loss": log_loss(*test),
        "s": s,
        "peak MB": harness.peak_mb(),
    }


def _interval(labels: Array, p: Array) -> tuple[float, float]:
    """Of the AUC as a mean over the positives: how many negatives each one is above."""
    negatives = np.sort(p[labels == 0])
    own = p[labels > 0]
    above = np.searchsorted(negatives, own, "left") + np.searchsorted(negatives, own, "right")
    return bootstrap_interval(above / (2 * len(negatives)))


def measured(
    train: Rows, valid: Rows, test: Rows, sizes: list[int], seeds: int
) -> list[dict[str, Any]]:
    begin = time.perf_counter()
    codes = train, valid, test
    every, test = _rated(train.joined(valid), test, sizes)
    train, valid = _rated(train, valid, sizes)
    deep = Deep(train, valid, sizes)
    rows, sums = [], [np.zeros(len(part.labels)) for part in (valid, test)]
    for seed in range(seeds):
        epochs, platt, logits = deep.fitted(deep.settings, seed)
        model, encoding = deep.whole(every, epochs, seed)
        found = [platt(logits), platt(predict(model, test.table(encoding).inputs)[:, 0])]
        sums = [total + p for total, p in zip(sums, found, strict=True)]
        took, begin = time.perf_counter() - begin, time.perf_counter()
        name = f"DeepFM, seed {seed}, {told(deep.settings)}, {epochs} epochs"
        rows.append(row(name, (valid.labels, found[0]), (test.labels, found[1]), took))
    if seeds > 1:
        means = [total / seeds for total in sums]
        took = sum(one["s"] for one in rows)
        name = f"the mean of these {seeds}"
        rows.append(row(name, (valid.labels, means[0]), (test.labels, means[1]), took))
    return [
        *rows,
        logistic("logistic, codes", *codes, codes[0].joined(codes[1]), sizes),
        logistic("logistic, codes and rates", train, valid, test, every, sizes),
    ]


def _rated(learned: Rows, asked: Rows, sizes: list[int]) -> tuple[Rows, Rows]:
    """Both with the rates that are known from the first."""
    rates = Rates.of(learned.raw.ids, learned.labels, sizes)
    own = apart(learned.raw.ids, learned.labels, sizes)
    return learned.rated(own), asked.rated(rates(asked.raw.ids))


def logistic(
    name: str, train: Rows, valid: Rows, test: Rows, every: Rows, sizes: list[int]
) -> dict[str, Any]:
    begin = time.perf_counter()
    encoding = Encoding.fit(train.raw, sizes, [])
    matrices = [onehot(encoding, part) for part in (train, valid)]
    said = dict[float, Floats]()

    def worth(c: float) -> float:
        peer = LogisticRegression(C=c, max_iter=1000).fit(matrices[0], train.labels)
        said[c] = sigmoid(peer.decision_function(matrices[1])).astype(np.float32)
        return log_loss(valid.labels, said[c])

    c = walked(STRENGTHS, 0.03, worth)
    encoding = Encoding.fit(every.raw, sizes, [])
    peer = LogisticRegression(C=c, max_iter=1000).fit(onehot(encoding, every), every.labels)
    p = sigmoid(peer.decision_function(onehot(encoding, test)))
    took = time.perf_counter() - begin
    return row(f"{name}, C {c:g}", (valid.labels, said[c]), (test.labels, p), took)


def main(
    data: Annotated[Path, typer.Argument(help="Folder with train.parquet and test.parquet.")],
    seeds: Annotated[int, typer.Option(help="Networks, one a seed.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """DeepFM beside a logistic regression."""
    train, valid, test, sizes = splits(data)
    rows = measured(train, valid, test, sizes, seeds)
    counts = " + ".join(f"{len(part.labels):,}" for part in (train, valid, test))
    harness.show(
        "ctr",
        f"{data.name}: {counts} rows, {train.raw.ids.shape[1]} categories, "
        f"{train.raw.numbers.shape[1]} numbers",
        rows,
        as_json,
    )


if __name__ == "__main__":
    harness.run(main)
