"""
Recall: from the whole catalogue to the candidates, by several channels at once.

`Parts.open` loads what the channels of one generation share; `build` makes one scene's stage of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass

import pyarrow as pa

from funnel.config import Config
from funnel.generation import Generation
from funnel.stage import Fuse, Retrieve, Stage
from funnel.types import Candidates, Query, Rows
from recall.als import ALS
from recall.bm25 import BM25
from recall.channel import Bound, Channel, Living
from recall.filters import Filters
from recall.fusion import fusion_of
from recall.item_cf import ItemCF
from recall.live import Live
from recall.neighbours import opener
from recall.new import New
from recall.passages import OnePassage
from recall.popular import Popular
from recall.spectral import Spectral
from recall.tfidf import TFIDF
from recall.two_tower import TwoTower
from recall.user_cf import UserCF
from recall.vector import Vector

# One line a channel. An opener gives None where the generation has nothing for the channel.
OPENERS: Mapping[str, Callable[[Generation, Config], Channel | None]] = {
    "bm25": BM25.open,
    "tfidf": TFIDF.open,
    "vector": Vector.open,
    "two_tower": TwoTower.open,
    "item_cf": ItemCF.open,
    "swing": opener("swing"),
    "graph": opener("graph"),
    "user_cf": UserCF.open,
    "als": ALS.open,
    "spectral": Spectral.open,
    "live": Live.open,
    "popular": Popular.open,
    "new": New.open,
}


@dataclass(frozen=True, eq=False)
class Parts:
    """The channels of one generation, loaded once for all scenes."""

    channels: Mapping[str, Channel]
    filters: Filters

    @staticmethod
    def open(generation: Generation, config: Config) -> Parts:
        """Every channel that a scene of the config asks for and the generation has."""
        wanted = {
            name
            for scene in config.scenes.values()
            for name, channel in scene.recall.channels.items()
            if channel.limit
        }
        found = {name: OPENERS[name](generation, config) for name in OPENERS if name in wanted}
        channels = {name: channel for name, channel in found.items() if channel is not None}
        return Parts(channels, Filters.open(generation, config))

    def upsert(self, rows: Rows, items: pa.Table) -> None:
        """Tells the channels that know contents what rows[i] is now (`recall.channel.Living`)."""
        for channel in self.channels.values():
            if isinstance(channel, Living):
                channel.upsert(rows, items)


@dataclass(frozen=True, eq=False)
class Recall:
    """One scene's channels, bound to what each request allows."""

    filters: Filters
    channels: Mapping[str, Channel]
    limits: Mapping[str, int]
    fuse: Fuse
    keep: int
    pool: Executor | None

    def run(self, query: Query, candidates: Candidates) -> Candidates:
        mask, base = self.filters.allowed(query), self.filters.items.base
        sources = {
            name: Bound(channel, mask, self.limits[name], base)
            for name, channel in self.channels.items()
        }
        return Retrieve(sources, self.fuse, self.keep, self.pool).run(query, candidates)


def build(
    generation: Generation,
    config: Config,
    scene: str,
    pool: Executor | None = None,
    parts: Parts | None = None,
) -> Stage:
    """The recall stage of a scene. With a `pool` its channels run in parallel."""
    settings = config.scene(scene)
    parts = parts or Parts.open(generation, config)
    channels = settings.recall.channels
    limits: dict[str, int] = {
        name: c.limit for name, c in channels.items() if c.limit and name in parts.channels
    }
    fuse: Fuse = fusion_of(generation, config, scene)
    if parts.filters.documents is not None:
        fuse = OnePassage(fuse, parts.filters.documents)
    return Recall(
        parts.filters,
        {name: parts.channels[name] for name in limits},
        limits,
        fuse,
        settings.recall.keep,
        pool,
    )


__all__ = ["Parts", "Recall", "build"]
