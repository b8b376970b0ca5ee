"""
Lexical search on Tantivy: BM25 over the searchable columns, each with its boost.

    score(q, d) = Σ_f boost_f · BM25_f(q, d)      k1 = 1.2, b = 0.75, fixed in Tantivy

(Robertson and Zaragoza 2009, "The probabilistic relevance framework"). The words of a query are
looked up as they are: no syntax is parsed, so nothing that a user types can be an error.
"""

from __future__ import annotations

import json
import shutil
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
from funnel.types import Candidates, Query
from recall.channel import ranked
from recall.filters import Mask

ANALYZER = "funnel"
MAX_TERMS = 64  # of one query; the first ones count
HEAP = 256 << 20
LANGUAGES = {"en": "english", "de": "german", "fr": "french", "es": "spanish", "it": "italian"}


def analyzer(language: str) -> tantivy.TextAnalyzer:
    """Words in lower case without accents; stemmed, stop words off, where a language is named."""
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


def schema(fields: Mapping[str, float]) -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field("row", fast=True)
    for name in fields:
        builder.add_text_field(name, tokenizer_name=ANALYZER, index_option="freq")
    return builder.build()


def write_index(path: Path, items: Catalogue, config: Config) -> int:
    """Indexes every item's searchable columns into `path`; how many items have any text.

    One thread writes, so the same catalogue gives the same index.
    """
    fields = {name: boost for name, boost in config.data.text.items() if boost > 0}
    missing = [name for name in fields if name not in items.table.column_names]
    fields = {name: boost for name, boost in fields.items() if name not in missing}
    if not fields:
        raise BadData(
            f"none of the columns of data.text ({', '.join(config.data.text)}) is in the items: "
            f"{', '.join(items.table.column_names)}"
        )
    fresh = path.with_name(f".{path.name}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    index = tantivy.Index(schema(fields), path=str(fresh))
    index.register_tokenizer(ANALYZER, analyzer(config.data.language))
    writer = index.writer(HEAP, 1)
    columns = {name: texts(items.table.column(name)) for name in fields}
    some = 0
    for row in range(len(items)):
        document = {name: column[row] for name, column in columns.items() if column[row]}
        some += bool(document)
        writer.add_document(tantivy.Document(row=row, **document))
    writer.commit()
    writer.wait_merging_threads()
    meta = {"fields": fields, "language": config.data.language, "items": len(items)}
    (fresh / "funnel.json").write_text(json.dumps(meta))
    shutil.rmtree(path, ignore_errors=True)
    fresh.rename(path)
    return some


def texts(column: pa.ChunkedArray) -> list[str]:
    """A column as texts: lists are joined, paths become words, missing is empty."""
    values = column.to_pylist()
    if pa.types.is_list(column.type):
        return [" ".join(map(str, value)) if value else "" for value in values]
    return ["" if value is None else str(value).replace("/", " ") for value in values]


@dataclass(frozen=True, eq=False)
class BM25:
    """The index of one generation."""

    searcher: tantivy.Searcher
    schema: tantivy.Schema
    fields: Mapping[str, float]
    analyzer: tantivy.TextAnalyzer

    @staticmethod
    def open(generation: Generation) -> BM25 | None:
        """None where the generation has no lexical index."""
        if not generation.has("bm25"):
            return None
        path = generation.file("bm25")
        meta = generation.json("bm25/funnel.json")
        words = analyzer(meta["language"])
        try:
            made = schema(meta["fields"])
            index = tantivy.Index(made, path=str(path), reuse=True)
            index.register_tokenizer(ANALYZER, words)
            return BM25(index.searcher(), made, meta["fields"], words)
        except (ValueError, OSError) as error:
            raise BadGeneration(f"cannot open the lexical index {path}: {error}") from error

    def find(self, query: Query, allowed: Mask | None, limit: int) -> Candidates:
        words = list(dict.fromkeys(self.analyzer.analyze(query.text)))[:MAX_TERMS]
        if not words or not limit:
            return Candidates.empty()
        asked = tantivy.Query.boolean_query(
            [(tantivy.Occur.Should, self._any_field(word)) for word in words]
        )
        # What is not allowed is only known afterwards: ask for more until there is enough.
        ask = limit if allowed is None else limit + int(min((~allowed).sum(), limit))
        while True:
            hits = self.searcher.search(asked, ask, count=False).hits
            scores = np.array([score for score, _ in hits], np.float32)
            places = [place for _, place in hits]
            rows = np.array(self.searcher.fast_field_values("row", places), np.int32)
            found = ranked(rows, scores, allowed, limit)
            if len(found) == limit or len(hits) < ask:
                return found
            ask *= 4

    def _any_field(self, word: str) -> tantivy.Query:
        parts = []
        for name, boost in self.fields.items():
            term = tantivy.Query.term_query(self.schema, name, word, "freq")
            boosted = term if boost == 1 else tantivy.Query.boost_query(term, boost)
            parts.append((tantivy.Occur.Should, boosted))
        return tantivy.Query.boolean_query(parts)
