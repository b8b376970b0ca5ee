"""
Retrieval by text on any set: docs.parquet (doc_id, text columns), queries.parquet (query_id,
query), qrels.parquet (query_id, doc_id, grade).

The channels are those that are served, built by the code of the jobs, with the defaults for every
set alike. The fusion is fitted on one half of the queries and measured on the other, both ways
round. `bm25s` is the peer, on the same tokens with the same parameters, and on words between
spaces. Sets in their own files (Icecat, QBQTC, Cranfield) are recognised: benchmarks/neutral.py.
Queries without anything relevant are left out.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer

from benchmarks import harness, neutral
from funnel.catalogue import write_catalogue
from funnel.config import Config, Lexical, parse
from funnel.generation import Generation, Manifest
from funnel.metrics import mrr_at_k, ndcg_at_k, recall_at_k
from funnel.pretrained import MINILM, packaged
from funnel.types import Candidates, Query
from jobs.vectors import documents, encoded
from recall.bm25 import BM25, write_index
from recall.channel import Channel
from recall.encoder import LSA, Encoder, Sentences
from recall.fit import Fitted, fit
from recall.fusion import Fusion
from recall.text import analyzer, texts
from recall.tfidf import TFIDF
from recall.vector import Vector

DEEP = 1000  # hits a query

Grades = Mapping[int, float]
Found = Sequence[Candidates]


def settings(found: neutral.Texts, language: str) -> Config:
    """The defaults, and the set's own columns; the scenes turn options on and off."""
    names = [name for name in found.docs.column_names if name != "doc_id"]
    boosts = {name: 2.0 if name == "title" else 1.0 for name in names}
    data = {"text": boosts, "categorical": [], "numeric": [], "filterable": []}
    rm3 = {"recall": {"rm3": {"docs": 10}, "channels": {"bm25": {}}}}
    return parse({"data": {**data, "language": language}, "scenes": {"rm3": rm3}})


def plain(config: Config) -> Lexical:
    """BM25 and nothing else."""
    return config.lexical.model_copy(update={"proximity": 0.0, "typo_weight": 0.0})


def built(path: Path, found: neutral.Texts, config: Config) -> Generation:
    """A generation of the documents, with its lexical index."""
    items = found.docs.rename_columns(
        ["item_id" if name == "doc_id" else name for name in found.docs.column_names]
    )
    write_catalogue(path / "items", items, [], [], [])
    table = config.model_dump(mode="json")
    Manifest("text", until=0, past=0, actions=config.all_actions, config=table).write(path)
    generation = Generation.open(path)
    write_index(path / "bm25", generation.items, config)
    return generation


def nearest(path: Path, generation: Generation, config: Config, encoder: str) -> Channel:
    """The vector channel of a generation like this one with text vectors of an encoder."""
    other = path / "vector"
    other.mkdir(parents=True)
    (path / "items").symlink_to(generation.path / "items")
    generation.manifest.write(path)
    own = documents(generation.items, config, None)
    made: Encoder = (
        Sentences.open(encoder)
        if encoder
        else LSA.train(own, config.vectors.text_width, config.build.seed, config.data.language)
    )
    encoded(other, own, made)
    channel = Vector.open(Generation.open(path), config)
    assert channel is not None
    return channel


def asked(channel: Channel, queries: Sequence[Query]) -> tuple[list[Candidates], float]:
    """What each query finds, and the mean time of one in ms."""
    channel.find(queries[0], None, DEEP)
    start = time.perf_counter()
    found = [channel.find(query, None, DEEP) for query in queries]
    return found, 1e3 * (time.perf_counter() - start) / len(queries)


def fused(
    channels: Mapping[str, Found], grades: Sequence[Grades]
) -> tuple[list[Candidates], list[Fitted]]:
    """The fusion fitted on one half of the queries, lists of the other; both ways round."""
    names, n = list(channels), len(grades)
    pairs = [({name: channels[name][q] for name in names}, grades[q]) for q in range(n)]
    draw = np.random.default_rng(0).permutation(n)
    halves = draw[: n // 2], draw[n // 2 :]
    lists: list[Candidates] = [Candidates.empty()] * n
    chosen = []
    for half, other in (halves, halves[::-1]):
        found = fit([pairs[q] for q in half], names, Fusion({"bm25": 0.7, "vector": 0.3}))
        chosen.append(found)
        for q in other:
            lists[q] = found.fusion()(Query(), pairs[q][0], DEEP)
    return lists, chosen


def measured(found: Found, grades: Sequence[Grades]) -> dict[str, float]:
    """Means over the queries. Rows of a grade below 0 are taken out of the lists."""
    every = []
    for candidates, known in zip(found, grades, strict=True):
        rows = [int(row) for row in candidates.rows if known.get(int(row), 0) >= 0]
        gains = np.array([known.get(row, 0.0) for row in rows])
        ideal = np.array([grade for grade in known.values() if grade > 0])
        hits = np.flatnonzero(gains > 0)
        every.append(
            (
                float((np.arange(1, len(hits) + 1) / (hits + 1)).sum() / len(ideal)),
                ndcg_at_k(gains, ideal, 10),
                mrr_at_k(gains, 10),
                recall_at_k(gains, ideal, 100),
                recall_at_k(gains, ideal, 1000),
                float((gains[:10] > 0).sum() / 10),
                float(np.mean([row in known for row in rows[:10]])) if rows else 0.0,
            )
        )
    names = ("MAP", "nDCG@10", "MRR@10", "R@100", "R@1000", "P@10", "judged@10")
    return dict(zip(names, np.mean(every, axis=0).tolist(), strict=True))


def peer(
    docs: pa.Table,
    config: Config,
    queries: Sequence[Query],
    tokens: Callable[[str], list[str]],
) -> tuple[list[Candidates], float]:
    """`bm25s` over our columns and boosts."""
    import bm25s

    repeats = {name: round(boost) for name, boost in config.data.text.items()}
    columns = [texts(docs.column(name)) for name in repeats]
    corpus = [
        [
            word
            for text, count in zip(row, repeats.values(), strict=True)
            for word in tokens(text) * count
        ]
        for row in zip(*columns, strict=True)
    ]
    index = bm25s.BM25(k1=config.lexical.k1, b=config.lexical.b, method="lucene")
    index.index(corpus, show_progress=False)
    depth = min(DEEP, len(corpus))
    words = [[word for word in tokens(query.text) if word in index.vocab_dict] for query in queries]
    found = []
    start = time.perf_counter()
    for one in words:
        if not one:
            found.append(Candidates.empty())
            continue
        rows, scores = index.retrieve([one], k=depth, show_progress=False)
        kept = scores[0] > 0
        candidates = Candidates(rows[0][kept].astype(np.int32), scores[0][kept])
        found.append(candidates.top(DEEP))
    return found, 1e3 * (time.perf_counter() - start) / len(queries)


def said(found: Fitted) -> str:
    if found.refused:
        return f"refused, {found.best} alone"
    norm = "" if found.method == "rrf" else f" {found.norm}"
    return f"{found.weights['bm25']:.2f} bm25 by {found.method}{norm}"


def rows(found: neutral.Texts, config: Config, encoder: str, path: Path) -> list[dict[str, Any]]:
    place = {id: row for row, id in enumerate(found.docs["doc_id"].to_pylist())}
    judged: dict[str, dict[int, float]] = {}
    for query, doc, grade in zip(
        *(found.qrels[name].to_pylist() for name in found.qrels.column_names), strict=True
    ):
        if doc in place:
            judged.setdefault(query, {})[place[doc]] = float(grade)
    pairs = [
        (Query(text=text, scene="search"), judged[id])
        for id, text in zip(
            *(found.queries[n].to_pylist() for n in ("query_id", "query")), strict=True
        )
        if any(grade > 0 for grade in judged.get(id, {}).values())
    ]
    queries, grades = [query for query, _ in pairs], [known for _, known in pairs]
    lists: dict[str, Found] = {}
    made: list[dict[str, Any]] = []

    def add(name: str, found: Found, ms: float, seconds: float) -> None:
        lists[name] = found
        metrics = measured(found, grades)
        made.append(
            {"method": name, **metrics, "ms": ms, "seconds": seconds, "peak_mb": harness.peak_mb()}
        )

    start = time.perf_counter()
    generation = built(path / "lexical", found, config)
    bm25, tfidf = BM25.open(generation, config), TFIDF.open(generation, config)
    assert bm25 is not None
    assert tfidf is not None
    seconds = time.perf_counter() - start
    add("bm25", *asked(bm25, queries), seconds)
    alone = replace(bm25, settings=plain(config))  # what the peer does
    add("bm25, words alone", *asked(alone, queries), seconds)
    fed = [Query(text=query.text, scene="rm3") for query in queries]
    add("bm25+rm3", *asked(bm25, fed), seconds)
    add("tfidf", *asked(tfidf, queries), seconds)
    encoders = {"vector (LSA)": ""} | ({"vector (MiniLM)": encoder} if encoder else {})
    for number, (name, model) in enumerate(encoders.items()):
        start = time.perf_counter()
        channel = nearest(path / str(number), generation, config, model)
        add(name, *asked(channel, queries), time.perf_counter() - start)
        start = time.perf_counter()
        both, fits = fused({"bm25": lists["bm25"], "vector": lists[name]}, grades)
        took = time.perf_counter() - start
        add(f"fusion with {name}: {'; '.join(map(said, fits))}", both, 0.0, took)
    words = analyzer(config.data.language)
    for name, tokens in (("bm25s, same tokens", words), ("bm25s, spaces", str.split)):
        start = time.perf_counter()
        hits, ms = peer(found.docs, config, queries, tokens)
        add(name, hits, ms, time.perf_counter() - start)
    return made


def main(
    directory: Annotated[Path, typer.Argument(help="directory of the three tables")],
    language: Annotated[str, typer.Option(help="data.language")] = "en",
    encoder: Annotated[
        str, typer.Option(help="directory of a sentence-transformers model; `none` leaves it out")
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    found = neutral.read(directory)
    model = "" if encoder == "none" else encoder or (MINILM if packaged() else "")
    with tempfile.TemporaryDirectory() as path:
        made = rows(found, settings(found, language), model, Path(path))
    harness.show("text", directory.name, made, json)


if __name__ == "__main__":
    main.__doc__ = __doc__
    harness.run(main)
