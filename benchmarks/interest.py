"""
What an activation unit is worth: `python -m benchmarks.interest DIR`.

DIR has sequences.parquet as in benchmarks.sequence. For every prefix of a sequence the next item is
to be told from drawn items that the user never met, one or four for each and others every epoch.
`DIN` is the ranker of rank/din.py, `mean pooling` the same network with the mean of the actions in
the place of the unit; both are trained by the trainer of the rank stage, stop where the loss of
validation does (with as many drawn items as in training), and see the same rows. The last item of
a sequence is the test's, the one before it validation's. gAUC is the mean over users of how many of
100 drawn items (20 in validation) are below the wanted one; `more` is by how many points the unit
is above the mean, with the 95 % bootstrap interval of the users' differences.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn

from benchmarks import harness
from benchmarks.sequence import read, unmet
from funnel.config import Rank
from funnel.metrics import bootstrap_interval
from funnel.types import Array, Floats
from rank.batch import Encoded, Histories
from rank.din import DIN
from rank.fields import Shape
from rank.next_item import Sequences
from rank.pairs import Pairs
from rank.train import Table, fit, predict

ASKED = 20, 100  # drawn items of a user of validation and of the test
# What validation liked most of Beauty with one drawn item, for both networks, of 2e-3 to 8e-3, L2
# of 3e-5 to 3e-4 and decays of 0.85 to 1: where every epoch draws others, none is needed.
SETTINGS = Rank(
    epochs=30, batch=1024, learning_rate=4e-3, decay=1.0, embedding_l2=1e-4, dropout=0.2
)
PAST = 50
FIRST = 10  # seed of the items drawn for the first epoch of training


class Mean(nn.Module):
    """In the unit's place: every action counts the same for every candidate."""

    def forward(self, q: Tensor, k: Tensor, offsets: Tensor, pairs: Pairs | None) -> Tensor:
        if pairs is None:
            return k.sum(0, keepdim=True).expand(len(q), -1) / max(len(k), 1)
        lengths = pairs.sums(torch.ones_like(pairs.mine))
        return pairs.sums(pairs.actions(k)) / lengths.clamp(min=1)[:, None]


def pooled(shape: Shape) -> nn.Module:
    model = DIN(shape)
    model.unit = Mean()  # type: ignore[assignment]
    return model


def table(every: Sequences, ends: Array, owners: Array, others: Array) -> Table:
    """A request for each place in `ends`, of the user in `owners`: the item there, then `others`
    (requests, k); its history is what the user met before."""
    starts = np.maximum(every.offsets[owners], ends - PAST)
    offsets = np.concatenate([[0], np.cumsum(ends - starts)])
    mine = np.repeat(np.arange(len(ends)), ends - starts)
    at = np.arange(offsets[-1]) + (starts - offsets[:-1])[mine]
    past = every.items[at].astype(np.int32)[:, None] + 1
    ids = np.concatenate([every.items[ends][:, None], others], 1).astype(np.int32) + 1
    n, width = ids.size, ids.shape[1]
    labels = np.zeros(ids.shape, np.float32)
    labels[:, 0] = 1
    known = np.ones(len(past), np.int32)
    inputs = Encoded(
        ids.reshape(-1, 1),
        np.zeros((n, 0), np.float32),
        np.zeros((n, 0, 1), np.int32),
        Histories(past, known, known, offsets),
        np.repeat(np.arange(len(ids)), width),
    )
    rows, weights = np.arange(n, dtype=np.int32), np.ones(len(ids), np.float32)
    return Table(inputs, labels.ravel(), rows, weights)


def below(model: nn.Module, asked: Table) -> Floats:
    """(users,) the share of drawn items below the wanted one; ties count half."""
    scores = predict(model, asked.inputs)[:, 0].reshape(len(asked.weights), -1)
    wanted, others = scores[:, :1], scores[:, 1:]
    found: Floats = ((others < wanted) + 0.5 * (others == wanted)).mean(1)
    return found


def measured(every: Sequences, negatives: int, seeds: int) -> list[dict[str, Any]]:
    items = int(every.items.max()) + 1
    users = np.flatnonzero(every.lengths >= 4)  # something is left to learn from

    def asked(back: int, count: int, seed: int) -> Table:
        others = unmet(every, items, users, count, seed)
        return table(every, every.offsets[users + 1] - back, users, others)

    stop, valid, test = asked(2, negatives, 3), asked(2, ASKED[0], 1), asked(1, ASKED[1], 1)
    owner = np.repeat(np.arange(len(every)), every.lengths)
    within = np.arange(len(owner)) - every.offsets[:-1][owner]
    held = np.where(every.lengths >= 4, 2, 0)
    ends = np.flatnonzero((within > 0) & (within < (every.lengths - held)[owner]))

    def drawn(epoch: int) -> Table:
        others = unmet(every, items, owner[ends], negatives, seed=FIRST + epoch)
        return table(every, ends, owner[ends], others)

    learned = drawn(0)
    shape = Shape(
        vocab=(items + 1,), shared=(0,), actions=2, width=32, unit=64, dropout=SETTINGS.dropout
    )
    kinds: dict[str, Callable[[], nn.Module]] = {
        "mean pooling": lambda: pooled(shape),
        "DIN": lambda: DIN(shape),
    }
    rows, values = [], dict[str, Floats]()
    for name, make in kinds.items():
        begin = time.perf_counter()
        fitted = []
        for seed in range(seeds):
            one = fit(make, learned, stop, SETTINGS, seed, draw=drawn)
            fitted.append(one)
            print(
                f"{name}, 1:{negatives}, seed {seed}: {len(one.epochs)} epochs, the best "
                f"{one.best + 1}, loss {one.epochs[one.best].loss:.4f} on validation, "
                f"{time.perf_counter() - begin:.0f} s",
                file=sys.stderr,
            )
        took = time.perf_counter() - begin
        told, found = (
            np.mean([below(one.model, table) for one in fitted], 0) for table in (valid, test)
        )
        values[name] = found
        epochs = sum(len(one.epochs) for one in fitted)
        rows.append(
            {
                "method": f"{name}, 1:{negatives}",
                "epochs": float(np.mean([one.best + 1 for one in fitted])),
                "valid gAUC": 100 * float(told.mean()),
                "test gAUC": 100 * float(found.mean()),
                "more": "",
                "from": "",
                "to": "",
                "rows/s": len(learned.labels) * epochs / took,
                "s": took,
                "peak MB": harness.peak_mb(),
            }
        )
    more = 100 * (values["DIN"] - values["mean pooling"])
    low, high = bootstrap_interval(more)
    rows[1] |= {"more": float(more.mean()), "from": low, "to": high}
    return rows


def main(
    data: Annotated[Path, typer.Argument(help="Folder with sequences.parquet.")],
    seeds: Annotated[int, typer.Option(min=1, help="Networks of a kind, one a seed.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """DIN beside the same network with mean pooling."""
    every = read(data)
    rows = [row for negatives in (1, 4) for row in measured(every, negatives, seeds)]
    harness.show("interest", f"{data.name}: {len(every):,} users", rows, as_json)


if __name__ == "__main__":
    harness.run(main)
