"""
Trains the two towers on what users wanted: after a search, and after what they had wanted before.

A pair is a query and an item that a search for it led to, or the newest wanted items of a user and
the one wanted next. The latest tenth of the pairs validates: training stops where the share of
them whose item is among the first 50 no longer grows, and starts again on all pairs for as many
epochs. The later draft takes as many as the earlier one found.

Writes two_tower/{towers/, items.npy, items.faiss} into both drafts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from funnel.catalogue import Catalogue
from funnel.config import Config, TwoTower
from funnel.types import Array, best
from jobs import events, wants
from jobs.command import command
from jobs.fresh import fresh, removed
from jobs.towers import ALONE, Batch, Net, Optimizer, loss
from jobs.wants import Wants
from jobs.work import Work
from recall.nearest import write_index
from recall.towers import Bags, Reader, Towers
from recall.two_tower import HALF_LIFE

FEWEST = 200  # pairs; with fewer there is nothing to learn
VALID = 0.1  # latest share of the pairs
JUDGED = 1000  # of each kind of validation pairs
FIRST = 50  # items that a validation pair's item has to be among
PATIENCE = 3  # epochs without an improvement
STEPS = 50  # of an epoch at least: small data gets smaller batches
LEAST = 64  # pairs of a batch

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Searches first, then histories: m pairs, each of these in order of time."""

    wanted: Array  # (m,) int32 the item
    times: Array  # (m,) int64
    query: Array  # (s,) int64 number of the query of each of the s searches
    place: Array  # (m - s,) int64 of the wanted item in `wants`: the history comes before it
    queries: Bags  # of each number
    wants: Wants
    begin: Array  # (places,) int64 where the user of each place in `wants` begins

    def __len__(self) -> int:
        return len(self.wanted)

    def batch(self, chosen: Array, history: int) -> tuple[Bags, Bags, Array]:
        """The pairs `chosen` (B,): texts of some, histories (places are rows) of the others, and
        the wanted items of both, the searches first."""
        searches = chosen[chosen < len(self.query)]
        places = self.place[chosen[chosen >= len(self.query)] - len(self.query)]
        sizes = np.minimum(places - self.begin[places], history)
        indptr = np.concatenate([[0], np.cumsum(sizes)])
        ago = np.arange(indptr[-1]) - np.repeat(indptr[:-1], sizes)  # 0: the newest
        at = np.repeat(places, sizes) - 1 - ago
        weights = self.wants.weights[at] * np.exp2(-ago / HALF_LIFE)
        totals = np.add.reduceat(weights, indptr[:-1]) if len(sizes) else np.empty(0)
        weights = (weights / np.repeat(totals, sizes)).astype(np.float32)
        histories = Bags(indptr, self.wants.rows[at].astype(np.int64), weights)
        order = np.concatenate([searches, chosen[chosen >= len(self.query)]])
        return self.queries.take(self.query[searches]), histories, self.wanted[order]


def searched(found: DataFrame, config: Config, before: int) -> DataFrame:
    """query, row, timestamp: the positive events after a search before the cut."""
    weight = events.positives(config.data.positive, config.all_actions)
    hits = found.where((F.col("timestamp") < before) & (F.col("query") != "") & (weight > 0))
    return hits.select(F.lower("query").alias("query"), "row", "timestamp")


def pairs(searches: pa.Table, found: Wants, reader: Reader, most: int) -> Pairs:
    """Of each kind the newest `most`. Queries without words and first wants are left out."""
    searches = searches.sort_by([(name, "ascending") for name in ("timestamp", "query", "row")])
    texts = searches.column("query").combine_chunks()
    names = pc.unique(texts).sort()
    queries = reader.queries(names.to_pylist())
    number = pc.index_in(texts, value_set=names).to_numpy(zero_copy_only=False).astype(np.int64)
    typed = np.flatnonzero(np.diff(queries.indptr)[number] > 0)[-most:]
    rows, times = (searches.column(n).cast(pa.int64()).to_numpy() for n in ("row", "timestamp"))
    begin = np.searchsorted(found.users, found.users)
    later = np.flatnonzero(begin < np.arange(len(begin)))
    later = later[np.argsort(found.times[later], kind="stable")][-most:]
    return Pairs(
        np.concatenate([rows[typed], found.rows[later]]).astype(np.int32),
        np.concatenate([times[typed], found.times[later]]),
        number[typed],
        later,
        queries,
        found,
        begin,
    )


@contextmanager
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True, eq=False)
class Trainer:
    """Pairs and what the items are, and the settings of the towers."""

    pairs: Pairs
    contents: Bags  # of all items
    reader: Reader
    settings: TwoTower
    seed: int
    tell: Tell = print

    def epochs(self) -> int:
        """How many are best for pairs that come later, by the ones that did."""
        late = np.zeros(len(self.pairs), np.bool_)
        late[np.argsort(self.pairs.times, kind="stable")[-int(VALID * len(late)) :]] = True
        best_one, most, learned, valid = 1, -1.0, np.flatnonzero(~late), self.judged(late)
        for epoch, net in self.trained(learned, self.settings.epochs):
            share = self.share(net.served(self.reader), valid)
            self.tell(f"two_tower: epoch {epoch}, recall@{FIRST} {share:.4f} on validation")
            if share > most:
                best_one, most = epoch, share
            elif epoch - best_one >= PATIENCE:
                break
        return best_one

    def fit(self, epochs: int) -> Towers:
        """The towers after so many epochs over all pairs."""
        for epoch, net in self.trained(np.arange(len(self.pairs)), epochs):
            self.tell(f"two_tower: epoch {epoch} of {epochs}")
            last = net
        return last.served(self.reader)

    def trained(self, learned: Array, epochs: int) -> Iterator[tuple[int, Net]]:
        """The net after each epoch over the pairs `learned`.

        On a CPU one thread trains, so that the sums, and with them the towers, are the same each
        time; batches are small, and more threads gain little.
        """
        settings, items = self.settings, len(self.contents)
        counts = np.bincount(self.pairs.wanted[learned], minlength=items)
        chance = np.log(np.maximum(counts, 1) / max(len(learned), 1)).astype(np.float32)
        size = min(settings.batch, max(len(learned) // STEPS, LEAST))
        draw = np.random.default_rng(self.seed)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            net = Net(items, settings).to(device)
        optimizer = Optimizer(net, settings.learning_rate)
        for epoch in range(1, epochs + 1):
            order = draw.permutation(learned)
            with one_thread():
                for start in range(0, len(order), size):
                    batch = self.batch(order[start : start + size], chance, draw, device)
                    optimizer.step(loss(net(batch), batch.wanted, batch.chance))
            yield epoch, net

    def batch(
        self, chosen: Array, chance: Array, draw: np.random.Generator, device: torch.device
    ) -> Batch:
        texts, histories, wanted = self.pairs.batch(chosen, self.settings.history)
        rows, places = np.unique(np.concatenate([wanted, histories.indices]), return_inverse=True)
        ids = (draw.random(len(rows)) >= ALONE).astype(np.float32)[:, None]
        return Batch(
            torch.from_numpy(rows.astype(np.int64)).to(device),
            torch.from_numpy(ids).to(device),
            self.contents.take(rows),
            texts,
            Bags(histories.indptr, places[len(wanted) :], histories.weights),
            torch.from_numpy(places[: len(wanted)]).to(device),
            torch.from_numpy(chance[wanted]).to(device),
        )

    def judged(self, late: Array) -> Array:
        """Some of the late pairs, evenly spread over the time, of both kinds."""
        searches = len(self.pairs.query)
        kinds = np.flatnonzero(late[:searches]), searches + np.flatnonzero(late[searches:])
        return np.concatenate([kind[:: max(len(kind) // JUDGED, 1)] for kind in kinds])

    def share(self, towers: Towers, valid: Array) -> float:
        """Of the pairs `valid` those whose item is among the first ones; both kinds count alike."""
        items = towers.of_items(self.contents, np.arange(len(self.contents)))
        texts, histories, wanted = self.pairs.batch(valid, self.settings.history)
        asked = np.concatenate(
            [
                towers.query.unit(texts.sums(towers.table)),
                towers.user.unit(histories.sums(items)),
            ]
        )
        found = np.empty(len(wanted), np.bool_)
        rows = np.arange(len(items), dtype=np.int32)
        for place, row in enumerate(wanted.tolist()):
            found[place] = row in best(items @ asked[place], rows, FIRST)
        kinds = found[: len(texts)], found[len(texts) :]
        return float(np.mean([kind.mean() for kind in kinds if len(kind)]))


def reader_of(config: Config) -> Reader:
    data, codes = config.data, (*config.data.categorical, *config.data.multi)
    return Reader(config.two_tower.buckets, data.language, tuple(data.text), codes)


def run(work: Work) -> Mapping[str, Any]:
    metrics: dict[str, Any] = {}
    config = work.config
    reader = reader_of(config)
    epochs = 0
    for draft, cut in work.drafts:
        removed(draft / "two_tower")
        if not work.has("events"):
            continue
        items = Catalogue(draft / "items")
        hits = searched(events.read(work), config, cut).toArrow()
        found = pairs(hits, wants.read(work, cut, len(items)), reader, config.two_tower.pairs)
        if len(found) < FEWEST:
            work.progress(f"two_tower: {len(found)} pairs, {FEWEST} are needed")
            continue
        contents = reader.items(items.table)
        seed = config.build.seed
        trainer = Trainer(found, contents, reader, config.two_tower, seed, work.progress)
        epochs = epochs or trainer.epochs()
        towers = trainer.fit(epochs)
        target = fresh(draft / "two_tower")
        vectors = towers.of_items(contents, np.arange(len(items)))
        towers.save(target / "towers")
        np.save(target / "items.npy", vectors)
        size = write_index(target / "items.faiss", vectors, config.vectors)
        metrics = {"pairs": len(found), "searches": len(found.query), "epochs": epochs}
        metrics["index"] = str(size)
    return metrics


if __name__ == "__main__":
    command(run, __doc__)
