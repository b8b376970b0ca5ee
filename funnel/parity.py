"""
Did serving score what training would: logged requests, recomputed from events and generation.

Of every logged request the live counters are read again as of its moment, from the generation and
the archive of the live log; the models score the logged candidates again, with the logged query and
the recomputed counters. What was logged and what comes out must be the same, column by column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from funnel.config import Config
from funnel.errors import BadData
from funnel.log import Logged, read
from funnel.pipeline import Pipeline
from funnel.replay import Runner, Side
from funnel.types import Array, Candidates, Query

CLOSE = 1e-4  # relative, of float32 that went through sums in another order
STAGES = ("prerank", "rank")
MADE = ("live.", "pair.", "prerank", "rank", "p.")  # columns that prerank and rank add


@dataclass(slots=True)
class Column:
    """One logged column against its recomputation."""

    compared: int = 0  # values
    differ: int = 0
    worst: float = 0.0  # largest difference, relative to the larger of 1 and the value
    request: str = ""  # where the worst is
    row: int = -1
    logged: float = 0.0
    recomputed: float = 0.0

    def add(self, request: str, rows: Array, logged: Array, again: Array) -> None:
        self.compared += len(rows)
        both = np.isnan(logged) & np.isnan(again)
        gap = np.abs(logged - again) / np.maximum(np.maximum(np.abs(logged), np.abs(again)), 1.0)
        gap = np.where(both, 0.0, np.where(np.isnan(gap), np.inf, gap))
        self.differ += int(np.count_nonzero(gap > CLOSE))
        place = int(np.argmax(gap)) if len(gap) else -1
        if place >= 0 and gap[place] > self.worst:
            self.worst, self.request, self.row = float(gap[place]), request, int(rows[place])
            self.logged, self.recomputed = float(logged[place]), float(again[place])


@dataclass(slots=True)
class Parity:
    """What `funnel parity` prints."""

    requests: int = 0
    degraded: int = 0  # left out: a part of them was late or missing
    columns: dict[str, Column] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        return not any(column.differ for column in self.columns.values())


def parity(
    log: Path,
    config: Config,
    scene: str | None = None,
    most: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> Parity:
    """Recomputes the logged requests, at most `most` (0: all), oldest first.

    Raises `BadData` where nothing was logged, or a request's generation is not there any more.
    """
    side, found = Side("parity", config, log), Parity()
    for entry in read(log, scene):
        if most and found.requests >= most:
            break
        generation = entry.query.generation
        if not (side.root / generation).is_dir():
            raise BadData(
                f"request {entry.query.request_id} was answered by generation {generation}, which "
                f"is not in {side.root}: parity needs the generations of the log"
            )
        if entry.degraded:
            found.degraded += 1
            continue
        runner = side.runner(generation)
        runner.timeline.advance(entry.query.at)
        if entry.query.scene not in runner.pipelines:
            known = ", ".join(runner.pipelines)
            raise BadData(f"the log has scene '{entry.query.scene}', the config has: {known}")
        for name, (rows, logged, again) in compared(entry, runner).items():
            column = found.columns.setdefault(name, Column())
            column.add(entry.query.request_id, rows, logged, again)
        found.requests += 1
        progress(found.requests)
    if not (found.requests or found.degraded):
        raise BadData(f"no logged request{f' of scene {scene}' if scene else ''} in {log}")
    return found


def compared(entry: Logged, runner: Runner) -> Mapping[str, tuple[Array, Array, Array]]:
    """Column -> rows, logged values and recomputed values, for what prerank and rank added."""
    query, logged = entry.query, entry.candidates
    if query.sort or not len(logged):  # prerank and rank were not asked
        return {}
    own = {name: column for name, column in logged.columns.items() if not made(name)}
    scores = own.get("recall", logged.scores)
    candidates = Candidates(logged.rows, np.asarray(scores, np.float32), own)
    again = rescored(runner.pipelines[query.scene], query, candidates)
    place = {int(row): n for n, row in enumerate(again.rows)}
    order = np.array([place.get(int(row), -1) for row in logged.rows], np.int64)
    # Items that came after the generation are known to the log, and not here.
    there = np.flatnonzero((order >= 0) & (logged.rows < runner.generation.items.base))
    return {
        name: (
            logged.rows[there],
            np.asarray(column, np.float64)[there],
            np.asarray(again.columns[name], np.float64)[order[there]],
        )
        for name, column in logged.columns.items()
        if made(name) and name in again.columns and np.ndim(column) == 1
    }


def made(name: str) -> bool:
    """Whether prerank or rank added the column."""
    return name.startswith(MADE)


def rescored(pipeline: Pipeline, query: Query, candidates: Candidates) -> Candidates:
    """The candidates after prerank and rank."""
    for name in STAGES:
        candidates = pipeline.stages[name].run(query, candidates)
    return candidates
