"""
Rerank: the only stage that looks at the list as a whole. It drops what repeats, then spreads what
is alike, and cuts to the page.
"""

from __future__ import annotations

import numpy as np

from funnel.config import Config
from funnel.generation import Generation
from funnel.stage import Select, Selector, Stage
from rerank.dedup import Dedup
from rerank.mmr import MMR


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
    return Select(selectors)


__all__ = ["build"]
