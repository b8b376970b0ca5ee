"""
Every ranker in the whole funnel: `python -m benchmarks.rankers DATA [--config FILE]`.

DATA is a validated data set. For each network a generation is built (what does not depend on the
network once) and measured as `funnel evaluate` does: graded queries, or events after the cut, which
neither training nor the decision whether a model is used has seen. `rank` is used whatever
validation said, so that every network is seen at work; `on` says what validation said. `above` is
the mean difference of nDCG@10 to prerank's order, with its 95 % bootstrap interval. AUC, GAUC and
ECE are those of the validation split; ECE that of the head it names.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import harness
from funnel.config import Config, load, merged, parse
from funnel.evaluate import Report, evaluate
from funnel.generation import Generation
from funnel.metrics import bootstrap_interval
from funnel.pipeline import offline, ranked
from jobs.build import build
from rank.models import MODELS

AT = "nDCG@10"


def measured(data: Path, config: Config, scenes: list[str], most: int) -> list[dict[str, Any]]:
    rows = []
    for name in MODELS:
        table = merged(config.model_dump(mode="json"), {"rank": {"network": name}})
        for scene in table["scenes"].values():
            scene["rank"]["model"] = "auto"
        built = parse(table)
        begin = time.perf_counter()
        generation = Generation.open(Path(built.build.root) / build(data, built))
        took = time.perf_counter() - begin
        for scene, own in table["scenes"].items():
            if generation.has(f"rank/{scene}/model.safetensors"):
                own["rank"]["model"] = "on"
        settings = parse(table)
        reports = evaluate(
            generation,
            settings,
            data,
            partial(offline, generation, settings),
            scenes or list(settings.scenes),
            most,
            ranked=partial(ranked, generation, settings),
        )
        rows += [row(report, name, generation, took) for report in reports]
    return sorted(rows, key=lambda one: one["method"].split(",")[0])


def row(report: Report, name: str, generation: Generation, took: float) -> dict[str, Any]:
    values, path = report.values, f"rank/{report.scene}/meta.json"
    meta: dict[str, Any] = generation.json(path) if generation.has(path) else {"on": False}
    metrics: dict[str, Any] = meta.get("metrics", {})
    above = values["rank"][AT] - values["prerank"][AT]
    low, high = bootstrap_interval(above)
    heads = metrics.get("heads", {})
    return {
        "method": f"{report.scene}, {name}",
        "on": str(meta["on"]),
        "requests": report.requests,
        **{f"{stage} {AT}": float(values[stage][AT].mean()) for stage in ("recall", "prerank")},
        f"rank {AT}": float(values["rank"][AT].mean()),
        "above": float(above.mean()),
        "from": low,
        "to": high,
        "AUC": metrics.get("AUC", float("nan")),
        "GAUC": metrics.get("GAUC", float("nan")),
        "ECE": " ".join(f"{head} {one['ECE']:.4f}" for head, one in heads.items()),
        "prerank keeps": report.fidelity if report.fidelity is not None else float("nan"),
        "build s": took,
    }


def main(
    data: Annotated[Path, typer.Argument(help="A validated data set.")],
    config: Annotated[Path | None, typer.Option(help="Its config; the root is not used.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Where generations are kept.")] = None,
    scene: Annotated[list[str] | None, typer.Option(help="Only this scene (repeat).")] = None,
    most: Annotated[int, typer.Option("--requests", help="Most requests a scene.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """DeepFM, DIN and the transformer over prerank over recall."""
    with tempfile.TemporaryDirectory() as folder:
        root = keep or Path(folder)
        settings = load(config, {"build": {"root": str(root / "generations")}, "log": {"dir": ""}})
        rows = measured(data, settings, scene or [], most)
    harness.show("rankers", data.name, rows, as_json)


if __name__ == "__main__":
    typer.run(main)
