"""
Every ranker in the whole funnel: `python -m benchmarks.rankers DATA [--config FILE]`.

DATA is a validated data set. For each network a generation is built (what does not depend on the
network once) and measured as `funnel evaluate` does: graded queries, or events after the cut, which
neither training nor the decision whether a model is used has seen. `rank` is used whatever
validation said, so that every network is seen at work; `on` says what validation said. Beside the
orders of recall, prerank and rank stands the network's own, `network`, which the order of rank adds
to prerank's. Every order has nDCG@10, AUC and GAUC, with what it is above the one before it and by
how much a network is above DeepFM, as 95 % bootstrap intervals of the requests' differences; of a
simulated world also what its truth says (benchmarks/truth.py). `valid AUC` is the network's own on
the validation split, ECE there that of the head it names.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import harness
from benchmarks.shop import configured
from benchmarks.truth import TRUE, Watched
from funnel.config import Config, merged, parse
from funnel.evaluate import Report, evaluate
from funnel.generation import Generation
from funnel.metrics import bootstrap_interval
from funnel.pipeline import Pipeline, offline, ranked
from funnel.stage import Hydrator
from funnel.types import Array
from funnel.world import load as load_world
from jobs.build import build, published
from jobs.work import Work
from rank.models import MODELS
from rank.value import LOGIT

METRICS = "nDCG@10", "AUC", "GAUC"
FIRST = next(iter(MODELS))  # what the other networks are compared with
Values = Mapping[str, Array]  # metric -> one value a request


def measured(data: Path, config: Config, scenes: list[str], most: int) -> list[dict[str, Any]]:
    rows: dict[str, list[dict[str, Any]]] = {}
    orders: dict[tuple[str, str], Values] = {}  # of each scene, by name
    for name in MODELS:
        table = merged(config.model_dump(mode="json"), {"rank": {"network": name}})
        for scene in table["scenes"].values():
            scene["rank"]["model"] = "auto"
        built = only(scenes, table)
        begin = time.perf_counter()
        kept = published(Work.open(data, built))
        generation = Generation.open(Path(built.build.root) / (kept or build(data, built)))
        took = None if kept else time.perf_counter() - begin
        for scene, own in table["scenes"].items():
            if generation.has(f"rank/{scene}/model.safetensors"):
                own["rank"]["model"] = "on"
        reports = asked(generation, only(scenes, table), data, most)
        for own in table["scenes"].values():
            own["rank"]["value"] = LOGIT
        alone = asked(generation, only(scenes, table), data, most)
        for scene, (report, values) in reports.items():
            if scene not in rows:
                for stage in ("recall", "prerank"):
                    orders[scene, stage] = values[stage]
                rows[scene] = [
                    row(orders, scene, "recall", ""),
                    row(orders, scene, "prerank", "recall"),
                ]
            orders[scene, name] = alone[scene][1]["rank"]
            orders[scene, f"rank by {name}"] = values["rank"]
            for order in (name, f"rank by {name}"):
                first = order.replace(name, FIRST) if name != FIRST else ""
                rows[scene].append(row(orders, scene, order, "prerank", first))
            rows[scene][-1] |= about(report, generation, took)
    return [one for of_scene in rows.values() for one in of_scene]


def only(scenes: list[str], table: Mapping[str, Any]) -> Config:
    """The config with no other scenes."""
    config = parse(table)
    return config.model_copy(update={"scenes": {name: config.scenes[name] for name in scenes}})


def asked(
    generation: Generation, settings: Config, data: Path, most: int
) -> dict[str, tuple[Report, dict[str, Values]]]:
    """Scene by scene what `funnel evaluate` says, and the values of every order with those that
    only a simulated world knows."""
    world = load_world(data) if (data / "world.json").exists() else None
    true: dict[str, dict[str, dict[str, list[float]]]] = {name: {} for name in settings.scenes}

    def pipelines(counters: Hydrator | None) -> dict[str, Pipeline]:
        made = offline(generation, settings, counters)
        if world is None:
            return made
        return {
            name: Watched(one.stages, one.order, world, true[name]) for name, one in made.items()
        }

    reports = evaluate(
        generation,
        settings,
        data,
        pipelines,
        partial(ranked, generation, settings),
        list(settings.scenes),
        most,
    )
    found: dict[str, tuple[Report, dict[str, Values]]] = {}
    for report in reports:
        values = {name: dict(of) for name, of in report.values.items()}
        for name, known in true[report.scene].items():
            values[name] |= {metric: np.array(one) for metric, one in known.items()}
        found[report.scene] = report, dict[str, Values](values)
    return found


def row(
    orders: Mapping[tuple[str, str], Values], scene: str, name: str, before: str, first: str = ""
) -> dict[str, Any]:
    """One order, and by how much it is above the one `before` and the one named `first`."""
    own = orders[scene, name]
    found: dict[str, Any] = {"method": f"{scene}, {name}", "requests": len(own[METRICS[0]])}
    for metric in (*METRICS, *(name for name in TRUE if np.isfinite(own.get(name, np.nan)).any())):
        found[metric] = float(np.nanmean(own[metric]))
        for title, other in (("over the stage before", before), (f"over {FIRST}", first)):
            text = difference(own[metric], orders[scene, other][metric]) if other else ""
            found[f"{metric} {title}"] = text
    return found | dict.fromkeys(("on", "valid AUC", "ECE", "prerank keeps", "build s"), "")


def difference(values: Array, others: Array) -> str:
    more = (values - others)[~np.isnan(values)]
    low, high = bootstrap_interval(more)
    return f"{more.mean():+.4f} [{low:+.4f}, {high:+.4f}]"


def about(report: Report, generation: Generation, took: float | None) -> dict[str, Any]:
    """What the generation says of the scene's ranker."""
    path = f"rank/{report.scene}/meta.json"
    meta: dict[str, Any] = generation.json(path) if generation.has(path) else {"on": False}
    metrics: dict[str, Any] = meta.get("metrics", {})
    heads = metrics.get("heads", {})
    return {
        "on": str(meta["on"]),
        "valid AUC": metrics.get("AUC", ""),
        "ECE": " ".join(f"{head} {one['ECE']:.4f}" for head, one in heads.items()),
        "prerank keeps": "" if report.fidelity is None else report.fidelity,
        "build s": "" if took is None else took,
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
        rows = measured(data, settings, scene or list(settings.scenes), most)
    harness.show("rankers", data.name, rows, as_json)


if __name__ == "__main__":
    harness.run(main)
