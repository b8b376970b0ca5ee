"""
Near-duplicates of a catalogue: `python -m benchmarks.near_duplicates DIR`.

DIR has `products.parquet` with an id (`doc_id` or `upc`), a title (`title` or `name`) and perhaps
descriptions. All pairs whose MinHash signatures agree in 0.75 of their places are found (by bands
of four), and held against the exact weighted Jaccard similarity of their neighbouring word pairs,
counted out; where ids repeat, against those. Then the titles of random products are searched for
with BM25, and pages of 20 out of 50 hits are made with and without dedup: a page counts that has
two items of the same id, or of an exact similarity of 0.8 or more. `--pairs 50` prints a random
sample to be read.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import bm25s
import numpy as np
import pyarrow.parquet as pq
import typer
from numpy.typing import NDArray

from benchmarks import harness
from features.tokens import words
from funnel.types import Array, Candidates, Query
from rerank import Rerank
from rerank.dedup import Dedup
from rerank.signatures import COMMON, signatures

ALIKE, SAME, BAND = 0.75, 0.8, 4  # estimated, that drops an item; exact, that a page counts for
HITS, PAGE = 50, 20
NAMES = {
    "id": ("doc_id", "upc"),
    "title": ("title", "name"),
    "description": ("long_description", "short_description", "description"),
}


def read(file: Path) -> tuple[list[str], list[str], list[str]]:
    """Ids, titles and whole texts."""
    table = pq.read_table(file)

    def column(kind: str) -> list[str]:
        names = [name for name in NAMES[kind] if name in table.column_names]
        if not names:
            return [""] * len(table)
        return [text or "" for text in table.column(names[0]).to_pylist()]

    titles = column("title")
    texts = [f"{a} {b}" for a, b in zip(titles, column("description"), strict=True)]
    return column("id"), titles, texts


def found(signed: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(k, 2) pairs i < j whose signatures agree in `ALIKE` of their places or more."""
    some = np.flatnonzero(signed.any(1))
    pairs: set[tuple[int, int]] = set()
    for start in range(0, signed.shape[1], BAND):
        band = np.ascontiguousarray(signed[some, start : start + BAND]).view(np.uint32).ravel()
        order = np.argsort(band, kind="stable")
        edges = np.flatnonzero(np.diff(band[order])) + 1
        for group in np.split(order, edges):
            if 1 < len(group) <= 2000:
                rows = np.sort(some[group])
                alike = (signed[rows][:, None] == signed[rows][None]).mean(2) >= ALIKE
                left, right = np.nonzero(np.triu(alike, 1))
                pairs.update(zip(rows[left].tolist(), rows[right].tolist(), strict=True))
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)


class Exact:
    """Weighted similarities counted out, without signatures."""

    def __init__(self, texts: list[str]):
        self.sets = [_shingles(text) for text in texts]
        counts = Counter(shingle for one in self.sets for shingle in one)
        self.weight = {shingle: np.log1p(len(texts) / count) for shingle, count in counts.items()}
        self.telling = [any(counts[s] <= COMMON for s in one) for one in self.sets]

    def __call__(self, a: int, b: int) -> float:
        if not self.telling[a] or not self.telling[b]:
            return 0.0
        one, two = self.sets[a], self.sets[b]
        return float(
            sum(self.weight[s] for s in one & two) / sum(self.weight[s] for s in one | two)
        )

    def repeats(self, ids: list[str], rows: Array) -> bool:
        """Whether a page has one thing twice."""
        return any(
            ids[a] == ids[b] or self(a, b) >= SAME
            for i, a in enumerate(rows.tolist())
            for b in rows[i + 1 :].tolist()
        )


def _shingles(text: str) -> set[tuple[str, ...]]:
    all_words = words(text)
    if len(all_words) < 2:
        return {tuple(all_words)} if all_words else set()
    return set(pairwise(all_words))


def pages(
    ids: list[str], titles: list[str], texts: list[str], signed: Array, exact: Exact
) -> list[dict[str, Any]]:
    draw = np.random.default_rng(2)
    asked = draw.choice(len(titles), 200, replace=False)
    index = bm25s.BM25()
    index.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
    queries = bm25s.tokenize([titles[row] for row in asked], show_progress=False)
    hits, scores = index.retrieve(queries, k=HITS, show_progress=False)
    known = {name: code for code, name in enumerate(dict.fromkeys(ids))}
    codes = np.array([known[name] for name in ids])
    stages = {
        "no dedup": Rerank(dedup=Dedup()),
        "texts": Rerank(dedup=Dedup(signatures=signed.__getitem__, text=ALIKE)),
        "ids": Rerank(dedup=Dedup(products=codes.__getitem__)),
        "ids and texts": Rerank(dedup=Dedup(codes.__getitem__, signed.__getitem__, text=ALIKE)),
    }
    rows = []
    for name, stage in stages.items():
        twice, full = 0, 0
        start = time.perf_counter()
        for line, own in zip(hits, scores, strict=True):
            came = Candidates(line.astype(np.int32), own.astype(np.float32))
            page = stage.run(replace(Query(), limit=PAGE), came).rows
            twice += exact.repeats(ids, page)
            full += len(page) == PAGE
        rows.append(
            {
                "method": f"{len(asked)} pages, {name}",
                "pages with a repeat": twice,
                "full pages": full,
                "seconds": time.perf_counter() - start,
            }
        )
    return rows


def main(
    path: Annotated[Path, typer.Argument(help="Folder with products.parquet.")],
    pairs: Annotated[int, typer.Option(help="Print so many pairs to be read.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Near-duplicates of a catalogue, and pages without them."""
    ids, titles, texts = read(path / "products.parquet")
    start = time.perf_counter()
    signed = signatures(texts)
    both = found(signed)
    took = time.perf_counter() - start
    exactly = Exact(texts)
    exact = np.array([exactly(a, b) for a, b in both])
    if pairs:
        draw = np.random.default_rng(1)
        for place in draw.choice(len(both), min(pairs, len(both)), replace=False):
            a, b = both[place]
            print(f"{exact[place]:.2f}  row {a}: {texts[a][:150]}\n      row {b}: {texts[b][:150]}")
        return
    order: dict[str, list[int]] = {}
    for row, name in enumerate(ids):
        order.setdefault(name, []).append(row)
    same = {(rows[0], row) for rows in order.values() for row in rows[1:]}
    pairs_found = set(map(tuple, both.tolist()))
    rows: list[dict[str, Any]] = [
        {
            "method": f"{len(ids)} items, signatures",
            "pages with a repeat": "",
            "full pages": "",
            "seconds": took,
            "pairs": len(both),
            "exact >= 0.8 %": 100 * float((exact >= SAME).mean()) if len(both) else float("nan"),
            "exact >= 0.6 %": 100 * float((exact >= 0.6).mean()) if len(both) else float("nan"),
            "repeated ids": len(same),
            "of them found %": 100 * len(same & pairs_found) / max(len(same), 1),
        }
    ]
    rows += pages(ids, titles, texts, signed, exactly)
    harness.show("near_duplicates", path.name, rows, as_json)


if __name__ == "__main__":
    harness.run(main)
