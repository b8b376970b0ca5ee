"""
Vectors and an index over them: the places nearest to a query, under a filter too.

    hnsw       graph over the vectors (Malkov and Yashunin 2016)
    hnsw_sq8   the same over vectors of one byte a dimension
    ivfpq      inverted lists of product-quantised vectors (Jégou, Douze and Schmid 2011)
    flat       no index: the exact scan

What a quantised index finds is looked at again with the exact vectors. A filter makes a walk
longer, as it passes by what is not allowed, and the scan shorter; the cheaper one is taken. Where a
walk ends with fewer places than there are, the scan is taken after all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from funnel.config import Vectors
from funnel.errors import BadGeneration
from funnel.generation import Generation
from funnel.types import Array
from recall import gpu
from recall.exact import rescored, scan
from recall.masks import Mask
from recall.sizes import CODE, Size, chosen, lists

SEED = 1234  # of k-means
SAMPLE = 64  # training vectors a list
SECOND_LOOK = 4  # quantised hits that are looked at again, for each one wanted
# Costs, in scanned vectors: one candidate of a walk costs as much as WALK of them, and a filter
# lets the walk look at `limit / share · SLACK` candidates (docs/recall.md).
WALK = 300
SLACK = 1.2
BREADTH = 1.5  # candidates of a walk at least, for each place that is wanted


def write_index(path: Path, vectors: Array, settings: Vectors) -> Size:
    """The configured kind over the rows that are not zero, with row numbers as ids; no file for
    `flat`. Returns what it was estimated to cost.

    One thread builds, so the same vectors give the same index (but for a graph built on a GPU).
    """
    path.unlink(missing_ok=True)
    rows = np.flatnonzero(np.any(vectors != 0, axis=1))
    size = chosen(len(rows), vectors.shape[1], settings)
    if size.kind != "flat":
        kept = np.ascontiguousarray(vectors[rows], np.float32)
        faiss.write_index(numbered(built(kept, size.kind, settings), rows), str(path))
    return size


def numbered(index: Any, rows: Array) -> Any:
    """The index with row numbers for places."""
    found: Any = faiss.IndexIDMap(faiss.IndexFlat(index.d, index.metric_type))
    found.index, found.ntotal = index, index.ntotal
    found.referenced_objects = [index]  # lives on, and with it the parts that Python holds for it
    faiss.copy_array_to_vector(rows.astype(np.int64), found.id_map)
    return found


def built(vectors: Array, kind: str, settings: Vectors) -> Any:
    """A FAISS index of the kind over vectors (n, d) float32, in their order."""
    n, width = vectors.shape
    if kind == "hnsw" and gpu.builds(n, settings.gpu):
        return gpu.graph(vectors, settings)
    metric = faiss.METRIC_INNER_PRODUCT
    index: Any
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        if kind == "ivfpq":
            count = lists(n)
            index = faiss.IndexIVFPQ(
                faiss.IndexFlatIP(width), width, count, _codes(width), 8, metric
            )
            index.cp.seed = SEED
            drawn = np.random.default_rng(SEED).permutation(n)[: max(SAMPLE * count, 256 * 40)]
            index.train(vectors[np.sort(drawn)])
        else:
            if kind == "hnsw":
                index = faiss.IndexHNSWFlat(width, settings.hnsw_m, metric)
            else:
                bits = faiss.ScalarQuantizer.QT_8bit
                index = faiss.IndexHNSWSQ(width, bits, settings.hnsw_m, metric)  # type: ignore[arg-type]
                index.train(vectors)
            index.hnsw.efConstruction = settings.hnsw_build
        index.add(vectors)
    finally:
        faiss.omp_set_num_threads(threads)
    return index


def _codes(width: int) -> int:
    """Bytes of a code: the most that divide the width into parts of CODE dimensions or more."""
    return max(m for m in range(1, max(width // CODE, 1) + 1) if width % m == 0)


@dataclass(frozen=True, eq=False)
class Nearest:
    """Vectors (n, d), zero rows for items without one, and an index over them where it pays."""

    vectors: Array
    index: Any  # of FAISS; None: the scan is taken
    settings: Vectors

    @staticmethod
    def open(generation: Generation, name: str, settings: Vectors) -> Nearest | None:
        """`<name>.npy` and its index; None where the generation has no such vectors."""
        if not generation.has(f"{name}.npy"):
            return None
        path, index = generation.path / f"{name}.faiss", None
        if path.exists():
            try:
                index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
            except RuntimeError as error:
                raise BadGeneration(f"cannot read the vector index {path}: {error}") from error
        vectors = generation.array(name)
        if gpu.searches(len(vectors), settings.gpu):
            index = gpu.flat(vectors)
        return Nearest(vectors, index, settings)

    def __len__(self) -> int:
        return len(self.vectors)

    def scan_some(self) -> None:
        """Loads the kernels of the scan, or compiles them where that was never done."""
        few = self.vectors[:1]
        scan(few, np.ones(few.shape[1], np.float32), None, 1)
        rescored(few, np.ones(few.shape[1], np.float32), np.zeros(len(few), np.int32), 1)

    def search(self, query: Array, mask: Mask | None, limit: int) -> tuple[Array, Array]:
        """The places of highest cosine to `query` (d,) among those of `mask` (n,), best first,
        ties by place, and their cosines."""
        limit = min(limit, len(self))
        if not np.any(query) or limit <= 0:
            return np.empty(0, np.int32), np.empty(0, np.float32)
        share = 1.0 if mask is None else float(np.count_nonzero(mask)) / len(self)
        breadth = max(self.settings.hnsw_search, int(BREADTH * limit))
        if mask is not None:
            breadth = int(max(breadth, SLACK * limit / max(share, 1e-9)))
        if self.index is None or share * len(self) <= WALK * breadth:
            return scan(self.vectors, query, mask, limit)
        rows, scores = self.walk(query, mask, limit, breadth)
        if len(rows) < limit:
            return scan(self.vectors, query, mask, limit)
        return rows, scores

    def walk(
        self, query: Array, mask: Mask | None, limit: int, breadth: int
    ) -> tuple[Array, Array]:
        """The same by the index, which may miss some; `breadth` candidates are looked at."""
        exact, parameters = parameters_of(self.index, breadth, self.settings)
        if mask is not None:
            bits = np.packbits(mask, bitorder="little")
            parameters.sel = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
        wanted = limit if exact else min(SECOND_LOOK * limit, len(self))
        asked = np.ascontiguousarray(query, np.float32)[None]
        scores, rows = self.index.search(asked, wanted, params=parameters)
        found = rows[0] >= 0
        places = rows[0][found].astype(np.int32)
        if exact:
            order = np.lexsort((places, -scores[0][found]))
            return places[order], scores[0][found][order]
        return rescored(self.vectors, query, places, limit)


def fitted(mask: Mask | None, n: int) -> Mask | None:
    """(n,) what a mask says of the first n rows; rows that it does not have are not allowed."""
    if mask is None or len(mask) == n:
        return mask
    return np.pad(mask[:n], (0, max(n - len(mask), 0)))


def parameters_of(index: Any, breadth: int, settings: Vectors) -> tuple[bool, Any]:
    """Whether the index returns exact products, and how to search it."""
    inner = faiss.downcast_index(getattr(index, "index", index))
    if isinstance(inner, faiss.IndexIVFPQ):
        wider = max(1.0, breadth / settings.hnsw_search)
        probes = min(int(settings.ivf_probes * wider), inner.nlist)
        return False, faiss.SearchParametersIVF(nprobe=probes)  # type: ignore[call-arg]
    if isinstance(inner, faiss.IndexHNSW):
        exact = not isinstance(inner, faiss.IndexHNSWSQ)
        wide = breadth if exact else max(breadth, SECOND_LOOK * breadth // 2)
        return exact, faiss.SearchParametersHNSW(efSearch=wide)  # type: ignore[attr-defined]
    return True, faiss.SearchParameters()
