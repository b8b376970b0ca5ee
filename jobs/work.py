"""
What every job gets: the data set, the config, the cuts in time, and where to read and write.

    <build.root>/.work/<name>-<digest of the data path>/
        state.json      the cuts; the finished steps and what they were made from (jobs.build)
        tables/         Spark tables that jobs leave each other, in Parquet
        samples/        <scene>/{requests,candidates}/, in the form of the request log
        past/           a draft of a generation that knows the events before `past`
        draft/          the draft that is published; it knows the events before `until`
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from funnel.config import Config
from funnel.dataset import digest, has
from funnel.generation import write_text

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

STATE = "state.json"
TABLES = ("items", "users", "events", "queries", "qrels")


@dataclass(frozen=True, eq=False)
class Work:
    """One build of one data set. Times are epoch ms; `past` < `until` unless there are no events.

    A generation knows the events before `until`. The training requests lie in [past, until); the
    models of behaviour that give them their evidence know the events before `past`.
    """

    data: Path
    config: Config
    until: int
    past: int
    progress: Callable[[str], None] = field(default=lambda text: None)

    @staticmethod
    def open(
        data: str | Path,
        config: Config,
        until: int | None = None,
        progress: Callable[[str], None] = lambda text: None,
    ) -> Work:
        """The work on a data set, its cuts taken from the events' times (once for all jobs).

        Without events the cut is `until`, or just after the newest item was made. Raises `BadData`
        where the data set has no valid items or events table.
        """
        from jobs.cut import cuts
        from jobs.happened import state as state_of_archive

        data = Path(data).resolve()
        root = place(data, config)
        key = [digest(data, name) for name in ("items", "events")]
        key += [str(config.build.holdout), str(config.build.sample_share), str(until)]
        key.append(state_of_archive(config))
        state = read_state(root)
        if state.get("cut", {}).get("key") != key:
            begin, end = cuts(_session(config, root), data, config, until)
            state["cut"] = {"key": key, "past": begin, "until": end}
            write_state(root, state)
        return Work(data, config, state["cut"]["until"], state["cut"]["past"], progress)

    @cached_property
    def root(self) -> Path:
        return place(self.data, self.config)

    @cached_property
    def spark(self) -> SparkSession:
        """The process's one session, started when it is first needed."""
        return _session(self.config, self.root)

    @property
    def tables(self) -> Path:
        return _made(self.root / "tables")

    @property
    def samples(self) -> Path:
        return _made(self.root / "samples")

    @property
    def draft(self) -> Path:
        return _made(self.root / "draft")

    @property
    def past_draft(self) -> Path:
        return _made(self.root / "past")

    @property
    def drafts(self) -> tuple[tuple[Path, int], ...]:
        """Both drafts with their cuts, the past one first."""
        return (self.past_draft, self.past), (self.draft, self.until)

    def has(self, table: str) -> bool:
        """Whether the data set has the table; events may also come from the live log's archive."""
        from jobs.happened import known

        return known(self.data, self.config) if table == "events" else has(self.data, table)


def place(data: Path, config: Config) -> Path:
    """The work directory of a data set: one for each path."""
    name = blake2b(str(data.resolve()).encode(), digest_size=6).hexdigest()
    return Path(config.build.root).resolve() / ".work" / f"{data.resolve().name}-{name}"


def read_state(root: Path) -> dict[str, Any]:
    """What the builds before left; empty where there was none, or where it is unreadable."""
    try:
        state = json.loads((root / STATE).read_text())
    except (FileNotFoundError, ValueError):  # a build that starts anew repairs it
        return {}
    return state if isinstance(state, dict) else {}


def write_state(root: Path, state: dict[str, Any]) -> None:
    write_text(_made(root) / STATE, json.dumps(state, indent=1))


def _session(config: Config, root: Path) -> SparkSession:
    from jobs.spark import session

    build = config.build
    return session(build.master, build.driver_memory, build.partitions, root / "spark")


def _made(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path
