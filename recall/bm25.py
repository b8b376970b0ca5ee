"""
Lexical search on Tantivy: BM25 over the searchable columns taken together.

    score(q, d) = Σ_t idf(t) · tf(t, d)·(k1 + 1) / (tf(t, d) + k1·(1 − b + b·|d| / mean |d|))

with k1 = 1.2 and b = 0.75 (Robertson and Zaragoza 2009, "The probabilistic relevance framework").
tf counts a word once for each time it stands in a column, times the column's boost, and |d| counts
likewise. That is BM25F (Robertson, Zaragoza, Taylor 2004): adding up one BM25 a column instead
rewards a word again for every column it is repeated in, and reaches 0.68 nDCG@10 where this reaches
0.74 (docs/recall.md).

The words of a query are looked up as they are: no syntax is parsed, so nothing that a user types
can be an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import tantivy

from funnel.catalogue import Catalogue
from funnel.config import Config
from funnel.errors import BadConfig, BadData, BadGeneration
from funnel.generation import Generation
from funnel.types import Array, Candidates, Query
from recall.channel import ranked
from recall.filters import Mask

ANALYZER, TEXT, ROW = "funnel", "text", "row"
META = "funnel.json"  # beside Tantivy's own meta.json
LANGUAGES = {"en": "english", "de": "german", "fr": "french", "es": "spanish", "it": "italian"}
MAX_TERMS = 64  # of one query; the first ones count
MAX_BOOST = 10  # of a column against the one with the smallest boost
SPARE = 16  # hits asked for beyond the limit, for ties with the last place
MAX_TIES = 8  # times the limit: longer runs of equal scores are cut in the index's order
HEAP = 256 << 20  # bytes of text in memory before a segment is written
BATCH = 10_000  # items read from the catalogue at once


def analyzer(language: str) -> tantivy.TextAnalyzer:
    """Words in lower case without accents; stemmed, stop words off, where a language is named.

    A language without spaces between its words needs them put there first: in `documents` and in
    `BM25.terms`.
    """
    if language != "none" and language not in LANGUAGES:
        known = ", ".join(LANGUAGES)
        raise BadConfig(f"data.language = '{language}' is not supported; known: none, {known}")
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    for step in (
        tantivy.Filter.remove_long(64),
        tantivy.Filter.lowercase(),
        tantivy.Filter.ascii_fold(),
    ):
        builder = builder.filter(step)
    if language in LANGUAGES:
        name = LANGUAGES[language]
        builder = builder.filter(tantivy.Filter.stopword(name))
        builder = builder.filter(tantivy.Filter.stemmer(name))
    return builder.build()


def schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field(ROW, fast=True)
    builder.add_text_field(TEXT, tokenizer_name=ANALYZER, index_option="freq")
    return builder.build()


def repeats(boosts: Mapping[str, float], there: list[str]) -> dict[str, int]:
    """How many times the words of each column count: boosts over the smallest, as whole numbers."""
    used = {name: boost for name, boost in boosts.items() if boost > 0 and name in there}
    if not used:
        raise BadData(
            f"none of the columns of data.text ({', '.join(boosts)}) is in the items with a boost "
            f"above 0; there are: {', '.join(there)}"
        )
    least = min(used.values())
    return {name: min(round(boost / least), MAX_BOOST) for name, boost in used.items()}


def documents(items: pa.RecordBatch, repeats: Mapping[str, int]) -> list[str]:
    """What is indexed of every item."""
    columns = [texts(items.column(name)) for name in repeats]
    counts = list(repeats.values())
    return [
        " ".join(text for text, count in zip(row, counts, strict=True) for _ in range(count))
        for row in zip(*columns, strict=True)
    ]


def texts(column: pa.Array) -> list[str]:
    """A column as texts: lists are joined, missing is empty."""
    values = column.to_pylist()
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return [" ".join(str(part) for part in value if part) if value else "" for value in values]
    return ["" if value is None else str(value) for value in values]


def write_index(path: Path, items: Catalogue, config: Config) -> int:
    """Indexes every item's searchable columns into the empty directory `path`; how many items have
    any text.

    One thread writes the rows in their order, so the same catalogue gives the same index. Columns
    that the contract knows by name may be missing.
    """
    words = analyzer(config.data.language)
    counts = repeats(config.data.text, items.table.column_names)
    path.mkdir(parents=True, exist_ok=True)
    made = schema()
    index = tantivy.Index(made, path=str(path), reuse=False)
    index.register_tokenizer(ANALYZER, words)
    writer = index.writer(HEAP, 1)
    row, some = 0, 0
    for batch in items.table.select(list(counts)).to_batches(max_chunksize=BATCH):
        for text in documents(batch, counts):
            writer.add_document(tantivy.Document.from_dict({ROW: row, TEXT: text}, made))
            some += bool(text.strip())
            row += 1
    writer.commit()
    writer.wait_merging_threads()
    (path / META).write_text(json.dumps({"columns": counts, "language": config.data.language}))
    return some


@dataclass(frozen=True, eq=False)
class BM25:
    """The index of one generation, memory-mapped."""

    searcher: tantivy.Searcher
    schema: tantivy.Schema
    analyzer: tantivy.TextAnalyzer

    @staticmethod
    def open(generation: Generation, config: Config) -> BM25 | None:
        """None where the generation has no lexical index."""
        if not generation.has("bm25"):
            return None
        path, meta = generation.file("bm25"), generation.json(f"bm25/{META}")
        try:
            made, words = schema(), analyzer(meta["language"])
            index = tantivy.Index(made, path=str(path), reuse=True)
            index.register_tokenizer(ANALYZER, words)
            index.config_reader(reload_policy="manual")
            searcher = index.searcher()
        except (ValueError, OSError, KeyError, TypeError) as error:
            raise BadGeneration(
                f"cannot open the lexical index {path}: {error}; build the generation again"
            ) from error
        if searcher.num_docs != len(generation.items):
            raise BadGeneration(
                f"{path} holds {searcher.num_docs} items, the catalogue {len(generation.items)}: "
                "build the generation again"
            )
        return BM25(searcher, made, words)

    def find(self, query: Query, allowed: Mask | None, limit: int) -> Candidates:
        words = self.terms(query.text)
        if not words or limit <= 0:
            return Candidates.empty()
        asked = tantivy.Query.boolean_query(
            [
                (tantivy.Occur.Should, tantivy.Query.term_query(self.schema, TEXT, word, "freq"))
                for word in words
            ]
        )
        # What may be returned is only known afterwards: ask for more until there is enough.
        ask = SPARE + (limit if allowed is None else 2 * limit)
        while True:
            rows, scores = self._search(asked, ask)
            found = ranked(rows, scores, allowed, limit)
            if len(rows) < ask:
                return found
            # Of equal scores the engine keeps those it met first. For ties to break by row, all
            # that tie with the last place must be among the hits.
            if len(found) == limit and (
                scores[-1] < found.scores[-1] or ask > MAX_TIES * limit + SPARE
            ):
                return found
            ask *= 4

    def terms(self, text: str) -> list[str]:
        """The first `MAX_TERMS` distinct words of a query, as the index has them."""
        return list(dict.fromkeys(self.analyzer.analyze(text)))[:MAX_TERMS]

    def _search(self, asked: tantivy.Query, most: int) -> tuple[Array, Array]:
        """Rows and scores of the best `most` hits. Rows come out of a fast field in one call:
        fetching stored documents would be a call a hit."""
        hits = self.searcher.search(asked, most, count=False).hits
        scores = np.array([score for score, _ in hits], np.float32)
        rows = self.searcher.fast_field_values(ROW, [place for _, place in hits])
        return np.array(rows, np.int32), scores
