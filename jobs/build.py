"""
All jobs in order, from a data set to a published generation.

A step is skipped when what it is made from has not changed since it last finished: the tables it
reads, its sections of the config, its code, the cuts, and the steps before it. A build that failed
or was stopped goes on where it was.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from funnel.changes import end
from funnel.config import Config
from funnel.dataset import TABLES, digest
from funnel.errors import Occupied
from funnel.generation import MANIFEST, point
from jobs.command import command
from jobs.fresh import removed
from jobs.happened import state
from jobs.items import begin
from jobs.work import Work, read_state, write_state

CODE = Path(__file__).parents[1]


PLACES = ("root", "master", "driver_memory", "partitions")  # of `build`: where, not what


@dataclass(frozen=True, slots=True)
class Step:
    """A job, named after its module in jobs/, and what it is made from.

    `makes` are paths in the work directory; they are removed before the step runs, because files
    in them may be shared with a published generation. What it `keeps` never is.
    """

    name: str
    after: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()  # of the config
    code: tuple[str, ...] = ()  # folders and files, beside the module itself
    makes: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()  # it adds to these itself; they go where all is made anew
    needs: str = ""  # without it there is nothing to do
    channel: str = ""  # nothing to do either where no scene asks for it

    def asked(self, config: Config) -> bool:
        """Whether any scene wants what the step makes."""
        scenes = config.scenes.values()
        return (
            self.name == config.vectors.behaviour
            or not self.channel
            or any(
                channel.limit
                for scene in scenes
                for name, channel in scene.recall.channels.items()
                if name == self.channel
            )
        )


def both(*names: str) -> tuple[str, ...]:
    """The paths in both drafts."""
    return tuple(f"{draft}/{name}" for draft in ("past", "draft") for name in names)


def behaviour(name: str, *code: str) -> Step:
    """The step of a channel that is trained on what users wanted."""
    return Step(
        name,
        after=("events",),
        sections=("data", "behaviour"),
        code=("jobs/item_cf.py", "jobs/wants.py", "jobs/products.py", *code),
        makes=both(name),
        needs=f"events, or no scene asks for {name}",
        channel=name,
    )


BEHAVIOUR = ("item_cf", "swing", "graph", "user_cf", "als", "spectral", "live")
STEPS = (
    Step(
        "items",
        tables=("items",),
        sections=("data",),
        code=("funnel/catalogue.py", "funnel/changes.py", "features/tokens.py"),
        makes=(*both("items"), "tables/item_rows"),
    ),
    Step(
        "events",
        after=("items",),
        tables=("events",),
        sections=("data",),
        keeps=("tables/events",),
        needs="events",
    ),
    Step(
        "users",
        after=("events",),
        tables=("users",),
        sections=("data",),
        makes=both("users"),
        needs="users and no events",
    ),
    Step(
        "item_stats",
        after=("events",),
        sections=("data", "features", "popular"),
        code=(
            "features/fold.py",
            "features/windows.py",
            "features/pairs.py",
            "recall/categories.py",
            "jobs/partials.py",
        ),
        makes=both("counters", "popular", "windows", "pairs"),
        keeps=("tables/partials",),
        needs="events",
    ),
    Step(
        "user_stats",
        after=("users", "events"),
        sections=("data", "features"),
        code=("features/fold.py", "jobs/partials.py"),
        needs="events",
    ),
    Step(
        "item_cf",
        after=("events",),
        sections=("data", "behaviour"),
        makes=both("item_cf"),
        needs="events",
    ),
    behaviour("swing"),
    behaviour("graph"),
    behaviour("user_cf"),
    behaviour("als", "recall/als.py"),
    behaviour("spectral"),
    behaviour("live", "recall/live.py"),
    Step(
        "new",
        after=("items", "events"),
        sections=("data", "new"),
        makes=both("new"),
        needs="scene that asks for new",
        channel="new",
    ),
    Step(
        "two_tower",
        after=("items", "events"),
        sections=("data", "behaviour", "two_tower", "vectors", "build"),
        code=(
            *("jobs/towers.py", "jobs/item_cf.py", "jobs/wants.py"),
            *("recall/towers.py", "recall/text.py", "recall/nearest.py", "recall/sizes.py"),
        ),
        makes=both("two_tower"),
        needs="events, or no scene asks for two_tower",
        channel="two_tower",
    ),
    Step(
        "vectors",
        after=("items", "events", "item_cf", "two_tower"),
        sections=("data", "vectors", "build", "behaviour"),
        code=(
            *("jobs/item_cf.py", "jobs/wants.py", "jobs/item2vec.py"),
            *("recall/text.py", "recall/encoder.py"),
        ),
        makes=both("vector"),
    ),
    Step(
        "index_vector",
        after=("vectors",),
        sections=("vectors",),
        code=("recall/nearest.py", "recall/sizes.py", "recall/gpu.py"),
        makes=both("vector/text.faiss", "vector/behaviour.faiss"),
    ),
    Step(
        "index_bm25",
        after=("items",),
        sections=("data", "lexical"),
        code=("recall/bm25.py", "recall/postings.py", "recall/text.py", "recall/simplified.py"),
        makes=both("bm25"),
    ),
    Step(
        "suggest",
        after=("items", "item_stats"),
        sections=("suggest", "data"),
        code=("recall/suggest.py", "recall/text.py"),
        makes=both("suggest"),
    ),
    Step("signatures", after=("items",), sections=("data",), makes=both("dedup")),
    Step(
        "requests",
        after=("events", "users"),
        tables=("queries", "qrels"),
        sections=("data", "features", "scenes", "build"),
        code=("jobs/events.py", "jobs/counters_at.py"),
        makes=("tables/requests",),
        needs="events and no graded queries",
    ),
    Step(
        "fusion",
        after=(
            "requests",
            "item_stats",
            *BEHAVIOUR,
            "new",
            "two_tower",
            "index_vector",
            "index_bm25",
        ),
        sections=("scenes", "build"),
        code=("recall",),
        makes=both("fusion"),
        needs="training requests",
    ),
    Step(
        "samples",
        after=("requests", "fusion"),
        sections=("data", "features", "scenes", "build"),
        code=(
            *("jobs/candidates.py", "jobs/counters_at.py", "jobs/judged.py", "jobs/logged.py"),
            "recall",
        ),
        makes=("samples",),
        needs="training requests",
    ),
    Step(
        "train_prerank",
        after=("samples",),
        sections=("data", "features", "scenes", "build", "prerank"),
        code=("jobs/judged.py", "prerank", "features"),
        makes=both("prerank"),
        needs="training requests",
    ),
    Step(
        "train_rank",
        after=("samples", "train_prerank"),
        sections=("data", "features", "scenes", "build", "rank"),
        code=("jobs/judged.py", "jobs/distilled.py", "prerank", "rank", "features"),
        makes=(*both("rank"), "tables/ordered"),
        needs="training requests",
    ),
    Step(
        "train_cross",
        after=("samples", "train_rank"),
        sections=("data", "scenes", "build"),
        code=("jobs/judged.py", "rank/cross.py", "rank/cross_fit.py"),
        makes=both("cross"),
        needs="scene with rank.cross.model = 'trained', or training requests with a text",
    ),
    Step(
        "golden",
        after=("train_cross", "signatures", "suggest", "user_stats"),
        sections=("scenes",),
        code=("prerank", "rank", "rerank", "features", "funnel/pipeline.py"),
        makes=("golden.json",),
    ),
    Step(
        "publish",
        after=("golden",),
        tables=tuple(TABLES),
        sections=tuple(Config.model_fields),
    ),
)


def key(step: Step, work: Work, done: Mapping[str, str]) -> str:
    """What the step is made from, as one hash; `done` has the keys of the steps before it."""
    config = work.config.model_dump(mode="json")
    config["build"] = {k: v for k, v in config["build"].items() if k not in PLACES}
    parts = [
        [digest(work.data, table) for table in step.tables],
        {name: config[name] for name in step.sections},
        [code_digest(CODE / name) for name in (f"jobs/{step.name}.py", *step.code)],
        [done[name] for name in step.after],
        [work.past, work.until],
        step.asked(work.config),
        end(work.config.log.dir) if step.name == "items" else "",  # what there is to fold
        scored(work.config) if step.name == "samples" else "",
        state(work.config) if step.name == "events" else "",
    ]
    text = json.dumps(parts, sort_keys=True)
    return blake2b(text.encode(), digest_size=12).hexdigest()


def scored(config: Config) -> list[str]:
    """The files of the log that samples are taken from."""
    log = Path(config.build.from_log)
    folders = [log / name for name in ("requests", "events", "forgotten")]
    files = [file for folder in folders for file in sorted(folder.glob("*.parquet"))]
    return [f"{file.name} {file.stat().st_size}" for file in files if config.build.from_log]


def code_digest(path: Path) -> str:
    """The hash of a source file, or of all in a folder."""
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    state = blake2b(digest_size=12)
    for file in files:
        state.update(file.read_bytes() + b"\0")
    return state.hexdigest()


def finished(step: Step, key: str, work: Work) -> bool:
    """Whether the step need not run: it did, out of the same, and what it made is there."""
    known = read_state(work.root).get("steps", {}).get(step.name)
    if not known or known["key"] != key:
        return False
    generation = known["metrics"].get("generation")
    made = [work.root / name for name in known["made"]]
    made += [Path(work.config.build.root) / generation / MANIFEST] if generation else []
    return all(path.exists() for path in made)


def execute(step: Step, work: Work, force: bool = False) -> dict[str, Any]:
    """Runs the step's job and returns its metrics."""
    for name in (*step.makes, *(step.keeps if force else ())):
        removed(work.root / name)
    if not step.asked(work.config):
        return {}
    return dict(importlib.import_module(f"jobs.{step.name}").run(work))


def run(
    work: Work, force: bool = False, tell: Tell | None = None, steps: Sequence[Step] = STEPS
) -> dict[str, Any]:
    """Every step that is not finished, in order; returns what the last one said of itself."""
    tell = tell or (lambda step, metrics, seconds: None)
    with locked(work):
        begin(work)
        done: dict[str, str] = {}
        for step in steps:
            work.progress(step.name)
            done[step.name] = key(step, work, done)
            if not force and finished(step, done[step.name], work):
                tell(step, None, 0.0)
                continue
            _forget(work, step)
            start = time.perf_counter()
            made = execute(step, work, force)
            seconds = time.perf_counter() - start
            _remember(work, step, done[step.name], made, seconds)
            tell(step, made, seconds)
        state = read_state(work.root)["steps"]
    metrics: dict[str, Any] = state[steps[-1].name]["metrics"]
    return metrics


Tell = Callable[[Step, Mapping[str, Any] | None, float], None]


def published(work: Work, steps: Sequence[Step] = STEPS) -> str | None:
    """The generation that a build published out of just what is there now, where it still is."""
    keys: dict[str, str] = {}
    for step in steps:
        keys[step.name] = key(step, work, keys)
    id = read_state(work.root).get("published", {}).get(keys[steps[-1].name])
    return id if id and (Path(work.config.build.root) / id / MANIFEST).exists() else None


def _forget(work: Work, step: Step) -> None:
    state = read_state(work.root)
    if state.get("steps", {}).pop(step.name, None):
        write_state(work.root, state)


def _remember(work: Work, step: Step, key: str, metrics: Mapping[str, Any], seconds: float) -> None:
    state = read_state(work.root)
    made = [name for name in (*step.makes, *step.keeps) if (work.root / name).exists()]
    entry = {"key": key, "made": made, "metrics": metrics, "seconds": round(seconds, 2)}
    state.setdefault("steps", {})[step.name] = entry
    if "generation" in metrics:
        state.setdefault("published", {})[key] = metrics["generation"]
    write_state(work.root, state)


@contextmanager
def locked(work: Work) -> Iterator[None]:
    """Two builds of one data set would write into each other's files."""
    work.root.mkdir(parents=True, exist_ok=True)
    with (work.root / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Occupied(
                f"another process is building {work.data} in {work.root}: wait for it, or end it"
            ) from error
        yield


def build(
    data: str | Path,
    config: Config,
    until: int | None = None,
    force: bool = False,
    quiet: bool = False,
) -> str:
    """Builds and publishes; returns the generation's id. Progress is shown unless `quiet`.

    Raises `BadData` where the data set is not valid, `Occupied` where another build is at it.
    """
    console = Console(stderr=True, highlight=False, quiet=quiet)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting Spark", total=len(STEPS))

        def tell(step: Step, metrics: Mapping[str, Any] | None, seconds: float) -> None:
            bar.advance(task)
            console.print(line(step, metrics, seconds), soft_wrap=True)

        work = Work.open(data, config, until, lambda text: bar.update(task, description=text))
        id = str(run(work, force, tell)["generation"])
    point(Path(config.build.root), id)
    return id


def line(step: Step, metrics: Mapping[str, Any] | None, seconds: float) -> str:
    """What a person reads of a step: its name, its seconds, what came out."""
    head = f"  {step.name:<14}"
    if metrics is None:
        return f"{head}    · unchanged"
    if step.needs and not any(metrics.values()):
        return f"{head} {seconds:5.1f} s  nothing to do: no {step.needs}"
    return f"{head} {seconds:5.1f} s  {said(metrics)}"


def said(metrics: Mapping[str, Any]) -> str:
    """`items 1,000 · home: requests 224, recall@2000 0.79`."""
    parts = []
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            parts.append(f"{name}: {said(value).replace(' · ', ', ')}")
        elif isinstance(value, bool):
            parts.append(f"{name} {'yes' if value else 'no'}")
        elif isinstance(value, int):
            parts.append(f"{name} {value:,}")
        elif isinstance(value, float):
            parts.append(f"{name} {value:.4g}")
        elif value is not None and not isinstance(value, list):
            parts.append(f"{name} {value}")
    return " · ".join(parts)


if __name__ == "__main__":
    command(run, __doc__)
