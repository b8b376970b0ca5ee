"""
The one contract, the parts stages are made of, and the wrappers that add policy around them.

A `Stage` takes candidates and gives fewer or better-ordered ones. It reads no clock, no socket and
no environment: the query carries the time. Wrappers may: they are where timing, deadlines and
fall-backs live.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from funnel.errors import CallerError, FunnelError, Late
from funnel.types import Array, Candidates, Query, Rows, Step

log = logging.getLogger(__name__)


class Stage(Protocol):
    """Fewer candidates, or better-ordered ones."""

    def run(self, query: Query, candidates: Candidates) -> Candidates: ...


# The return types make the rules impossible to break.
class Source(Protocol):
    """Finds items: rows with scores (higher is better), best first, no row twice."""

    def retrieve(self, query: Query) -> Candidates: ...


class Hydrator(Protocol):
    """Adds columns, one value a row; cannot touch the items."""

    def hydrate(self, query: Query, rows: Rows) -> Mapping[str, Array]: ...


class Scorer(Protocol):
    """n candidates in, n scores out: cannot drop or reorder."""

    def score(self, query: Query, candidates: Candidates) -> Array: ...


class Selector(Protocol):
    """Indices out: cannot invent or rescore."""

    def select(self, query: Query, candidates: Candidates) -> Array: ...


class Fuse(Protocol):
    """Several channels' candidates as one list with one score and every channel's column."""

    def __call__(self, query: Query, found: Mapping[str, Candidates], keep: int) -> Candidates: ...


@dataclass(frozen=True)
class Retrieve:
    """Recall: every channel in parallel on `pool`, fused and cut to `keep`.

    A channel that fails or outlives the query's deadline costs its own candidates only and leaves
    its fault in the steps. Candidates that come in are ignored: recall starts from the catalogue.
    """

    sources: Mapping[str, Source]
    fuse: Fuse
    keep: int
    pool: Executor | None = None

    def run(self, query: Query, candidates: Candidates) -> Candidates:
        if self.pool is None or len(self.sources) == 1:
            done = {name: _retrieve(source, query) for name, source in self.sources.items()}
        else:
            futures = {
                name: self.pool.submit(_retrieve, source, query)
                for name, source in self.sources.items()
            }
            done = {}
            for name, future in futures.items():
                try:
                    done[name] = future.result(remaining(query))
                except FutureTimeout:
                    future.cancel()
                    done[name] = (Candidates.empty(), 0.0, "late")
        steps = tuple(
            Step(f"recall.{name}", len(found), len(found), ms, fault)
            for name, (found, ms, fault) in done.items()
        )
        fused = self.fuse(query, {name: found for name, (found, _, _) in done.items()}, self.keep)
        return replace(fused, steps=(*candidates.steps, *steps, *fused.steps))


def _retrieve(source: Source, query: Query) -> tuple[Candidates, float, str]:
    start = time.perf_counter()
    try:
        found, fault = source.retrieve(query), ""
    except CallerError:
        raise  # the caller's fault is the caller's to hear, not a missing channel
    except FunnelError as error:
        found, fault = Candidates.empty(), str(error)
    except Exception as error:  # a bug in one channel must not cost the page
        log.exception("a recall channel failed")
        found, fault = Candidates.empty(), f"failed: {type(error).__name__}"
    return found, 1e3 * (time.perf_counter() - start), fault


def remaining(query: Query) -> float | None:
    """Seconds that the query has left, at least 0; None where it has no deadline."""
    if query.deadline == float("inf"):
        return None
    return max(query.deadline - time.monotonic(), 0.0)


@dataclass(frozen=True)
class Hydrate:
    """Adds every hydrator's columns."""

    hydrators: Sequence[Hydrator]

    def run(self, query: Query, candidates: Candidates) -> Candidates:
        for hydrator in self.hydrators:
            candidates = candidates.with_columns(hydrator.hydrate(query, candidates.rows))
        return candidates


@dataclass(frozen=True)
class Score:
    """Scores all, keeps the best `keep`; the scores stay as column `name` (`prerank`, `rank`)."""

    scorer: Scorer
    keep: int
    name: str

    def run(self, query: Query, candidates: Candidates) -> Candidates:
        scores = self.scorer.score(query, candidates)
        return candidates.scored(scores, self.name).top(self.keep)


@dataclass(frozen=True)
class Select:
    """Each selector picks from what the one before it left; the first `query.limit` remain."""

    selectors: Sequence[Selector]

    def run(self, query: Query, candidates: Candidates) -> Candidates:
        for selector in self.selectors:
            candidates = candidates.take(selector.select(query, candidates))
        return candidates.take(np.arange(min(len(candidates), query.limit)))


@dataclass(frozen=True)
class Chain:
    """Stages in a row are a stage again."""

    stages: Sequence[Stage]

    def run(self, query: Query, candidates: Candidates) -> Candidates:
        for stage in self.stages:
            candidates = stage.run(query, candidates)
        return candidates


@dataclass(frozen=True)
class Cut:
    """The best `keep` by the scores that are there: what a stage without a model does."""

    keep: int

    def run(self, query: Query, candidates: Candidates) -> Candidates:
        return candidates.top(self.keep)


@dataclass(frozen=True)
class Observed:
    """Counts and times a stage: one `Step` a run."""

    stage: Stage
    name: str
    report: Callable[[Query, Step], None] | None = None  # metrics, logs

    def run(self, query: Query, candidates: Candidates) -> Candidates:
        start = time.perf_counter()
        kept = self.stage.run(query, candidates)
        step = Step(self.name, len(candidates), len(kept), 1e3 * (time.perf_counter() - start))
        if self.report is not None:
            self.report(query, step)
        return kept.step(step)


@dataclass(frozen=True)
class Deadline:
    """Gives a stage `seconds`, or what the query has left if that is less; raises `Late`.

    The stage runs on `pool`, so that the caller goes on when it is late. C code cannot be
    interrupted: a late run finishes in the background and its result is dropped.
    """

    stage: Stage
    seconds: float
    pool: Executor

    def run(self, query: Query, candidates: Candidates) -> Candidates:
        deadline = min(query.deadline, time.monotonic() + self.seconds)
        left = deadline - time.monotonic()
        if left <= 0:
            raise Late("no time left for this stage; raise the budget or lower the widths")
        future = self.pool.submit(self.stage.run, replace(query, deadline=deadline), candidates)
        try:
            return future.result(left)
        except FutureTimeout as error:
            future.cancel()
            raise Late(f"no answer within {1e3 * left:.0f} ms") from error


@dataclass(frozen=True)
class Fallback:
    """Runs `other` where the stage is late, missing or broken and says so in a step.

    A caller's fault passes: no other stage could answer it either.
    """

    stage: Stage
    other: Stage
    name: str

    def run(self, query: Query, candidates: Candidates) -> Candidates:
        start = time.perf_counter()
        try:
            return self.stage.run(query, candidates)
        except CallerError:
            raise
        except FunnelError as error:
            fault = str(error)
        except Exception as error:  # a bug in one stage must not cost the page
            log.exception("stage %s failed", self.name)
            fault = f"failed: {type(error).__name__}"
        kept = self.other.run(query, candidates)
        ms = 1e3 * (time.perf_counter() - start)
        return kept.step(Step(self.name, len(candidates), len(kept), ms, fault))
