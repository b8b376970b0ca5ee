"""
The live catalogue under churn: upserts and deletes through the services while searches go on.

A simulated catalogue (titles as in recall_speed_lexical) is served by two processes, the features
service with the catalogue's log and the recall stage with BM25 and HNSW. One thread searches
without a pause, one sends the churn, and one upserts an item now and then and waits until a search
finds it. Then a process that starts anew catches up with the log, and its channels are held against
the exact scan, and against a build of the items as they are now.
"""

from __future__ import annotations

import socket
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import tomli_w
import typer

from benchmarks import harness
from benchmarks.recall_speed_lexical import titles
from benchmarks.recall_speed_stage import off
from features.store import Store
from features.tokens import write_tokens
from funnel.catalogue import write_catalogue
from funnel.changes import folded
from funnel.config import Config, load
from funnel.demo import served
from funnel.feed import sent
from funnel.generation import Generation, Manifest, point
from funnel.intake import Item
from funnel.live import LiveGenerations
from funnel.overlay import LiveCatalogue
from funnel.remote import RemoteCatalog, RemoteStage
from funnel.types import Array, Candidates, Filter, Query
from recall import postings
from recall.bm25 import BM25, META, write_index
from recall.encoder import LSA
from recall.exact import scan
from recall.nearest import write_index as write_vectors
from recall.postings import Forward
from recall.vector import Vector

WIDTH = 64
NEAREST = 100  # ANN recall at
ASKED = 200  # queries that are compared
NEW, CHANGED = 1 / 3, 1 / 2  # shares of the churn; the rest is deleted
BEAT_S = 0.3  # between two probes
DELETED = 500  # ids in a call
PACE = 100  # items in a call of the steady part
STEADY = 2 / 3  # of the upserts come at a steady rate, the rest as fast as they are taken


@dataclass(frozen=True, eq=False)
class Shop:
    """A generation in `place`, and the words of more titles than it has items."""

    place: Path
    config: Config
    file: Path
    n: int
    said: Sequence[str]

    @property
    def generation(self) -> Path:
        return Path(self.config.build.root) / "first"


def built(place: Path, n: int, more: int, seed: int) -> Shop:
    """`n` items, and `more` titles for what comes later."""
    config, file = settings(place)
    words, ends = titles(n + more, seed)
    known = np.array([f"w{number}" for number in range(int(words.max()) + 1)])[words]
    said = [" ".join(known[ends[row] : ends[row + 1]]) for row in range(n + more)]
    shop = Shop(place, config, file, n, said)
    items = pa.Table.from_pylist([item(shop, row, row) for row in range(n)])
    encoder = LSA.train(said[:n], WIDTH, seed, config.data.language)
    index(shop.generation, items, config, encoder)
    point(Path(config.build.root), "first")
    return shop


def settings(place: Path) -> tuple[Config, Path]:
    channels = off() | {"bm25": {"limit": 1000}, "vector": {"limit": 500}}
    scene = {"recall": {"channels": channels, "keep": 2000, "budget_ms": 10_000}}
    table = {
        "data": {"language": "none", "text": {"title": 1.0}, "filterable": ["category", "price"]},
        "build": {"root": str(place / "generations")},
        "scenes": {"search": scene},
        "vectors": {"text_width": WIDTH, "index": "hnsw"},
        "store": {"dir": str(place / "valkey"), "timeout_ms": 5000},
        "log": {"dir": str(place / "log")},
        "serve": {name: free_address() for name in ("features", "recall")} | {"budgets": 100.0},
    }
    file = place / "funnel.toml"
    file.write_text(tomli_w.dumps(table))
    return load(file), file


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def item(shop: Shop, row: int, text: int) -> Item:
    """Item `row` with one of the titles; the rest follows from that title's number."""
    price = text * 7919 % 100_000 / 100
    return {
        "item_id": f"i{row:09}",
        "title": shop.said[text],
        "category": f"c{text % 1000:03}",
        "price": price,
    }


def index(path: Path, items: pa.Table, config: Config, encoder: LSA) -> Generation:
    """What the jobs items, index_bm25, vectors and index_vector make of the items."""
    write_catalogue(path / "items", items, ["category"], [], ["price"])
    said = items.column("title").to_pylist()
    write_tokens(path / "items", said)
    table = config.model_dump(mode="json")
    Manifest(path.name, until=0, past=0, actions=config.all_actions, config=table).write(path)
    generation = Generation.open(path, check=False)
    write_index(path / "bm25", generation.items, config)
    (path / "vector").mkdir()
    parts = [encoder.encode(said[start : start + 50_000]) for start in range(0, len(said), 50_000)]
    vectors = np.concatenate(parts)
    np.save(path / "vector/text.npy", vectors)
    encoder.save(path / "vector/encoder")
    write_vectors(path / "vector/text.faiss", vectors, config.vectors)
    return generation


@dataclass
class Measured:
    """Seconds, of every one."""

    searches: list[float] = field(default_factory=list)
    visible: list[float] = field(default_factory=list)
    faults: list[BaseException] = field(default_factory=list)


def churned(shop: Shop, share: float, seed: int) -> tuple[list[Item], list[str]]:
    """The items to upsert, new and changed in turns, and the ids to delete."""
    draw, count = np.random.default_rng(seed), round(share * shop.n)
    old = draw.permutation(shop.n)
    new, changed = round(NEW * count), round(CHANGED * count)
    rows = np.concatenate([np.arange(shop.n, shop.n + new), old[:changed]])
    texts = shop.n + np.arange(new + changed)
    upserts = [item(shop, int(rows[k]), int(texts[k])) for k in draw.permutation(new + changed)]
    return upserts, [f"i{row:09}" for row in old[changed : count - new]]


def searching(shop: Shop, measured: Measured, ended: threading.Event, seed: int) -> None:
    """Searches one after the other until the end."""
    draw = np.random.default_rng(seed)
    with RemoteStage(shop.config.serve.recall, "recall", 60.0) as recall:
        while not ended.is_set():
            query = asked(shop, draw, 1)[0]
            start = time.perf_counter()
            recall.run(query, Candidates.empty())
            measured.searches.append(time.perf_counter() - start)


def probing(shop: Shop, measured: Measured, ended: threading.Event) -> None:
    """Upserts an item with a word of its own, again and again, and waits until it is found."""
    with (
        RemoteStage(shop.config.serve.recall, "recall", 60.0) as recall,
        RemoteCatalog(shop.config.serve.features) as catalog,
    ):
        number = 0
        while not ended.is_set():
            number += 1
            measured.visible.append(probe(recall, catalog, number))
            ended.wait(BEAT_S)


def probe(recall: RemoteStage, catalog: RemoteCatalog, number: int) -> float:
    """Seconds from the ack of an upsert until a search finds the item, which is gone then."""
    id, word = f"probe{number:05}", f"probeword{number}"
    catalog.upsert([{"item_id": id, "title": word, "category": "probe", "price": 1.0}])
    start = time.perf_counter()
    own = Query(scene="search", text=word, filters=(Filter("category", ("probe",)),))
    while not finds(recall, own):
        time.sleep(0.002)
    seconds = time.perf_counter() - start
    catalog.delete([id])
    return seconds


def finds(recall: RemoteStage, query: Query) -> bool:
    found = recall.run(query, Candidates.empty())
    lexical = found.columns.get("recall.bm25")
    return lexical is not None and bool(np.isfinite(lexical).any())


def asked(shop: Shop, draw: np.random.Generator, count: int) -> list[Query]:
    found = []
    for row in draw.integers(0, len(shop.said), count):
        own = shop.said[row].split()
        text = " ".join(draw.choice(own, draw.integers(1, 5), replace=False))
        found.append(Query(scene="search", text=text))
    return found


def churn(shop: Shop, share: float, rate: float, seed: int) -> dict[str, float]:
    """Upserts and deletes while searches go on; what that came to."""
    upserts, deletes = churned(shop, share, seed)
    measured, ended = Measured(), threading.Event()

    def safely(work: Any, *args: Any) -> threading.Thread:
        def run() -> None:
            try:
                work(shop, measured, ended, *args)
            except BaseException as error:  # a benchmark of something broken says so
                measured.faults.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    with (
        RemoteCatalog(shop.config.serve.features) as catalog,
        RemoteStage(shop.config.serve.recall, "recall", 60.0) as recall,
    ):
        threads = [safely(searching, seed + 1), safely(probing)]
        try:
            time.sleep(1.0)
            steady = round(STEADY * len(upserts))
            start = time.perf_counter()

            def paced(done: int) -> None:
                time.sleep(max(start + done / rate - time.perf_counter(), 0))

            told = sent(catalog, upserts[:steady], paced, PACE)
            probe(recall, catalog, 0)  # when it is found, all before it is
            last = time.perf_counter()
            visible = [*measured.visible]
            burst = time.perf_counter()
            both = sent(catalog, upserts[steady:], lambda done: None)
            acked = time.perf_counter()
            probe(recall, catalog, 0)
            upserted = time.perf_counter()
            for place in range(0, len(deletes), DELETED):
                catalog.delete(deletes[place : place + DELETED])
            deleted = time.perf_counter()
            time.sleep(1.0)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
    if measured.faults:
        raise measured.faults[0]
    assert told.accepted + both.accepted == len(upserts)
    searches = 1e3 * np.array(measured.searches)
    return {
        "steady upserts, items/s": steady / (last - start),
        "one of them is found after, ms, p50": 1e3 * float(np.median(visible)),
        "one of them is found after, ms, most": 1e3 * max(visible),
        "a burst, acknowledged items/s": both.accepted / (acked - burst),
        "a burst, found items/s": both.accepted / (upserted - burst),
        "deletes, items/s": len(deletes) / max(deleted - upserted, 1e-9),
        "a search meanwhile, ms, p50": float(np.median(searches)),
        "a search meanwhile, ms, p99": float(np.percentile(searches, 99)),
    }


def compared(shop: Shop, seed: int) -> dict[str, float]:
    """A process that starts anew against the exact scan and against a build of the same items."""
    with ExitStack() as stack:
        store = stack.enter_context(Store.open(shop.config, start=False))
        generations = LiveGenerations(shop.config, store)
        stack.callback(generations.close)
        held = generations.open("first")
        lexical = BM25.open(held.generation, shop.config)
        vector = Vector.open(held.generation, shop.config)
        assert lexical is not None
        assert vector is not None
        held.follower.upserts += [lexical.upsert, vector.upsert]
        queries = asked(shop, np.random.default_rng(seed), ASKED)
        first = np.load(shop.generation / "vector/text.npy")
        before = overlap(vector, first, np.ones(len(first), bool), queries)
        start = time.perf_counter()
        held.follower.start(600.0)
        replayed = time.perf_counter() - start
        live = held.generation.items
        assert isinstance(live, LiveCatalogue)
        alive = np.ones(len(live), bool) if live.alive is None else live.alive
        recall = overlap(vector, encoded(vector, live), alive, queries)
        rebuilt, seconds = rebuild(shop, vector)
        merged = joined(shop, lexical, live)
        equal = difference(rebuilt, merged, queries)
        drift = difference(rebuilt, (live, lexical), queries)
    return {
        "the log anew, s": replayed,
        f"ANN recall@{NEAREST} before": before,
        f"ANN recall@{NEAREST} after": recall,
        "a build of the items as they are, s": seconds,
        "BM25 once merged, most difference to that build": equal,
        "BM25 before, most difference to that build": drift,
    }


def encoded(vector: Vector, live: LiveCatalogue) -> Array:
    """(rows, WIDTH) the vectors of the items as they are now, encoded anew."""
    assert vector.encoder is not None
    rows = np.arange(len(live))
    parts = []
    for start in range(0, len(rows), 10_000):
        part = live.take(rows[start : start + 10_000]).column("title").to_pylist()
        parts.append(vector.encoder.encode(part))
    return np.concatenate(parts)


def overlap(vector: Vector, vectors: Array, alive: Array, queries: Sequence[Query]) -> float:
    """The share of the exact nearest of `vectors` (n, WIDTH) that the channel finds."""
    assert vector.encoder is not None
    shares = []
    for query in queries:
        exact, _ = scan(vectors, vector.encoder.encode([query.text])[0], alive, NEAREST)
        if len(exact):
            found = vector.find(query, alive, NEAREST).rows
            shares.append(len(np.intersect1d(found, exact)) / len(exact))
    return float(np.mean(shares))


Indexed = tuple[Any, BM25]  # a catalogue, and BM25 over it


def rebuild(shop: Shop, vector: Vector) -> tuple[Indexed, float]:
    """The generation that a build makes out of the data set and the archived changes."""
    start = time.perf_counter()
    first = Generation.open(shop.generation, check=False).items.table
    items = folded(first, shop.config.log.dir).items
    assert isinstance(vector.encoder, LSA)
    made = index(shop.place / "generations/second", items, shop.config, vector.encoder)
    seconds = time.perf_counter() - start
    channel = BM25.open(made, shop.config)
    assert channel is not None
    return (made.items, channel), seconds


def joined(shop: Shop, lexical: BM25, live: LiveCatalogue) -> Indexed:
    """The live index and its segments as one, in the rows of a new generation."""
    words, forward = lexical.lexicon.merged()
    ids = np.array(live.item_ids(np.arange(len(live))))
    rows = np.flatnonzero(live.alive) if live.alive is not None else np.arange(len(live))
    rows = rows[np.argsort(ids[rows])]
    sizes = np.diff(forward.ends)[rows]
    ends = np.concatenate([[0], np.cumsum(sizes)])
    terms = forward.terms[np.arange(ends[-1]) + np.repeat(forward.ends[rows] - ends[:-1], sizes)]
    path = shop.place / "generations/second"
    target = shop.place / "generations/merged"
    target.mkdir()
    (target / "items").symlink_to(path / "items")
    (target / "manifest.json").write_text((path / "manifest.json").read_text())
    postings.write(target / "bm25", words, Forward(ends, terms))
    (target / "bm25" / META).write_text((path / "bm25" / META).read_text())
    generation = Generation.open(target, check=False)
    channel = BM25.open(generation, shop.config)
    assert channel is not None
    return generation.items, channel


def difference(a: Indexed, b: Indexed, queries: Sequence[Query]) -> float:
    """The most that a score of an item differs; infinite where they find other items."""
    most = 0.0
    for query in queries:
        first, second = scores(a, query), scores(b, query)
        if set(first) != set(second):
            return float("inf")
        most = max([most, *(abs(score - second[id]) for id, score in first.items())])
    return most


def scores(indexed: Indexed, query: Query) -> dict[str, float]:
    items, channel = indexed
    found = channel.find(query, items.alive, len(items))
    return dict(zip(items.item_ids(found.rows), found.scores.tolist(), strict=True))


WANTED = {
    "steady upserts, items/s": "≥ 2,000",
    "one of them is found after, ms, most": "≤ 1,000",
    f"ANN recall@{NEAREST} after": "≥ 0.95",
    "BM25 once merged, most difference to that build": "≤ 1e-6",
}


def measure(n: int, share: float, rate: float, seed: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as place:
        shop = built(Path(place), n, round(share * n), seed)
        with served(shop.config, shop.file, shop.place, ("features", "recall")) as services:
            found = churn(shop, share, rate, seed + 1)
            found |= {"the recall process, MB": float(services[1].mb())}
            time.sleep(shop.config.log.seconds + 1)  # the archive is written off the ack's path
            found |= compared(shop, seed + 3)
    return [
        {"method": name, "value": value, "to reach": WANTED.get(name, "")}
        for name, value in found.items()
    ]


def main(
    items: Annotated[int, typer.Option(help="items of the generation")] = 100_000,
    churn: Annotated[float, typer.Option(help="share of them that comes, changes or goes")] = 0.3,
    rate: Annotated[float, typer.Option(help="upserts a second in the steady part")] = 2500,
    seed: Annotated[int, typer.Option()] = 7,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    rows = measure(items, churn, rate, seed)
    harness.show(
        "recall_live", f"{items:,} items, {churn:.0%} churn at {rate:,.0f}/s", rows, as_json
    )


if __name__ == "__main__":
    main.__doc__ = __doc__
    harness.run(main)
