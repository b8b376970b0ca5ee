"""Vectors and their indices against plain NumPy: kinds, filters, what changes while it serves."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funnel.config import Vectors, parse
from funnel.errors import BadConfig
from recall import delta, gpu, nearest, sizes
from recall.delta import Delta
from recall.exact import rescored, scan, scan_batch
from recall.nearest import Nearest, built, write_index
from recall.sizes import chosen

N, D = 4000, 32


def clustered(n: int, seed: int, width: int = D) -> np.ndarray:
    """Points of low dimension around centres, to length 1."""
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((40, width))
    basis = np.random.default_rng(1).standard_normal((8, width))
    made = centres[draw.integers(0, 40, n)] + 0.7 * draw.standard_normal((n, 8)) @ basis
    made += 0.2 * draw.standard_normal((n, width))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def naive(vectors: np.ndarray, query: np.ndarray, mask: np.ndarray | None, limit: int) -> list[int]:
    scores = vectors.astype(np.float64) @ query.astype(np.float64)
    rows = np.arange(len(vectors)) if mask is None else np.flatnonzero(mask)
    return rows[np.argsort(-scores[rows], kind="stable")][:limit].tolist()


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return clustered(N, 3)


def opened(vectors: np.ndarray, kind: str, path: Path) -> Nearest:
    """As a service opens it: from its file."""
    how = parse({"vectors": {"index": kind}}).vectors
    write_index(path / "v.faiss", vectors, how)
    read = faiss.read_index(str(path / "v.faiss"), faiss.IO_FLAG_MMAP_IFC)
    return Nearest(vectors, read, how)


def overlap(found: np.ndarray, expected: list[int]) -> float:
    return len(np.intersect1d(found, expected)) / len(expected)


@pytest.mark.parametrize("share", [None, 0.5, 0.01, 0.0])
def test_the_scan_finds_what_a_sort_finds(vectors: np.ndarray, share: float | None) -> None:
    draw = np.random.default_rng(1)
    mask = None if share is None else draw.random(N) < share
    for query in clustered(5, 8):
        rows, scores = scan(vectors, query, mask, 50)
        assert rows.tolist() == naive(vectors, query, mask, 50)
        np.testing.assert_allclose(scores, vectors[rows] @ query, atol=1e-6)
        again, same = rescored(vectors, query, rows[::-1], 50)
        assert again.tolist() == rows.tolist()
        np.testing.assert_allclose(same, scores, atol=1e-6)


def test_a_score_does_not_depend_on_who_else_is_allowed(vectors: np.ndarray) -> None:
    query, mask = clustered(1, 8)[0], np.random.default_rng(1).random(N) < 0.1
    every = dict(zip(*(a.tolist() for a in scan(vectors, query, None, N)), strict=True))
    for row, score in zip(*(a.tolist() for a in scan(vectors, query, mask, N)), strict=True):
        assert score == every[row]


def test_batches_find_what_single_queries_find(vectors: np.ndarray) -> None:
    queries = clustered(30, 5)
    rows, scores = scan_batch(vectors, queries, 20)
    for place, query in enumerate(queries):
        alone, theirs = scan(vectors, query, None, 20)
        assert rows[place].tolist() == alone.tolist()
        np.testing.assert_allclose(scores[place], theirs, atol=1e-5)


@pytest.mark.parametrize(("kind", "least"), [("hnsw", 0.97), ("hnsw_sq8", 0.95), ("ivfpq", 0.9)])
def test_an_index_finds_what_the_scan_finds(
    vectors: np.ndarray, kind: str, least: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "SMALL", 10)
    vectors = vectors.copy()
    vectors[::10] = 0  # rows without a vector are in no index
    index = opened(vectors, kind, tmp_path)
    draw = np.random.default_rng(1)
    found: list[float] = []
    for query in clustered(20, 6):
        for mask in (None, draw.random(N) < 0.5):
            rows, scores = index.walk(query, mask, 50, 256)
            assert mask is None or mask[rows].all()
            assert not np.any(rows % 10 == 0)
            np.testing.assert_allclose(scores, vectors[rows] @ query, atol=1e-5)
            assert np.all(np.diff(scores) <= 0)
            found.append(overlap(rows, naive(vectors, query, mask, 50)))
    assert np.mean(found) >= least


def test_the_same_vectors_make_the_same_file(
    vectors: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "SMALL", 10)
    for kind in ("hnsw", "hnsw_sq8", "ivfpq"):
        how = Vectors(index=kind)
        for name in ("a", "b"):
            write_index(tmp_path / name, vectors, how)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2, 0.1, 0.01, 0.001])
def test_a_filter_costs_no_recall(
    vectors: np.ndarray, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "SMALL", 10)
    monkeypatch.setattr(nearest, "WALK", 2)  # so that the walk pays in a small set, where it can
    index = opened(vectors, "hnsw", tmp_path)
    mask = np.random.default_rng(7).random(N) < share
    mask[0] = True
    for query in clustered(10, 6):
        rows, _ = index.search(query, mask, 100)
        expected = naive(vectors, query, mask, 100)
        assert len(rows) == len(expected)
        assert overlap(rows, expected) >= 0.9
    near = vectors @ query < np.sort(vectors @ query)[1000]  # only what is far is allowed
    rows, _ = index.search(query, near, 100)
    assert len(rows) == 100
    assert near[rows].all()


def test_the_kind_follows_the_budget() -> None:
    def kind(n: int, **settings: object) -> str:
        return chosen(n, 64, Vectors(**settings)).kind

    assert kind(4999, index="hnsw") == "flat"
    assert kind(1_000_000) == "hnsw"
    assert kind(1_000_000, memory_mb=400) == "hnsw_sq8"
    assert kind(1_000_000, memory_mb=100) == kind(1_000_000, memory_mb=1) == "ivfpq"
    assert kind(1_000_000, index="flat", memory_mb=1) == "flat"


@pytest.mark.parametrize("kind", ["hnsw", "hnsw_sq8", "ivfpq"])
def test_an_index_is_as_large_as_its_estimate(
    vectors: np.ndarray, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "SMALL", 10)
    how = Vectors(index=kind)
    written = faiss.serialize_index(nearest.numbered(built(vectors, kind, how), np.arange(N)))
    book = 256 * D * 4 if kind == "ivfpq" else 0  # which only counts in small sets
    assert len(written) == pytest.approx(chosen(N, D, how).memory + book, rel=0.1)


def test_a_gpu_that_is_not_there_is_the_configs_fault() -> None:
    if gpu.present():
        pytest.skip("there is one")
    with pytest.raises(BadConfig, match=r"vectors\.gpu"):
        gpu.searches(10**6, "search")
    assert not gpu.builds(10**6, "auto")


@pytest.mark.skipif(not gpu.present(), reason="needs a GPU and faiss-gpu-cuvs")
def test_a_graph_of_the_gpu_finds_what_one_of_the_cpu_finds() -> None:
    vectors, how = clustered(50_000, 3, 64), Vectors()
    exact = Nearest(vectors, gpu.flat(vectors), how)
    copied = Nearest(vectors, gpu.graph(vectors, how), how)
    own = Nearest(vectors, built(vectors, "hnsw", Vectors(gpu="off")), how)
    same: list[float] = []
    for query in clustered(50, 6, 64):
        first = own.walk(query, None, 100, 256)[0].tolist()
        same.append(overlap(copied.walk(query, None, 100, 256)[0], first))
        assert exact.walk(query, None, 100, 256)[0].tolist() == naive(vectors, query, None, 100)
    assert np.mean(same) >= 0.98


ROWS = st.lists(st.integers(0, 39), min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(st.lists(ROWS, max_size=12), st.booleans(), st.integers(1, 45))
def test_what_was_written_last_holds(batches: list[list[int]], graphs: bool, limit: int) -> None:
    base, draw = clustered(20, 1), np.random.default_rng(len(batches))
    living = Delta(Nearest(base, None, Vectors()))
    now = {row: base[row] for row in range(20)}
    old_segment, delta.SEGMENT = delta.SEGMENT, 8 if graphs else 1 << 16
    try:
        for batch in batches:
            vectors = clustered(len(batch), int(draw.integers(1000)))
            living.upsert(np.array(batch, np.int32), vectors)
            now.update(zip(batch, vectors, strict=True))
            if living.builder is not None:
                living.builder.join()
        mask, query = draw.random(40) < 0.7, clustered(1, 5)[0]
        for allowed in (None, mask, mask[:25]):
            rows = [r for r in now if allowed is None or (r < len(allowed) and allowed[r])]
            expected = sorted(rows, key=lambda r: (-float(now[r] @ query), r))[:limit]
            assert living.search(query, allowed, limit).rows.tolist() == expected
    finally:
        delta.SEGMENT = old_segment
    asked = np.array([*now, 77])
    for row, vector in zip(asked.tolist(), living.vectors_of(asked), strict=True):
        np.testing.assert_array_equal(vector, now.get(row, np.zeros(D)))


def test_a_reader_sees_a_whole_batch_or_none() -> None:
    living = Delta(Nearest(clustered(20, 1), None, Vectors()))
    first, second = clustered(2, 2)
    living.upsert(np.array([3, 30], np.int32), np.array([first, first]))
    held = living.state
    for _ in range(2000):  # the arrays grow, and slots are replaced
        living.upsert(np.array([3, 30], np.int32), np.array([second, second]))
    assert held.allows(None, 0, held.count).tolist() == [True, True]
    assert held.allowed_of_base(None, 20) is not None
    np.testing.assert_array_equal(held.vectors[: held.count], [first, first])
    np.testing.assert_array_equal(living.vectors_of(np.array([3, 30])), [second, second])


def test_the_scan_keeps_the_lower_of_equal_rows_whatever_it_left_behind() -> None:
    """Products of few values, so that most are equal, and more of them than the scan holds."""
    draw = np.random.default_rng(11)
    vectors = draw.integers(-2, 3, (9000, 3)).astype(np.float32)
    asked = np.array([1, 2, 1], np.float32)
    products = vectors @ asked
    allowed = draw.random(9000) < 0.7
    for mask in (None, allowed):
        places = np.flatnonzero((products != 0) & (True if mask is None else mask))
        order = places[np.lexsort((places, -products[places]))]
        for limit in (0, 1, 40, 500, 5000, 9000):
            rows, scores = scan(vectors, asked, mask, limit)
            np.testing.assert_array_equal(rows, order[:limit])
            np.testing.assert_array_equal(scores, products[order[:limit]])
