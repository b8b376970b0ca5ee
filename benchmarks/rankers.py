"""
Every ranker in the whole funnel: `python -m benchmarks.rankers DATA [--config FILE]`.

DATA is a validated data set. For each network a generation is built (what does not depend on the
network once) and measured as `funnel evaluate` does: graded queries, or events after the cut, which
neither training nor the decision whether a model is used has seen. `rank` is used whatever
validation said, so that every network is seen at work; `on` says what validation said. Beside the
orders of recall, prerank and rank stands the network's own, `network`, which the order of rank adds
to prerank's. Every order has nDCG@10, AUC and GAUC, with what it is above the one before it and by
how much a network is above DeepFM, as 95 % bootstrap intervals of the users' differences; of a
simulated world also what its truth says (benchmarks/truth.py). `valid AUC` is the network's own on
the validation split, ECE there that of the head it names. Two seeds of one network may be as far
apart as two networks: with `--seeds N` every network is trained N times on the same samples, and
its figures are means over these, user by user. With `--per-user N` a user is asked at up to N
moments, which are one measurement, their mean: where users are few, one moment of each says little.
`users` counts them, or the graded queries.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import harness
from benchmarks.shop import configured
from benchmarks.truth import TRUE, truly
from features.counts import Counts
from funnel.cases import Case, askers, requests
from funnel.config import Config, merged, parse
from funnel.evaluate import Report, let_through, of_users, report
from funnel.generation import Generation
from funnel.metrics import bootstrap_interval
from funnel.pipeline import local, ranked
from funnel.stage import Hydrator, Stage
from funnel.types import Array, Candidates
from funnel.world import load as load_world
from jobs.build import build, published
from jobs.work import Work
from rank.models import MODELS
from rank.value import LOGIT

METRICS = "nDCG@10", "AUC", "GAUC"
FIRST = next(iter(MODELS))  # what the other networks are compared with
SEED = ", seed "
Values = Mapping[str, Array]  # metric -> one value a user, or a graded query


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """A network's generation, and the config that builds it."""

    name: str
    generation: Generation
    table: Mapping[str, Any]
    took: float | None  # seconds; None where it was kept
    seed: int = 0

    @property
    def order(self) -> str:
        return f"{self.name}{SEED}{self.seed}"

    def settings(self, scene: str, value: str = "") -> Config:
        """The config of one scene, with its model on; `value` is what rank orders by."""
        path, own = f"rank/{scene}/model.safetensors", {"value": value}
        there = {"model": "on"} if self.generation.has(path) else {}
        return only([scene], merged(self.table, {"scenes": {scene: {"rank": own | there}}}))


def measured(
    data: Path, config: Config, scenes: list[str], most: int, seeds: int, per_user: int
) -> list[dict[str, Any]]:
    built = [one_built(data, config, scenes, name, n) for name in MODELS for n in range(seeds)]
    rows: list[dict[str, Any]] = []
    for scene in scenes:
        reports = judged(built, data, scene, most, per_user)
        if not reports:
            continue
        orders = meant({name: values for name, (_, values) in reports.items()})
        rows += [
            row(orders, scene, "recall", ""),
            row(orders, scene, "prerank", "recall"),
        ]
        for name in MODELS:
            for order in (name, f"rank by {name}"):
                first = order.replace(name, FIRST) if name != FIRST else ""
                rows.append(row(orders, scene, order, "prerank", first))
            own = [one for one in built if one.name == name]
            rows[-1] |= about([(reports[f"rank by {one.order}"][0], one) for one in own])
    return rows


def meant(orders: Mapping[str, Values]) -> dict[str, Values]:
    """The means of each order's values over its seeds, user by user."""
    same: dict[str, list[Values]] = {}
    for name, values in orders.items():
        same.setdefault(name.split(SEED)[0], []).append(values)
    return {
        name: {metric: np.mean([one[metric] for one in of], axis=0) for metric in of[0]}
        for name, of in same.items()
    }


def one_built(data: Path, config: Config, scenes: list[str], name: str, seed: int) -> Built:
    table = merged(config.model_dump(mode="json"), {"rank": {"network": name, "seed": seed}})
    for scene in table["scenes"].values():
        scene["rank"]["model"] = "auto"
    settings = only(scenes, table)
    begin = time.perf_counter()
    kept = published(Work.open(data, settings))
    generation = Generation.open(Path(settings.build.root) / (kept or build(data, settings)))
    return Built(name, generation, table, None if kept else time.perf_counter() - begin, seed)


def only(scenes: list[str], table: Mapping[str, Any]) -> Config:
    """The config with no other scenes."""
    config = parse(table)
    return config.model_copy(update={"scenes": {name: config.scenes[name] for name in scenes}})


@dataclass(frozen=True, slots=True, eq=False)
class Stages:
    """What a network makes of recall's candidates: prerank, then rank with it and without it."""

    prerank: Stage
    ranks: Mapping[str, Stage]  # order -> rank
    whole: Stage | None  # prerank and rank, cutting nothing between

    @staticmethod
    def of(built: Built, scene: str, counters: Hydrator) -> Stages:
        both, alone = built.settings(scene), built.settings(scene, LOGIT)
        stages = local(built.generation, both, counters, ("prerank", "rank"))[scene]
        other = local(built.generation, alone, counters, ("rank",))[scene]
        ranks = {f"rank by {built.order}": stages["rank"], built.order: other["rank"]}
        whole = ranked(built.generation, both, counters).get(scene)
        return Stages(stages["prerank"], ranks, whole)


def judged(
    built: Sequence[Built], data: Path, scene: str, most: int, per_user: int = 1
) -> dict[str, tuple[Report, Values]]:
    """Every order's report, and its values user by user with those that only a simulated world
    knows. All networks are asked for the same requests, each once; nothing where the data set
    has none."""
    world = load_world(data) if (data / "world.json").exists() else None
    settings, first = built[0].settings(scene), built[0].generation
    asked = requests(first, settings, data, scene, most, per_user)
    seen: dict[str, list[tuple[Case, Mapping[str, Candidates]]]] = {}
    true: dict[str, list[Mapping[str, float]]] = {}
    kept: dict[str, list[float]] = {}
    recall: Stage | None = None
    networks: list[Stages] = []
    for counters, case in asked.cases:
        if recall is None:
            counters = counters or Counts.open(first)
            recall = local(first, settings, counters, ("recall",))[scene]["recall"]
            networks = [Stages.of(one, scene, counters) for one in built]
        found = recall.run(case.query, Candidates.empty())
        rows = replace(found, columns={})  # all that a report asks of recall
        lists = {"recall": found.rows}
        for stages in networks:
            near = stages.prerank.run(case.query, found)
            lists.setdefault("prerank", near.rows)
            for name, rank in stages.ranks.items():
                last = rank.run(case.query, near)
                left = {"recall": rows, "prerank": near, "rank": last, "rerank": last}
                seen.setdefault(name, []).append((case, left))
                lists[name] = last.rows
                if name.startswith("rank") and stages.whole is not None:
                    let_through(kept.setdefault(name, []), stages.whole, case.query, found, near)
        if world is not None:
            for name, value in truly(world, case.query, found.rows, lists).items():
                true.setdefault(name, []).append(value)
    owners = askers([case for case, _ in next(iter(seen.values()), ())])
    reports: dict[str, tuple[Report, Values]] = {}
    for name, of in seen.items():
        own = report(first, scene, asked.kind, of)
        own = replace(own, fidelity=float(np.mean(kept[name])) if kept.get(name) else None)
        for order, values in {"recall": "recall", "prerank": "prerank", name: "rank"}.items():
            known = true.get(order, ())
            each = {metric: np.array([one[metric] for one in known]) for metric in TRUE if known}
            more = {metric: of_users(values, owners) for metric, values in each.items()}
            reports.setdefault(order, (own, {**own.values[values], **more}))
    return reports


def row(
    orders: Mapping[str, Values], scene: str, name: str, before: str, first: str = ""
) -> dict[str, Any]:
    """One order, and by how much it is above the one `before` and the one named `first`."""
    own = orders[name]
    found: dict[str, Any] = {"method": f"{scene}, {name}", "users": len(own[METRICS[0]])}
    for metric in (*METRICS, *(name for name in TRUE if np.isfinite(own.get(name, np.nan)).any())):
        found[metric] = float(np.nanmean(own[metric]))
        for title, other in (("over the stage before", before), (f"over {FIRST}", first)):
            text = difference(own[metric], orders[other][metric]) if other else ""
            found[f"{metric} {title}"] = text
    return found | dict.fromkeys(("on", "valid AUC", "ECE", "prerank keeps", "build s"), "")


def difference(values: Array, others: Array) -> str:
    more = (values - others)[~np.isnan(values)]
    low, high = bootstrap_interval(more)
    return f"{more.mean():+.4f} [{low:+.4f}, {high:+.4f}]"


def about(measured: Sequence[tuple[Report, Built]]) -> dict[str, Any]:
    """What the generations of a network's seeds say of the scene's ranker: means, of ECE the
    worst."""
    metas: list[Mapping[str, Any]] = []
    for said, built in measured:
        path = f"rank/{said.scene}/meta.json"
        metas.append(built.generation.json(path) if built.generation.has(path) else {"on": False})
    known = [meta["metrics"] for meta in metas if "AUC" in meta.get("metrics", {})]
    errors: dict[str, float] = {}
    for metrics in known:
        for head, one in metrics["heads"].items():
            errors[head] = max(errors.get(head, 0.0), one["ECE"])
    kept = [said.fidelity for said, _ in measured if said.fidelity is not None]
    took = [built.took for _, built in measured if built.took is not None]
    on = sorted({str(meta["on"]) for meta in metas})
    return {
        "on": " and ".join(on),
        "valid AUC": float(np.mean([metrics["AUC"] for metrics in known])) if known else "",
        "ECE": " ".join(f"{head} {error:.4f}" for head, error in errors.items()),
        "prerank keeps": float(np.mean(kept)) if kept else "",
        "build s": sum(took) if took else "",
    }


def main(
    data: Annotated[Path, typer.Argument(help="A validated data set.")],
    config: Annotated[
        Path | None,
        typer.Option(
            help="Its config; the root is not used. A simulated shop's columns need none."
        ),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(help="Where generations are kept; what is there is not built again."),
    ] = None,
    scene: Annotated[list[str] | None, typer.Option(help="Only this scene (repeat).")] = None,
    train: Annotated[
        int, typer.Option(help="Requests of a scene to train on; 0: build.requests.")
    ] = 0,
    most: Annotated[int, typer.Option("--requests", help="Most requests a scene.")] = 1000,
    per_user: Annotated[
        int, typer.Option(min=1, help="Most requests of a user; figures are over users.")
    ] = 1,
    seeds: Annotated[
        int, typer.Option(min=1, help="Networks of a kind; figures are their means.")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """DeepFM, DIN and the transformer over prerank over recall."""
    with tempfile.TemporaryDirectory() as folder:
        root = keep or Path(folder)
        made = {"root": str(root / "generations"), **({"requests": train} if train else {})}
        settings = configured(data, config, {"build": made, "log": {"dir": ""}})
        for name in scene or ():
            if name not in settings.scenes:
                known = ", ".join(settings.scenes)
                raise typer.BadParameter(f"no scene '{name}'; known: {known}", param_hint="--scene")
        rows = measured(data, settings, scene or list(settings.scenes), most, seeds, per_user)
    harness.show("rankers", data.name, rows, as_json)


if __name__ == "__main__":
    harness.run(main)
