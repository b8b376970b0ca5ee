"""
Rerank: the only stage that looks at the list as a whole. It drops what repeats, then spreads what
is alike, and cuts to the page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from funnel.config import Config
from funnel.errors import BadQuery
from funnel.generation import Generation
from funnel.stage import Select, Selector, Stage
from funnel.types import Array, Candidates, Query, taken
from rerank.dedup import Dedup
from rerank.mmr import MMR


@dataclass(frozen=True)
class Rerank:
    """The selectors of a scene."""

    selectors: tuple[Selector, ...]

    def run(self, query: Query, candidates: Candidates) -> Candidates:
        rows = candidates.rows
        if len(rows) and rows.min() < 0:
            raise BadQuery(f"candidates have the row {rows.min()}; rows begin at 0")
        return Select(self.selectors).run(query, candidates)


def build(generation: Generation, config: Config, scene: str) -> Stage:
    """The selectors that the scene asks for and the generation has the data for. Items that came
    after the generation are like no others, but for their declared product."""
    settings, selectors = config.scene(scene).rerank, list[Selector]()
    key = generation.config.data.product_key
    products: Callable[[Array], Array] | None = None
    signatures: Callable[[Array], Array] | None = None
    if settings.near_duplicates:
        items = generation.items
        if key and items.has("codes", key):

            def products(rows: Array) -> Array:
                return taken(items.codes(key), rows, -1)

        if generation.has("dedup/signatures.npy"):
            signatures = partial(taken, generation.array("dedup/signatures"))
    selectors.append(Dedup(products, signatures))
    if settings.diversity and generation.has("vector/text.npy"):
        vectors = generation.array("vector/text")
        selectors.append(MMR(partial(taken, vectors), settings.diversity))
    return Rerank(tuple(selectors))


__all__ = ["Rerank", "build"]
