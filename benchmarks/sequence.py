"""
What a user meets next, by the order of what was met before: `python -m benchmarks.sequence DIR`.

DIR has sequences.parquet: (user, items: a list in order) or (user, item, pos). Of a sequence of
three items or more the last is the test's, the one before it validation's; shorter ones are trained
on. All items are ranked but those met before; with `--negatives 100` the wanted item is ranked
among so many drawn items that the user never met, as SASRec was measured.

The network is the encoder of the transformer ranker (rank/next_item.py), also with what items have
in common where DIR has item_attributes.parquet: (item, attributes: a list of codes). It stops where
NDCG@10 of validation does, which also chooses the width. Published figures learn from no item of
validation either; `and from validation` is a network that did, for as many epochs, as one would
serve it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks import behaviour, harness
from funnel.metrics import bootstrap_interval
from funnel.types import Array, Floats
from rank.next_item import (
    Attributes,
    Learned,
    NextItem,
    Sequences,
    Training,
    fit,
    ranks,
    ranks_among,
)

AT = 10
DEFAULTS = Training()
UNITS = 64, 128


def read(path: Path) -> Sequences:
    offsets, items = behaviour.sequences(path / "sequences.parquet")
    return Sequences(items.astype(np.int64), offsets.astype(np.int64))


def attributes(path: Path, items: int) -> Attributes | None:
    """What each item has in common with others; None where nothing is known."""
    file = path / "item_attributes.parquet"
    if not file.is_file():
        return None
    table = harness.read(file, ["item", "attributes"])
    offsets, codes = behaviour.lists(table, "attributes")
    owner = np.repeat(table.column("item").to_numpy(), np.diff(offsets))
    known = (owner >= 0) & (owner < items)  # of others there are no sequences
    owner, codes = owner[known], codes[known].astype(np.int64)
    counts = np.bincount(owner, minlength=items)
    return Attributes(codes[np.argsort(owner, kind="stable")], np.cumsum([0, *counts]))


def unmet(every: Sequences, items: int, owners: Array, count: int, seed: int) -> Array:
    """(requests, count) items drawn evenly of those that the user of each request never met."""
    draw = np.random.default_rng(seed)
    met = np.unique(np.repeat(np.arange(len(every)), every.lengths) * items + every.items)
    drawn = draw.integers(0, items, (len(owners), count))
    while True:
        keys = owners[:, None] * items + drawn
        again = met[np.minimum(np.searchsorted(met, keys), len(met) - 1)] == keys
        if not again.any():
            return drawn
        drawn[again] = draw.integers(0, items, int(again.sum()))


class Split:
    """Everyone with three items or more, asked for the last but `without`."""

    def __init__(self, every: Sequences, without: int, training: Training, others: Array | None):
        users = np.flatnonzero(every.lengths >= 3)
        ends = every.offsets[users + 1] - 1 - without
        starts = every.offsets[users]
        self.goals = every.items[ends]
        self.past = _cut(every, np.maximum(ends - training.past, starts), ends)
        self.seen = _cut(every, starts, ends)
        self.others = None if others is None else others[users]

    def ranks(self, model: NextItem) -> Floats:
        """(users,) places above each wanted item."""
        with torch.inference_mode():
            if self.others is None:
                return ranks(model, self.past, self.goals, self.seen)
            return ranks_among(model, self.past, self.goals, self.others)

    def popular(self, counts: Array) -> Floats:
        """The same by how often an item was met."""
        noise = np.random.default_rng(0).random(len(counts))
        order = np.argsort(np.lexsort((noise, counts))).astype(np.float64)  # higher is better
        if self.others is not None:
            above = (order[self.others] > order[self.goals][:, None]).sum(1)
        else:
            above = len(counts) - 1 - order[self.goals]
            owner = np.repeat(np.arange(len(self.goals)), self.seen.lengths)
            key = np.unique(owner * len(counts) + self.seen.items)
            owner, met = key // len(counts), key % len(counts)
            better = order[met] > order[self.goals][owner]
            above = above - np.bincount(owner, better, len(self.goals))
        return np.asarray(above, np.float32)


def _cut(every: Sequences, starts: Array, ends: Array) -> Sequences:
    offsets = np.concatenate([[0], np.cumsum(ends - starts)])
    owner = np.repeat(np.arange(len(starts)), ends - starts)
    at = np.arange(offsets[-1]) + (starts - offsets[:-1])[owner]
    return Sequences(every.items[at], offsets)


def figures(places: Floats) -> dict[str, float]:
    hit = places < AT
    return {"HR@10": float(hit.mean()), "NDCG@10": float((hit / np.log2(places + 2)).mean())}


def row(
    method: str, valid: Floats | None, test: Floats, seconds: float, chosen: str = ""
) -> dict[str, Any]:
    """`valid` is None where it was learned from."""
    found = figures(test)
    known = dict.fromkeys(found, "") if valid is None else figures(valid)
    low, high = bootstrap_interval((test < AT) / np.log2(test + 2))
    return {
        "method": method,
        "chosen": chosen,
        **{f"valid {name}": value for name, value in known.items()},
        **{f"test {name}": value for name, value in found.items()},
        "NDCG@10 from": low,
        "to": high,
        "s": seconds,
        "peak MB": harness.peak_mb(),
    }


def measured(
    every: Sequences,
    training: Training,
    units: Sequence[int],
    negatives: int,
    seeds: int,
    known: Attributes | None,
    again: bool,
) -> list[dict[str, Any]]:
    """A row for each of the `units` (widths) and seeds; `chosen` is the one that validation likes
    most of its kind. `known` is None where items have nothing in common; `again`: the chosen ones
    learn from validation too."""
    items = int(every.items.max()) + 1
    users = np.arange(len(every))
    others = [unmet(every, items, users, negatives, seed) if negatives else None for seed in (1, 2)]
    valid, test = (
        Split(every, without, training, drawn)
        for without, drawn in zip((1, 0), others, strict=True)
    )
    early, whole = _learned(every, 2), _learned(every, 1)
    begin = time.perf_counter()
    counts = np.bincount(early.items, minlength=items)
    took = time.perf_counter() - begin
    rows = [row("popular", valid.popular(counts), test.popular(counts), took)]

    def judge(model: NextItem) -> float:
        return figures(valid.ranks(model))["NDCG@10"]

    kinds = {"transformer": None} | ({} if known is None else {"with attributes": known})
    for kind, own in kinds.items():
        tried: dict[tuple[int, int], Learned] = {}
        first = len(rows)
        for unit, seed in product(units, range(seeds)):
            begin = time.perf_counter()
            settings = replace(training, unit=unit)
            found = fit(early, items, settings, judge, seed, _told(begin), attributes=own)
            took = time.perf_counter() - begin
            tried[unit, seed] = found
            name = f"{kind}, width {unit}, seed {seed}, {found.best + 1} epochs"
            rows.append(row(name, valid.ranks(found.model), test.ranks(found.model), took))
        liked = max(tried, key=lambda one: tried[one].judged[tried[one].best])
        rows[first + list(tried).index(liked)]["chosen"] = "by validation"
        if again:
            begin = time.perf_counter()
            (unit, seed), until = liked, tried[liked].best + 1
            settings = replace(training, unit=unit)
            model = fit(whole, items, settings, None, seed, _told(begin), until, own).model
            took = time.perf_counter() - begin
            rows.append(row("  and from validation", None, test.ranks(model), took))
    return rows


def _told(begin: float) -> Callable[[int, float], None]:
    def tell(epoch: int, judged: float) -> None:
        took = time.perf_counter() - begin
        print(f"epoch {epoch + 1}: validation NDCG@10 {judged:.4f}, {took:.0f} s", file=sys.stderr)

    return tell


def _learned(every: Sequences, without: int) -> Sequences:
    """Without so many of the last items of those who are asked."""
    lengths = np.where(every.lengths >= 3, every.lengths - without, every.lengths)
    return _cut(every, every.offsets[:-1], every.offsets[:-1] + lengths)


def main(
    data: Annotated[Path, typer.Argument(help="Folder with sequences.parquet.")],
    negatives: Annotated[int, typer.Option(help="Drawn items; 0: all are ranked.")] = 0,
    seeds: Annotated[int, typer.Option(help="Networks, one a seed.")] = 1,
    epochs: Annotated[int, typer.Option(help="At most.")] = DEFAULTS.epochs,
    sampled: Annotated[
        int, typer.Option(help="Items of the softmax in training; 0: all.")
    ] = DEFAULTS.negatives,
    unit: Annotated[
        list[int] | None,
        typer.Option(help="Width of the network (repeat).", show_default="64, 128"),
    ] = None,
    places: Annotated[
        bool, typer.Option(help="Items know how many come after them.")
    ] = DEFAULTS.places,
    unmet: Annotated[
        bool, typer.Option("--unmet", help="Draw items that nobody met in training too.")
    ] = DEFAULTS.unmet,
    again: Annotated[
        bool, typer.Option("--again", help="Learn a second time, from validation too.")
    ] = False,
    dropout: Annotated[float, typer.Option(help="Of the network.")] = DEFAULTS.dropout,
    temperature: Annotated[
        float, typer.Option(help="Of the cosines that score; 0: plain products.")
    ] = DEFAULTS.temperature,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """The transformer on the next item: leave one out."""
    every = read(data)
    training = Training(
        epochs=epochs,
        negatives=sampled,
        dropout=dropout,
        temperature=temperature,
        places=places,
        unmet=unmet,
    )
    items = int(every.items.max()) + 1
    known = attributes(data, items)
    rows = measured(every, training, unit or UNITS, negatives, seeds, known, again)
    told = f"{data.name}: {len(every):,} users, {items:,} items, {len(every.items):,} actions"
    harness.show("sequence", told, rows, as_json)


if __name__ == "__main__":
    harness.run(main)
