"""
What vectors find: `python -m benchmarks.vectors [DIR]`, or a simulated shop of `--size`.

DIR is a data set as `funnel build` reads it. Models know the events before the cut `past`; the
training requests after it are asked, up to 400 a scene, each channel alone: BM25 and the text
vectors and the towers for searches and for graded queries, the behaviour vectors of each kind, the
towers and item_cf on the home page and for items that are like one. Figures are means over
requests; `train s` is the step that makes the vectors, in both drafts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import harness
from benchmarks.shop import columns
from funnel.catalogue import id_hash
from funnel.config import Config, parse
from funnel.generation import Generation
from funnel.metrics import ndcg_at_k, recall_at_k
from funnel.types import Candidates, Query
from funnel.world import simulate
from jobs import build
from jobs.fusion import REQUESTS, answers
from jobs.requests import requests
from jobs.spark import session
from jobs.validate import validate
from jobs.work import Work, read_state
from recall import Parts
from recall.filters import Filters

KINDS = ("svd", "item2vec", "two_tower")
SCENES = {
    "search": ("bm25", "vector", "two_tower"),
    "home": ("item_cf", "vector", "two_tower", "popular"),
    "similar": ("item_cf", "vector", "two_tower"),
}
STEPS = (
    *("items", "events", "users", "item_stats", "item_cf", "two_tower", "vectors"),
    *("index_vector", "index_bm25", "requests"),
)
DEPTH = 500
AT = (20, 100, 500)


def settings(kind: str, root: Path, own: Mapping[str, Any]) -> Config:
    scenes = {
        scene: {"recall": {"channels": {name: {"limit": DEPTH} for name in channels}}}
        for scene, channels in SCENES.items()
    }
    place = {"root": str(root), "master": "local[2]"}
    return parse({"data": own, "scenes": scenes, "vectors": {"behaviour": kind}, "build": place})


def told(scene: str, query: Query) -> str:
    """The scene, and whether a judge or a user said what is wanted."""
    return "graded" if scene == "search" and query.request_id.startswith("query-") else scene


def asked(work: Work) -> Iterator[tuple[str, dict[str, Candidates], dict[int, float]]]:
    """Scene, what each channel found, and what was wanted."""
    generation = Generation.open(work.past_draft, check=False)
    parts, filters = Parts.open(generation, work.config), Filters.open(generation, work.config)
    count: dict[str, int] = {}
    for query, became in sorted(requests(work), key=lambda entry: id_hash(entry[0].request_id)):
        wanted = {row: label for row, (label, _) in became.items() if label > 0}
        scene = told(query.scene, query)
        count[scene] = count.get(scene, 0) + 1
        if wanted and count[scene] <= REQUESTS:
            yield scene, answers(query, work.config, parts, filters), wanted


def figures(work: Work, kind: str, seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    """A row a scene and channel, once all are told apart by their kind of vectors."""
    found: dict[tuple[str, str], list[list[float]]] = {}
    for scene, channels, wanted in asked(work):
        ideal = np.array(list(wanted.values()))
        for name, candidates in channels.items():
            gains = np.array([wanted.get(int(row), 0.0) for row in candidates.rows])
            shares = [recall_at_k(gains, ideal, k) for k in AT]
            found.setdefault((scene, name), []).append([*shares, ndcg_at_k(gains, ideal, 10)])
    rows = []
    for (scene, name), values in found.items():
        own = name == "vector" and scene in ("home", "similar")
        if kind != KINDS[0] and not own:
            continue  # as before
        step = {"vector": "vectors", "bm25": "index_bm25", "popular": "item_stats"}.get(name, name)
        means = np.mean(values, axis=0).tolist()
        label = f" ({kind if own else 'text'})" if name == "vector" else ""
        row: dict[str, Any] = {"method": f"{scene}: {name}{label}"}
        row |= {f"recall@{k}": mean for k, mean in zip(AT, means, strict=False)}
        rows.append(row | {"nDCG@10": means[-1], "requests": len(values), "train s": seconds[step]})
    return rows


def measure(data: Path, root: Path, own: Mapping[str, Any]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for kind in KINDS:
        work = Work.open(data, settings(kind, root, own))
        build.run(work, steps=[step for step in build.STEPS if step.name in STEPS])
        state = read_state(work.root)["steps"]
        made += figures(work, kind, {name: state[name]["seconds"] for name in STEPS})
    order = ["search", "graded", "home", "similar"]
    return sorted(made, key=lambda row: order.index(row["method"].split(":")[0]))


def main(
    data: Annotated[Path | None, typer.Argument(help="data set; none: a simulated shop")] = None,
    size: Annotated[str, typer.Option(help="of the simulated shop")] = "small",
    json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "generations"
        if data is None:
            simulate(Path(place) / "shop", size)
            spark = session("local[2]", scratch=root / "spark")
            validate(spark, Path(place) / "shop")
        found = data or Path(place) / "shop"
        made = measure(found, root, columns(found))
    harness.show("vectors", str(data or f"simulated shop, {size}"), made, json)


if __name__ == "__main__":
    main.__doc__ = __doc__
    harness.run(main)
