"""
Rerank: the only stage that looks at the list as a whole. It drops what repeats, then spreads what
is alike, and cuts to the page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from funnel.config import Config
from funnel.config import Rerank as Settings
from funnel.errors import BadConfig, BadQuery
from funnel.generation import Generation
from funnel.stage import Select, Selector, Stage
from funnel.types import Array, Candidates, Query, taken
from rerank.calibrated import Calibrated
from rerank.dedup import Dedup
from rerank.dpp import DPP
from rerank.mmr import MMR
from rerank.quotas import Codes, Quota, Quotas
from rerank.spread import Vectors
from rerank.ssd import SSD


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
        vectors = partial(taken, generation.array("vector/text"))
        selectors.append(_spreading(settings, vectors))
    for name, weight in settings.calibrated.items():
        selectors.append(
            Calibrated(_codes(generation, "calibrated", name), _wanted(generation), weight)
        )
    if settings.quotas:
        selectors.append(Quotas(_quotas(generation, settings)))
    return Rerank(tuple(selectors))


def _spreading(settings: Settings, vectors: Vectors) -> Selector:
    if settings.method == "mmr":
        return MMR(vectors, settings.diversity)
    made = (DPP if settings.method == "dpp" else SSD)(vectors, settings.diversity, settings.window)
    made.select(Query(limit=1), Candidates(np.zeros(2, np.int32), np.ones(2, np.float32)))
    return made  # its kernel compiled, or loaded


def _quotas(generation: Generation, settings: Settings) -> dict[str, Quota]:
    return {
        name: Quota(_codes(generation, "quotas", name), most, among)
        for name, (most, among) in settings.quotas.items()
    }


def _codes(generation: Generation, setting: str, name: str) -> Codes:
    """Raises `BadConfig` for an attribute that the catalogue has no values of."""
    items = generation.items
    if not items.has("codes", name) or items.has("offsets", name):
        known = ", ".join(generation.config.data.categorical)
        raise BadConfig(f"rerank.{setting}: '{name}' is no attribute of one value; known: {known}")
    return lambda rows: taken(items.codes(name), rows, -1)


def _wanted(generation: Generation) -> Callable[[Array], Array]:
    """Which actions say that the user wanted an item, by their codes; an unknown one does not."""
    positive = generation.config.data.positive
    wanted = np.array([*(name in positive for name in generation.manifest.actions), False])
    return wanted.__getitem__


__all__ = ["Rerank", "build"]
