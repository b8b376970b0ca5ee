"""
What diversity costs and gives: `python -m benchmarks.rerank_quality DATA [--config FILE]`.

A generation is built (or that of `--keep` is used) and the requests of `funnel evaluate` go through
recall, prerank and rank once. What rank kept is then reranked by every method at every strength:

    nDCG@10     against what the user did
    distance    mean over pairs of a page's first ten: one less the cosine of their text vectors
    kinds       the same of their categories (or of `--attribute`): one less shared / all of the two
    categories  different ones on a page's first ten
    Gini        of how often items are shown: 0 all alike, 1 one alone

The requests are halved by a hash of their ids: the default was chosen on the first half
(`--half valid`), what is printed is the second (`--half test`).
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.progress import track

from benchmarks import harness
from benchmarks.shop import configured
from funnel.cases import Case, requests
from funnel.catalogue import id_hash
from funnel.config import Config, merged, parse
from funnel.generation import Generation, current
from funnel.metrics import bootstrap_interval, ndcg_at_k
from funnel.pipeline import offline
from funnel.types import Array, Candidates, taken
from jobs.build import build
from rerank import build as rerank_stage

TOP = 10
PLAIN = "by score"
STRENGTHS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
Made = tuple[Case, Candidates]


def ways(attribute: str) -> dict[str, dict[str, Any]]:
    """Settings of rerank, by name."""
    found: dict[str, dict[str, Any]] = {PLAIN: {"diversity": 0.0}, "default": {}}
    for method in ("mmr", "sum", "dpp", "ssd"):
        for strength in STRENGTHS:
            found[f"{method} {strength:g}"] = {"method": method, "diversity": strength}
    if attribute:
        for strength in (0.1, 0.3, 0.5):
            calibrated = {"diversity": 0.0, "calibrated": {attribute: strength}}
            found[f"calibrated {strength:g}"] = calibrated
        for most in (3, 2):
            quota = {"diversity": 0.0, "quotas": {attribute: [most, TOP]}}
            found[f"at most {most} of a kind"] = quota
    return found


def ranked(
    generation: Generation, config: Config, data: Path, scene: str, most: int, half: str
) -> list[Made]:
    """The requests of one half, and what rank kept for them."""
    made: list[Made] = []
    funnel = None
    asked = requests(generation, config, data, scene, most)
    for counters, case in track(asked.cases, scene, asked.most, transient=True):
        if funnel is None:
            funnel = offline(generation, config, counters)[scene]
        if (id_hash(case.query.request_id) % 2 == 0) == (half == "valid"):
            made.append((case, funnel.trail(case.query)["rank"]))
    return made


def kinds(generation: Generation, attribute: str) -> NDArray[np.bool_]:
    """(n, values) whether an item has a value of the attribute; for categories, of their paths."""
    items = generation.items
    values = items.values(attribute)
    parts = [{"/".join(v.split("/")[: d + 1]) for d in range(v.count("/") + 1)} for v in values]
    names = sorted(set().union(*parts))
    place = {name: i for i, name in enumerate(names)}
    table = np.zeros((len(values) + 1, len(names)), bool)
    for code, some in enumerate(parts):
        table[code, [place[name] for name in some]] = True
    if not items.has("offsets", attribute):
        return table[items.codes(attribute)]
    found = np.zeros((len(items), len(names)), bool)
    starts, ends = items.bounds(attribute)
    owners = np.repeat(np.arange(len(items)), ends - starts)
    np.logical_or.at(found, owners, table[items.codes(attribute)])
    return found


def measured(
    generation: Generation,
    config: Config,
    scene: str,
    made: list[Made],
    settings: dict[str, Any],
    of: NDArray[np.bool_],
) -> dict[str, Array]:
    """One value a request, and Gini's one of all."""
    table = merged(config.model_dump(mode="json"), {"scenes": {scene: {"rerank": settings}}})
    stage = rerank_stage(generation, parse(table), scene)
    vectors = generation.array("vector/text")
    found: dict[str, list[float]] = {
        name: [] for name in ("nDCG@10", "distance", "kinds", "categories")
    }
    shown = np.zeros(len(generation.items))
    pairs = np.triu_indices(TOP, 1)
    for case, kept in made:
        rows = stage.run(replace(case.query, limit=TOP), kept).rows
        gains = np.array([dict(zip(case.rows, case.grades, strict=True)).get(r, 0) for r in rows])
        found["nDCG@10"].append(ndcg_at_k(gains, np.asarray(case.grades, float), TOP))
        shown[rows] += 1
        if len(rows) < TOP:
            continue
        own = np.asarray(taken(vectors, rows), float)
        found["distance"].append(float((1 - own @ own.T)[pairs].mean()))
        both = (of[rows][:, None] & of[rows][None]).sum(2)
        any_of = (of[rows][:, None] | of[rows][None]).sum(2)
        alike = np.where(any_of > 0, both / np.maximum(any_of, 1), 0.0)
        found["kinds"].append(float((1 - alike)[pairs].mean()))
        found["categories"].append(float(of[rows].any(0).sum()))
    values: dict[str, Array] = {name: np.array(one) for name, one in found.items()}
    values["Gini"] = np.array([gini(shown[shown > 0])])
    return values


def gini(counts: Array) -> float:
    """Half the mean absolute difference of two counts over their mean."""
    rising = np.sort(counts)
    n = len(rising)
    return float(2 * (np.arange(1, n + 1) * rising).sum() / (n * rising.sum()) - (n + 1) / n)


def row(name: str, values: dict[str, Array], plain: dict[str, Array]) -> dict[str, Any]:
    low, high = bootstrap_interval(values["nDCG@10"] - plain["nDCG@10"])
    base = plain["nDCG@10"].mean()
    return {
        "method": name,
        "nDCG@10": float(values["nDCG@10"].mean()),
        "change %": 100 * float(values["nDCG@10"].mean() / base - 1),
        "from": 100 * low / base,
        "to": 100 * high / base,
        "distance": float(values["distance"].mean()),
        "more %": 100 * float(values["distance"].mean() / plain["distance"].mean() - 1),
        "kinds": float(values["kinds"].mean()),
        "more kinds %": 100 * float(values["kinds"].mean() / plain["kinds"].mean() - 1),
        "categories": float(values["categories"].mean()),
        "Gini": float(values["Gini"][0]),
    }


def plotted(rows: list[dict[str, Any]], title: str, file: Path) -> None:
    """nDCG@10 against distance, a line a method."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    lines: dict[str, list[dict[str, Any]]] = {}
    for one in rows:
        lines.setdefault(one["method"].rsplit(" ", 1)[0], []).append(one)
    for name, points in lines.items():
        style = "o-" if len(points) > 1 else "*"
        axes.plot(
            [one["distance"] for one in points],
            [one["nDCG@10"] for one in points],
            style,
            label=name,
        )
    axes.set(xlabel="intra-list distance of the first ten", ylabel="nDCG@10", title=title)
    axes.legend()
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    plt.close(figure)


def main(
    data: Annotated[Path, typer.Argument(help="A validated data set.")],
    config: Annotated[Path | None, typer.Option(help="Its config; the root is not used.")] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Where its generation is, or is built and kept.")
    ] = None,
    scene: Annotated[str, typer.Option(help="The scene.")] = "home",
    attribute: Annotated[str, typer.Option(help="What kinds are of.")] = "category",
    half: Annotated[str, typer.Option(help="valid or test: which requests.")] = "test",
    most: Annotated[int, typer.Option("--requests", help="Most requests, of both halves.")] = 2000,
    plot: Annotated[Path | None, typer.Option(help="Draws the curves into this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """What diversity costs and gives."""
    with tempfile.TemporaryDirectory() as folder:
        root = keep or Path(folder)
        settings = configured(
            data, config, {"build": {"root": str(root / "generations")}, "log": {"dir": ""}}
        )
        places = Path(settings.build.root)
        id = current(places) if (places / "CURRENT").exists() else build(data, settings)
        generation = Generation.open(places / id)
        made = ranked(generation, settings, data, scene, most, half)
        of = kinds(generation, attribute)
        single = "" if generation.items.has("offsets", attribute) else attribute
        plain = measured(generation, settings, scene, made, {"diversity": 0.0}, of)
        rows = [
            row(
                name,
                measured(generation, settings, scene, made, way, of),
                plain,
            )
            for name, way in ways(single).items()
        ]
    title = f"{data.name}, {scene}, {len(made)} requests ({half})"
    if plot is not None:
        plotted(rows, title, plot)
    harness.show("rerank_quality", title, rows, as_json)


if __name__ == "__main__":
    harness.run(main)
