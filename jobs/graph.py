"""
Item-item graph filter: one step of smoothing over the normalised graph of users and items.

    w_ij = (Σ_u d_u^(−2α) · d_i^(−β) · d_j^(−γ))^s      over the users u who wanted i and j
    served: w_ij / (Σ_j w_ij)^ρ, the 200 best j of each i

d_u is how many items u wanted, d_i how many users wanted i. α = β = γ = ½, s = 1, ρ = 0 is the
linear filter of GF-CF (Shen et al. 2021, https://arxiv.org/abs/2108.07567); s is Turbo-CF's
sharpening (Park et al. 2024, https://arxiv.org/abs/2404.14243); γ < β, by which targets keep some
of their popularity, is RP3beta's (Paudel et al. 2016, https://doi.org/10.1145/2955101). Cut to 200
neighbours, the linear filter loses a twentieth of its recall, and the unequal one nothing.

Writes graph/ into both drafts, in the form of recall/neighbours.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from funnel.catalogue import Catalogue
from jobs import wants
from jobs.command import command
from jobs.fresh import removed
from jobs.products import Lists, top_product
from jobs.wants import Wants
from jobs.work import Work


@dataclass(frozen=True, slots=True)
class Graph:
    """The exponents; chosen on a cut of the training pairs of Gowalla."""

    user: float = 0.25  # α
    source: float = 0.6  # β
    target: float = 0.25  # γ
    power: float = 1.5  # s
    total: float = 0.5  # ρ
    keep: int = 200


def degrees(matrix: Any) -> tuple[Any, Any]:
    """(u,), (n,) how many items each user wanted and how many users each item; at least 1."""
    users = np.diff(matrix.indptr)
    items = np.bincount(matrix.indices, minlength=matrix.shape[1])
    return np.maximum(users, 1.0), np.maximum(items, 1.0)


def neighbours(
    found: Wants, graph: Graph | None = None, progress: Callable[[int], None] = lambda done: None
) -> Lists:
    """The lists of every item."""
    graph = graph or Graph()
    matrix = found.matrix()
    users, items = degrees(matrix)
    votes = (sp.diags(users ** (-2 * graph.user)) @ matrix).tocsr()
    lists = top_product(
        matrix.T.tocsr(),
        votes,
        items**-graph.source,
        items**-graph.target,
        graph.keep,
        graph.power,
        progress=progress,
    )
    sizes = np.diff(lists.indptr)
    sums = np.bincount(np.repeat(np.arange(len(lists)), sizes), lists.weights, len(lists))
    damped = np.repeat(np.maximum(sums, 1e-30) ** -graph.total, sizes)
    return Lists(lists.indptr, lists.indices, (lists.weights * damped).astype(np.float32))


def run(work: Work) -> Mapping[str, Any]:
    total = 0
    for draft, cut in work.drafts:
        removed(draft / "graph")
        if work.has("events"):
            items = len(Catalogue(draft / "items"))
            found = wants.read(work, cut, items)
            model = Graph(keep=work.config.behaviour.neighbours)
            lists = neighbours(found, model, lambda done: work.progress(f"graph: {done:,} items"))
            total = lists.write(draft / "graph")
    return {"neighbours": total}


if __name__ == "__main__":
    command(run, __doc__)
