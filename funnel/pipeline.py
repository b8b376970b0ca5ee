"""
The one pipeline object: the four stages of a scene, with their budgets and fall-backs.

The gateway, the evaluation, the replay and the golden requests all run it; only what stands behind
a stage differs: the stage itself, or a `RemoteStage`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from funnel.config import STAGES, Config, Scene, parse
from funnel.generation import Generation
from funnel.rulebook import RuleBook, rulebooks
from funnel.sort import Sorted, restored
from funnel.stage import Chain, Deadline, Fallback, Hydrator, Observed, Stage
from funnel.types import Candidates, Query, Rows, Step
from recall.popular import Popular

Report = Callable[[Query, Step], None]
Upsert = Callable[[Rows, pa.Table], None]  # rows, and the items that they are now


@dataclass(frozen=True)
class Unanswered:
    """Recall's fall-back: the most popular items from memory, allowed by the query's exclusions."""

    popular: Popular

    def run(self, query: Query, candidates: Candidates) -> Candidates:
        found, documents = self.popular.retrieve(query), self.popular.filters.documents
        found = found if documents is None else documents.once(found)
        return replace(found, steps=candidates.steps)


@dataclass(frozen=True)
class Plain:
    """Rerank's fall-back: the top of what came, no row twice."""

    def run(self, query: Query, candidates: Candidates) -> Candidates:
        _, first = np.unique(candidates.rows, return_index=True)
        return candidates.take(np.sort(first)[: query.limit])


@dataclass(frozen=True)
class Top:
    """What stands in for a late prerank or rank: the order there was, cut."""

    keep: int

    def run(self, query: Query, candidates: Candidates) -> Candidates:
        return candidates.top(self.keep)


@dataclass(frozen=True)
class Pipeline:
    """`stages` is one scene's funnel; `run` is a `Stage.run`, `trail` keeps what rerank saw.

    Where the caller asks for an order, `order` takes the places of prerank and rank.
    """

    stages: Mapping[str, Stage]
    order: Stage

    def run(self, query: Query, candidates: Candidates) -> Candidates:
        return self.trail(query, candidates)["rerank"]

    def trail(self, query: Query, candidates: Candidates | None = None) -> dict[str, Candidates]:
        """What left every stage, by the stage's name."""
        left: dict[str, Candidates] = {}
        candidates = candidates or Candidates.empty()
        for name in STAGES:
            stage = self.stages[name]
            if query.sort and name in ("prerank", "rank"):
                stage = self.order if name == "prerank" else Chain(())
            left[name] = candidates = stage.run(query, candidates)
        if query.sort:
            left["rerank"] = restored(candidates)
        return left


def pipeline(
    stages: Mapping[str, Stage],
    scene: Scene,
    popular: Popular,
    pool: Executor | None = None,
    factor: float = 1.0,
    report: Report | None = None,
) -> Pipeline:
    """Policy around the stages of one scene.

    With a `pool` every stage gets its budget (times `factor`) and a fall-back; without, stages run
    until they are done, which is what offline work wants.
    """
    budgets = {name: getattr(scene, name).budget_ms * factor / 1e3 for name in STAGES}
    others: dict[str, Stage] = {
        "recall": Unanswered(popular),
        "prerank": Top(scene.prerank.keep),
        "rank": Top(scene.rank.keep),
        "rerank": Plain(),
    }
    wrapped: dict[str, Stage] = {}
    for name in STAGES:
        stage: Stage = Observed(stages[name], name, report)
        if pool is not None:
            stage = Fallback(Deadline(stage, budgets[name], pool), others[name], name)
        wrapped[name] = stage
    order = Chain((Sorted(popular.filters.items), Top(scene.rank.keep)))
    return Pipeline(wrapped, Observed(order, "sort", report))


def local(
    generation: Generation,
    config: Config,
    counters: Hydrator,
    names: tuple[str, ...] = STAGES,
    pool: Executor | None = None,
    follow: Callable[[Upsert], None] = lambda upsert: None,
    books: Mapping[str, RuleBook] | None = None,
) -> dict[str, dict[str, Stage]]:
    """The stages themselves, in this process: scene -> stage name -> stage.

    Only the folders named are imported, so a process that serves prerank needs no torch. `follow`
    gets what must be told of every upsert to a live catalogue; `books` are the files of rules, read
    now where they are not given.
    """
    scenes: dict[str, dict[str, Stage]] = {name: {} for name in config.scenes}
    if "recall" in names:
        import recall

        parts = recall.Parts.open(generation, config)
        follow(parts.upsert)
        for scene in scenes:
            scenes[scene]["recall"] = recall.build(generation, config, scene, pool, parts)
    if "prerank" in names:
        import prerank

        for scene in scenes:
            scenes[scene]["prerank"] = prerank.build(generation, config, scene, counters)
    if "rank" in names:
        import rank

        for scene in scenes:
            scenes[scene]["rank"] = rank.build(generation, config, scene, counters)
    if "rerank" in names:
        import rerank

        books = rulebooks(config) if books is None else books
        for scene in scenes:
            scenes[scene]["rerank"] = rerank.build(generation, config, scene, books, counters)
    return scenes


def offline(
    generation: Generation, config: Config, counters: Hydrator | None = None
) -> dict[str, Pipeline]:
    """Every scene's funnel in this process, without budgets; for offline work and golden requests.

    Without `counters` the item counters are those of the generation's cut.
    """
    if counters is None:
        from features.counts import Counts

        counters = Counts.open(generation)
    popular = Popular.open(generation, config)
    return {
        name: pipeline(stages, config.scenes[name], popular)
        for name, stages in local(generation, config, counters).items()
    }


def ranked(
    generation: Generation, config: Config, counters: Hydrator | None = None
) -> dict[str, Stage]:
    """What rank would put first if prerank cut nothing: scene -> prerank and rank of all that
    recall gave. Scenes whose rank has no model are left out."""
    from features.counts import Counts
    from rank import usable

    table = config.model_dump(mode="json")
    names = [
        name for name, scene in config.scenes.items() if usable(generation, name, scene.rank.model)
    ]
    for name in names:
        table["scenes"][name]["prerank"]["keep"] = config.scenes[name].recall.keep
    wide = parse(table)
    stages = local(generation, wide, counters or Counts.open(generation), ("prerank", "rank"))
    return {name: Chain((stages[name]["prerank"], stages[name]["rank"])) for name in names}
