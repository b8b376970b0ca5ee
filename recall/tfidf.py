"""
The plain baseline: the cosine of TF-IDF vectors, over the index that BM25 made.

    score(q, d) = Σ_t q_t·d_t / (|q|·|d|),   d_t = (1 + ln tf(t, d))·idf(t)

(Salton and Buckley 1988, "Term-weighting approaches in automatic text retrieval"; `lnc` with idf on
both sides). Words that nobody knows are left out of |q|.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numba
import numpy as np
import pyarrow as pa

from funnel.config import Config
from funnel.generation import Generation
from funnel.types import Array, Candidates, Query, Rows
from recall.bm25 import opened
from recall.lexicon import Lexicon
from recall.masks import Mask
from recall.postings import Postings
from recall.text import Analyzer
from recall.typos import Vocabulary
from recall.wording import worded


@dataclass(frozen=True, eq=False)
class TFIDF:
    """The words as they stand: no synonyms, no guesses at typing errors."""

    lexicon: Lexicon
    analyze: Analyzer
    config: Config

    @staticmethod
    def open(generation: Generation, config: Config) -> TFIDF | None:
        """None where the generation has no lexical index."""
        parts = opened(generation)
        if parts is None:
            return None
        lexicon = Lexicon(*parts.index, parts.analyze, parts.columns, lengths, 0.0)
        plain = config.lexical.model_copy(update={"typo_weight": 0.0})
        channel = TFIDF(lexicon, parts.analyze, config.model_copy(update={"lexical": plain}))
        if len(lexicon.words):  # compiles the kernels, or loads what was compiled
            channel.find(Query(text=lexicon.word(0)), None, 1)
        return channel

    def find(self, query: Query, allowed: Mask | None, limit: int) -> Candidates:
        none = Vocabulary.of(pa.array([], pa.string()))
        wording = worded(query.text, self.analyze, self.lexicon, {}, none, self.config.lexical)
        if not wording.wanted or limit <= 0:
            return Candidates.empty()
        asked = wording.asked(self.lexicon)
        idf = self.lexicon.idf(asked.terms)
        own = (1 + np.log(asked.weights / idf)) * idf  # the query's vector
        weights = (own * idf / np.linalg.norm(own)).astype(np.float32)
        return self.lexicon.find(replace(asked, weights=weights), allowed, limit)

    def upsert(self, rows: Rows, items: pa.Table) -> None:
        self.lexicon.upsert(rows, items)


def lengths(postings: Postings, idf: Array) -> Array:
    """(n,) one over the length of each row's vector; 1 where it has no words."""
    n = len(postings.lengths)
    found: Array = _lengths(postings.starts, postings.rows, postings.tf, idf, n)
    return found


@numba.njit(nogil=True, cache=True)
def _lengths(starts, rows, tf, idf, n):  # type: ignore[no-untyped-def]  # pragma: no cover
    squares = np.zeros(n)
    for term in range(len(starts) - 1):
        for place in range(starts[term], starts[term + 1]):
            squares[rows[place]] += ((1 + np.log(np.float64(tf[place]))) * idf[term]) ** 2
    norms = np.ones(n, np.float32)
    for row in range(n):
        if squares[row] > 0:
            norms[row] = 1 / np.sqrt(squares[row])
    return norms
