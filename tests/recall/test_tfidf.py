"""TF-IDF cosine against scikit-learn."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from sklearn.feature_extraction.text import CountVectorizer

from funnel.catalogue import write_catalogue
from funnel.config import parse
from funnel.generation import Generation, Manifest
from funnel.types import Query
from recall.bm25 import write_index
from recall.tfidf import TFIDF

TITLES = ["red red shoe", "blue shoe hat", "", "hat hat hat red", "lamp"]


def channel(path: Path) -> TFIDF:
    config = parse({"data": {"language": "none"}})
    items = pa.table({"item_id": [f"i{n}" for n in range(len(TITLES))], "title": TITLES})
    write_catalogue(path / "items", items, [], [], [])
    Manifest("g", until=0, past=0, actions=(), config=config.model_dump(mode="json")).write(path)
    generation = Generation.open(path)
    write_index(path / "bm25", generation.items, config)
    found = TFIDF.open(generation, config)
    assert found is not None
    return found


def test_the_cosine_equals_that_of_dense_vectors(tmp_path: Path) -> None:
    tfidf, counter = channel(tmp_path), CountVectorizer()
    counts = counter.fit_transform(TITLES).toarray().astype(float)
    df, n = (counts > 0).sum(0), len(TITLES)
    idf = np.log(1 + (n - df + 0.5) / (df + 0.5))

    def unit(rows: np.ndarray) -> np.ndarray:
        vectors = np.where(rows > 0, 1 + np.log(np.maximum(rows, 1)), 0) * idf
        return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)

    for text in ("red shoe", "hat hat red", "lamp", "unknown"):
        cosines = unit(counts) @ unit(counter.transform([text]).toarray()[0].astype(float))
        found = tfidf.find(Query(text=text), None, 9)
        assert sorted(found.rows.tolist()) == np.flatnonzero(cosines > 0).tolist()
        np.testing.assert_allclose(found.scores, cosines[found.rows], rtol=1e-5)


def test_what_is_upserted_is_found(tmp_path: Path) -> None:
    tfidf = channel(tmp_path)
    tfidf.upsert(np.array([0, 7], np.int32), pa.table({"title": ["green sofa", "sofa"]}))
    assert tfidf.find(Query(text="sofa"), None, 9).rows.tolist() == [7, 0]
    assert 0 not in tfidf.find(Query(text="red"), None, 9).rows
