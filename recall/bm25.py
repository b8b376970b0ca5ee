"""
Lexical search: BM25 over the searchable columns taken together.

    score(q, d) = Σ_t idf(t) · tf(t, d)·(k1 + 1) / (tf(t, d) + k1·(1 − b + b·|d| / mean |d|))

(Robertson and Zaragoza 2009, "The probabilistic relevance framework"). tf counts a word once for
each time it stands in a column, times the column's boost, and |d| counts likewise. That is BM25F
(Robertson, Zaragoza, Taylor 2004): adding up one BM25 a column instead rewards a word again for
every column it is repeated in, and reaches 0.68 nDCG@10 where this reaches 0.74 (docs/recall.md).

The words of a query are looked up as they are: no syntax is parsed, so nothing that a user types
can be an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from funnel.catalogue import Catalogue
from funnel.config import RM3, Config, Lexical
from funnel.errors import BadConfig, BadGeneration
from funnel.generation import Generation
from funnel.types import Array, Candidates, Query, Rows
from recall import postings
from recall.lexicon import Lexicon
from recall.masks import Mask
from recall.postings import Forward, Postings, Words
from recall.proximity import Proximity
from recall.text import Analyzer, analyzer, repeats, texts
from recall.typos import Vocabulary
from recall.wording import Synonyms, Wording, fed_back, read_synonyms, worded

META, SYNONYMS = "funnel.json", "synonyms.txt"


def write_index(path: Path, items: Catalogue, config: Config) -> int:
    """Indexes every item's searchable columns into the empty directory `path`; how many items have
    any text. Columns that the contract knows by name may be missing."""
    analyze = analyzer(config.data.language)
    counts = repeats(config.data.text, items.table.column_names)
    batches = items.table.select(list(counts)).to_batches(max_chunksize=postings.BATCH)
    some = postings.write_index(path, batches, counts, analyze)
    (path / META).write_text(json.dumps({"columns": counts, "language": config.data.language}))
    if config.lexical.synonyms:
        file = Path(config.lexical.synonyms)
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadConfig(f"lexical.synonyms: cannot read {file}: {error}") from error
        read_synonyms(text, analyze, str(file))
        (path / SYNONYMS).write_text(text, encoding="utf-8")
    return some


@dataclass(frozen=True, eq=False)
class Opened:
    """What a generation has in bm25/."""

    index: tuple[Words, Postings, Forward]
    analyze: Analyzer
    columns: Mapping[str, int]  # how many times the words of each count
    synonyms: Synonyms


def opened(generation: Generation) -> Opened | None:
    """None where the generation has no lexical index."""
    if not generation.has("bm25"):
        return None
    path, meta = generation.file("bm25"), generation.json(f"bm25/{META}")
    index = postings.open_index(path)
    try:
        analyze, columns = analyzer(meta["language"]), dict(meta["columns"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadGeneration(
            f"{path / META} is corrupt: {error!r}; build the generation again"
        ) from error
    if len(index[2]) != len(generation.items):
        raise BadGeneration(
            f"{path} holds {len(index[2])} items, the catalogue {len(generation.items)}: "
            "build the generation again"
        )
    synonyms: Synonyms = {}
    if (path / SYNONYMS).exists():
        text = (path / SYNONYMS).read_text(encoding="utf-8")
        synonyms = read_synonyms(text, analyze, str(path / SYNONYMS))
    return Opened(index, analyze, columns, synonyms)


@dataclass(frozen=True, eq=False)
class Saturated:
    """norm = k1·(1 − b + b·|d| / mean |d|), with the mean of the generation."""

    k1: float
    b: float
    mean: float

    def __call__(self, postings: Postings, idf: Array) -> Array:
        relative = postings.lengths / max(self.mean, 1e-9)
        return (self.k1 * (1 - self.b + self.b * relative)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class BM25:
    """The index of one generation, memory-mapped, and what changed since."""

    lexicon: Lexicon
    analyze: Analyzer
    synonyms: Synonyms
    vocabulary: Vocabulary
    settings: Lexical
    feedback: Mapping[str, RM3]  # by scene, where it is on

    @staticmethod
    def open(generation: Generation, config: Config) -> BM25 | None:
        """None where the generation has no lexical index."""
        parts = opened(generation)
        if parts is None:
            return None
        settings, lengths = config.lexical, parts.index[1].lengths
        mean = float(lengths.mean(dtype=np.float64)) if len(lengths) else 1.0
        norms = Saturated(settings.k1, settings.b, mean)
        lexicon = Lexicon(*parts.index, parts.analyze, parts.columns, norms, settings.k1)
        feedback = {n: s.recall.rm3 for n, s in config.scenes.items() if s.recall.rm3.docs}
        vocabulary = Vocabulary.of(parts.index[0].words)
        channel = BM25(lexicon, parts.analyze, parts.synonyms, vocabulary, settings, feedback)
        channel.warm()
        return channel

    def warm(self) -> None:
        """Compiles the kernels, or loads what was compiled, before the first request."""
        if len(self.lexicon.words):
            word = self.lexicon.word(0)
            both = Wording((), 1, ((0, 0),))
            asked = worded(word, str.split, self.lexicon, {}, self.vocabulary, self.settings)
            bonus = self._proximity(both)
            for least in (1, 2):
                self.lexicon.find(asked.asked(self.lexicon), None, 1, least, bonus)
        self.vocabulary.near("warming")

    def find(self, query: Query, allowed: Mask | None, limit: int) -> Candidates:
        asked = self.wording(query.text)
        if not asked.wanted or limit <= 0:
            return Candidates.empty()
        feedback = self.feedback.get(query.scene)
        if feedback is not None:
            # What is allowed here and now does not change what the query is about.
            first = self._search(asked, None, feedback.docs)
            asked = fed_back(asked, first, self.lexicon, feedback)
        return self._search(asked, allowed, limit)

    def wording(self, text: str) -> Wording:
        return worded(
            text, self.analyze, self.lexicon, self.synonyms, self.vocabulary, self.settings
        )

    def _search(self, wording: Wording, allowed: Mask | None, limit: int) -> Candidates:
        """With as many of the words as are asked for, or one fewer until there are enough hits."""
        asked, bonus = wording.asked(self.lexicon), self._proximity(wording)
        least = math.ceil(self.settings.min_match * wording.words)
        enough = min(self.settings.min_hits, limit)
        for need in range(least, 1, -1):
            found = self.lexicon.find(asked, allowed, limit, need, bonus)
            if len(found) >= enough:
                return found
        return self.lexicon.find(asked, allowed, limit, 1, bonus)

    def _proximity(self, wording: Wording) -> Proximity | None:
        if not wording.pairs or self.settings.proximity <= 0:
            return None
        pairs = np.array(wording.pairs, np.int32)
        idf = self.lexicon.idf(pairs.ravel()).reshape(-1, 2)
        worth = np.float32(self.settings.proximity * wording.share) * idf.min(1)
        return Proximity(pairs, worth, self.settings.window)

    def upsert(self, rows: Rows, items: pa.Table) -> None:
        self.lexicon.upsert(rows, items)


__all__ = ["BM25", "analyzer", "repeats", "texts", "write_index"]
