"""
FAISS on a GPU, where there is one: CAGRA graphs (Ootomo et al. 2023), and the exact scan.

CAGRA is built on the GPU in a fraction of HNSW's time and copied to an HNSW for serving on CPUs, in
the same file as any other. Serving processes with a GPU may scan there instead. Both need
`faiss-gpu-cuvs` (or, for the scan alone, `faiss-gpu`).
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from funnel.config import Vectors
from funnel.errors import BadConfig
from funnel.types import Array

FEW = 10_000  # vectors below which a GPU is not worth the trip, and CAGRA's graph not safe
BATCH = 1 << 18  # vectors that go to the GPU at once


library: Any = faiss  # the stubs know the CPU's part only


def present() -> bool:
    """Whether this FAISS can use a GPU that is there."""
    return hasattr(library, "StandardGpuResources") and library.get_num_gpus() > 0


def builds(n: int, use: str) -> bool:
    """Whether graphs over n vectors are built on the GPU. Raises `BadConfig` where the config
    insists on a GPU that is not there."""
    demanded(use)
    return use != "off" and n >= FEW and present() and hasattr(library, "GpuIndexCagra")


def searches(n: int, use: str) -> bool:
    """Whether requests are answered on the GPU."""
    demanded(use)
    return use == "search" and n >= FEW


def demanded(use: str) -> None:
    if use == "search" and not present():
        raise BadConfig(
            "vectors.gpu = 'search': this FAISS finds no GPU; install faiss-gpu-cuvs where there "
            "is one, or set vectors.gpu = 'auto'"
        )


def graph(vectors: Array, settings: Vectors) -> Any:
    """An HNSW for the CPU whose ground floor is the CAGRA graph of vectors (n, d)."""
    width = vectors.shape[1]
    how = library.GpuIndexCagraConfig()
    how.graph_degree = 2 * settings.hnsw_m
    how.intermediate_graph_degree = 4 * settings.hnsw_m
    how.build_algo = library.graph_build_algo_NN_DESCENT
    index = library.GpuIndexCagra(
        library.StandardGpuResources(), width, library.METRIC_INNER_PRODUCT, how
    )
    index.train(np.ascontiguousarray(vectors, np.float32))
    copy = library.IndexHNSWCagra(width, settings.hnsw_m, library.METRIC_INNER_PRODUCT)
    copy.base_level_only = False  # the floors above are built on the CPU: searches start near
    index.copyTo(copy)
    return copy


def flat(vectors: Array) -> Any:
    """The exact scan on the first GPU."""
    options = library.GpuIndexFlatConfig()
    options.device = 0
    width = vectors.shape[1]
    index = library.GpuIndexFlatIP(library.StandardGpuResources(), width, options)
    for start in range(0, len(vectors), BATCH):
        index.add(np.ascontiguousarray(vectors[start : start + BATCH], np.float32))
    return index
