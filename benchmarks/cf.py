"""
What users want next, by behaviour alone: `python -m benchmarks.cf DIR`.

DIR has train.parquet and test.parquet (user, item), or sequences.parquet: (user, items: a list in
order) or (user, item, pos). Of a sequence the last item is asked for; the models learn from all
but the last two, and the request's history has all but the last. All items are ranked but those of
the history. Recall@20 and NDCG@20 are means over users, HR@10 is how often any wanted item is among
the first ten. `--cut` puts a fifth of the training pairs (or the items before the last) in the
place of the test: where parameters are chosen.

`--mode fast` measures each channel as it is served; `--mode quality` the weighted sum of the three
graph channels, every list as long as `DEEP`, the weights chosen on the cut of Gowalla.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import behaviour, harness
from funnel.config import Config
from funnel.types import Array, Candidates, Query
from jobs import als, graph, item_stats, live, spectral, swing, user_cf, wants
from jobs.wants import Wants
from recall.channel import Channel
from recall.fusion import Fusion
from recall.masks import Mask

CHANNELS = ("popular", "item_cf", "swing", "graph", "user_cf", "als", "spectral", "live")
TOP = 20
DEEP = 1000
QUALITY = {"graph": 0.2, "user_cf": 0.4, "spectral": 0.4}
GAIN = 1 / np.log2(np.arange(2, TOP + 2))
IDEAL = np.concatenate([[0], np.cumsum(GAIN)])
FIGURES = ("Recall@20", "NDCG@20", "HR@10", "NDCG@10")


class Mode(StrEnum):
    fast = "fast"
    quality = "quality"


@dataclass(eq=False)
class Tally:
    """Means over those who ask."""

    sums: Array = field(default_factory=lambda: np.zeros(len(FIGURES)))
    asked: int = 0
    took: float = 0.0  # seconds

    def add(self, rows: Array, goals: Array, took: float) -> None:
        hit = np.isin(rows[:TOP], goals)
        gains = hit * GAIN[: len(hit)]
        self.sums += (
            hit.sum() / len(goals),
            gains.sum() / IDEAL[min(len(goals), TOP)],
            hit[:10].any(),
            gains[:10].sum() / IDEAL[min(len(goals), 10)],
        )
        self.asked += 1
        self.took += took

    def row(self, name: str, fit: float) -> dict[str, Any]:
        means = dict(zip(FIGURES, self.sums / self.asked, strict=True))
        speed = {"fit_s": fit, "ms_request": 1e3 * self.took / self.asked}
        total = {"seconds": fit + self.took, "peak_mb": harness.peak_mb()}
        return {"method": name, **means, **speed, **total}


@dataclass(frozen=True, eq=False)
class Task:
    """What is learned from, who asks, and what they wanted: users lie one after the other."""

    train: Wants
    starts: Array  # (q + 1,) of the histories
    history: Array  # rows, oldest first
    times: Array  # alike where the order is not known
    goal_starts: Array  # (q + 1,)
    goals: Array  # rows

    def __len__(self) -> int:
        return len(self.starts) - 1


def pairs(users: Array, rows: Array, goal_users: Array, goals: Array, items: int) -> Task:
    """Everything at one moment; only users with anything to find ask."""
    train = wants.of(users, rows, np.zeros(len(users), np.int64), items)
    order = np.argsort(goal_users, kind="stable")
    asking, counts = np.unique(goal_users, return_counts=True)
    sizes = np.bincount(train.users, minlength=int(asking.max()) + 1)
    kept = np.isin(train.users, asking)
    starts = np.concatenate([[0], np.cumsum(sizes[asking])])
    goal_starts = np.concatenate([[0], np.cumsum(counts)])
    return Task(train, starts, train.rows[kept], train.times[kept], goal_starts, goals[order])


def last_out(starts: Array, rows: Array, items: int, back: int) -> Task:
    """Sequences of which the item `back` places before the last is asked for (0: the last)."""
    sizes = np.diff(starts) - back
    kept = sizes >= 3
    begin, sizes = starts[:-1][kept], sizes[kept]

    def spans(lengths: Array) -> tuple[Array, Array, Array]:
        shift = np.concatenate([[0], np.cumsum(lengths)])
        owner = np.repeat(np.arange(len(lengths)), lengths)
        place = np.arange(shift[-1]) - shift[owner]
        return shift, owner, place

    _, owner, place = spans(sizes - 2)
    train = wants.of(owner, rows[begin[owner] + place], place, items)
    shift, owner, place = spans(sizes - 1)
    history = rows[begin[owner] + place]
    goals = rows[begin + sizes - 1]
    return Task(train, shift, history, place, np.arange(len(goals) + 1), goals)


def read(data: Path, cut: bool) -> Task:
    if (data / "sequences.parquet").exists():
        starts, rows = behaviour.sequences(data / "sequences.parquet")
        return last_out(starts, rows, int(rows.max()) + 1, int(cut))
    train, test = (
        harness.read(data / f"{name}.parquet", ["user", "item"]) for name in ("train", "test")
    )
    users, rows, goal_users, goals = (
        table.column(name).to_numpy() for table in (train, test) for name in ("user", "item")
    )
    items = int(max(rows.max(), goals.max())) + 1
    if cut:
        held = np.random.default_rng(0).random(len(users)) < 0.2
        goal_users, goals = users[held], rows[held]
        users, rows = users[~held], rows[~held]
        known = np.isin(goal_users, users)
        goal_users, goals = goal_users[known], goals[known]
    return pairs(users, rows, goal_users, goals, items)


def train(name: str, draft: Path, found: Wants, settings: Config) -> None:
    """What the build's step makes of it, written into the draft."""
    if name == "graph":
        graph.neighbours(found).write(draft / name)
    elif name == "swing":
        swing.neighbours(found).write(draft / name)
    elif name == "user_cf":
        user_cf.write(draft / name, found)
    elif name == "als":
        model = als.ALS()
        als.write(draft / name, *als.factors(found, model), model, settings.vectors)
    elif name == "spectral":
        spectral.write(draft / name, spectral.train(found))
    elif name == "live":
        counts = np.bincount(found.users)
        starts = np.concatenate([[0], np.cumsum(counts)])
        live.index(starts, found.rows, found.items).write(draft / name)
    elif name == "popular":
        counts = np.bincount(found.rows, minlength=found.items)
        item_stats.write_popular(draft, counts.astype(np.float32))
    else:
        spark_item_cf(draft, found, settings)


def spark_item_cf(draft: Path, found: Wants, settings: Config) -> None:
    """The job `item_cf` over the pairs as a table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from jobs import item_cf
    from jobs.spark import session

    scratch = draft.parent / "spark"
    scratch.mkdir(exist_ok=True)
    columns = {"user_id": found.users, "row": found.rows, "time": found.times}
    pq.write_table(pa.table(columns), scratch / "wanted.parquet")
    build = settings.build
    spark = session(build.master, build.driver_memory, build.partitions, scratch / "work")
    wanted = spark.read.parquet(str(scratch / "wanted.parquet"))
    lists = item_cf.neighbours(wanted, settings.behaviour)
    item_cf.write(draft / "item_cf", lists, found.items, scratch / "lists")


def requests(task: Task, settings: Config) -> Iterator[tuple[Query, Mask, Array]]:
    """Who asks, all items but those of the history, and what was wanted."""
    allowed = np.ones(task.train.items, bool)
    for n in range(len(task)):
        history = slice(task.starts[n], task.starts[n + 1])
        rows = task.history[history]
        allowed[rows] = False
        goals = task.goals[task.goal_starts[n] : task.goal_starts[n + 1]]
        yield behaviour.asked(rows, task.times[history], settings), allowed, goals
        allowed[rows] = True


def alone(channel: Channel, task: Task, settings: Config) -> Tally:
    tally = Tally()
    for query, allowed, goals in requests(task, settings):
        begin = time.perf_counter()
        found = channel.find(query, allowed, TOP)
        tally.add(found.rows, goals, time.perf_counter() - begin)
    return tally


def together(
    channels: Mapping[str, Channel], fuse: Fusion, task: Task, settings: Config
) -> dict[str, Tally]:
    """Every channel, and under "" all as one by the fusion of the recall stage."""
    tallies = {name: Tally() for name in (*channels, "")}
    for query, allowed, goals in requests(task, settings):
        found: dict[str, Candidates] = {}
        start = time.perf_counter()
        for name, channel in channels.items():
            begin = time.perf_counter()
            found[name] = channel.find(query, allowed, DEEP)
            tallies[name].add(found[name].rows, goals, time.perf_counter() - begin)
        tallies[""].add(fuse(query, found, TOP).rows, goals, time.perf_counter() - start)
    return tallies


def measure(
    task: Task,
    names: Sequence[str],
    tell: Callable[[str], None],
    weights: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Every channel; with `weights` of all of them also their fusion."""
    settings = behaviour.config(names)
    shown = []
    opened: dict[str, Channel] = {}
    fits: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        draft = behaviour.blank(Path(folder) / "draft", task.train.items, settings)
        for name in names:
            tell(name)
            begin = time.perf_counter()
            train(name, draft, task.train, settings)
            fits[name] = time.perf_counter() - begin
            opened[name] = behaviour.opened(draft, name, settings)
            if weights is None:
                shown.append(alone(opened[name], task, settings).row(name, fits[name]))
        if weights is not None:
            tell("requests")
            tallies = together(opened, Fusion(weights), task, settings)
            fused = " + ".join(f"{weight:g} {part}" for part, weight in weights.items())
            shown = [tallies[name].row(name, fits[name]) for name in names]
            shown.append(tallies[""].row(fused, sum(fits.values())))
    return shown


def main(
    data: Annotated[Path, typer.Argument(help="Directory with the tables.")],
    only: Annotated[str, typer.Option(help="Channels, with commas; empty: all.")] = "",
    cut: Annotated[bool, typer.Option(help="A cut of the training data in place of test.")] = False,
    mode: Annotated[Mode, typer.Option(help="What is served, or the best there is.")] = Mode.fast,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """What users want next, every channel of behaviour."""
    task = read(data, cut)
    best = mode is Mode.quality
    wanted = only.split(",") if only else list(QUALITY if best else CHANNELS)
    if best and set(wanted) != set(QUALITY):
        raise typer.BadParameter(f"--mode quality is {', '.join(QUALITY)}: leave --only out")
    channels = [name for name in CHANNELS if name in wanted]

    def tell(text: str) -> None:
        typer.echo(f"  {text}", err=True)

    rows = measure(task, channels, tell, QUALITY if best else None)
    harness.show("cf", data.name + (" (cut of train)" if cut else ""), rows, as_json)


if __name__ == "__main__":
    harness.run(main)
