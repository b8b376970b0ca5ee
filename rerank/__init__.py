"""
Rerank: the only stage that looks at the list as a whole. It drops what repeats, then spreads what
is alike, and cuts to the page.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from funnel.config import Config
from funnel.errors import BadQuery
from funnel.generation import Generation
from funnel.stage import Select, Selector, Stage
from funnel.types import Candidates, Query
from rerank.dedup import Dedup
from rerank.mmr import MMR


@dataclass(frozen=True)
class Rerank:
    """The selectors of a scene over the rows 0 to `items` - 1 of a generation."""

    items: int
    selectors: tuple[Selector, ...]

    def run(self, query: Query, candidates: Candidates) -> Candidates:
        rows = candidates.rows
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.items:
            raise BadQuery(
                f"candidates have the rows {rows.min()} to {rows.max()}; "
                f"this generation has 0 to {self.items - 1}"
            )
        return Select(self.selectors).run(query, candidates)


def build(generation: Generation, config: Config, scene: str) -> Stage:
    """The selectors that the scene asks for and the generation has the data for."""
    settings, selectors = config.scene(scene).rerank, list[Selector]()
    key = generation.config.data.product_key
    products = signatures = None
    if settings.near_duplicates:
        if key and generation.items.has("codes", key):
            products = generation.items.codes(key).__getitem__
        if generation.has("dedup/signatures.npy"):
            signatures = generation.array("dedup/signatures").__getitem__
    selectors.append(Dedup(products, signatures))
    if settings.diversity and generation.has("vector/text.npy"):
        vectors = generation.array("vector/text")
        selectors.append(MMR(lambda rows: np.asarray(vectors[rows]), settings.diversity))
    return Rerank(len(generation.items), tuple(selectors))


__all__ = ["Rerank", "build"]
