"""
Whether popular items of a user's categories, and new items, help: `python -m benchmarks.popular
[DIR]`, or a simulated shop of `--size`.

DIR is a data set as `funnel build` reads it. Models know the events before the cut `past`; the
training requests after it are asked, up to 400 a scene. Each channel alone: popular for everybody
(`popular.own` 0) and by categories, new, item_cf and vector; then the fusion as the build fits it
(each half of the requests for the other), of the default channels, and with the change. `--by`
names another column; of `--config` the section `data` is read. Rows of cold items ask only for what
`new` is there for: items that were young or hardly wanted at the cut.

A DIR with sequences.parquet (user, items) and item_attributes.parquet (item, attributes) instead:
popular alone, the attributes for categories, every user's last item but one to be found.
"""

from __future__ import annotations

import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from benchmarks import harness
from benchmarks.behaviour import asked as asked_by
from benchmarks.shop import columns
from funnel.catalogue import id_hash, write_catalogue
from funnel.config import Config, parse
from funnel.generation import Generation, Manifest
from funnel.metrics import ndcg_at_k, recall_at_k
from funnel.types import Array, Candidates
from funnel.world import simulate
from jobs import build
from jobs.fusion import REQUESTS, answers
from jobs.item_stats import write_popular
from jobs.requests import requests
from jobs.spark import session
from jobs.validate import validate
from jobs.work import Work
from recall import Parts
from recall.categories import Categories
from recall.filters import Filters
from recall.fit import Judged, fit
from recall.fusion import configured
from recall.popular import Popular

OWN = (0.5, 1.0)
DEPTH = 500
AT = (20, 100, 500)
DEFAULT = ("item_cf", "vector", "popular")
STEPS = (
    *("items", "events", "users", "item_stats", "item_cf", "new", "two_tower"),
    *("vectors", "index_vector", "requests"),
)


def settings(root: Path, data: Mapping[str, Any], by: str) -> Config:
    limits = {name: {"limit": DEPTH} for name in (*DEFAULT, "new")}
    scenes = {scene: {"recall": {"channels": limits}} for scene in ("home", "similar")}
    place = {"root": str(root), "master": "local[2]"}
    return parse({"data": data, "scenes": scenes, "popular": {"by": by}, "build": place})


@dataclass(frozen=True)
class Scene:
    """The requests of a scene: what each channel found, with variants of popular, and wanted."""

    asked: Sequence[tuple[Mapping[str, Candidates], Mapping[int, float]]]

    def alone(self, name: str) -> dict[str, float]:
        values = []
        for found, wanted in self.asked:
            gains = np.array([wanted.get(int(row), 0.0) for row in found[name].rows])
            ideal = np.array(list(wanted.values()))
            shares = [recall_at_k(gains, ideal, k) for k in AT]
            values.append([*shares, ndcg_at_k(gains, ideal, 10)])
        means = np.mean(values, axis=0).tolist()
        names = [*(f"recall@{k}" for k in AT), "nDCG@10"]
        return {**dict(zip(names, means, strict=True)), "interval": "", "weights": ""}

    def only(self, rows: Array) -> Scene:
        """Where some of these were wanted, and nothing else."""
        known = set(rows.tolist())
        kept = [
            (found, {row: grade for row, grade in wanted.items() if row in known})
            for found, wanted in self.asked
        ]
        return Scene([(found, wanted) for found, wanted in kept if wanted])

    def fused(self, config: Config, scene: str, channels: Mapping[str, str]) -> dict[str, Any]:
        """nDCG@10 of the fusion fitted of these: channel -> the variant that is taken."""
        chosen: list[Judged] = [
            ({name: found[variant] for name, variant in channels.items()}, wanted)
            for found, wanted in self.asked
        ]
        start = configured(config.scene(scene).recall, False)
        made = fit(chosen, list(channels), start, True, True)
        ndcg, low, high = made.metrics["fusion"]
        blank = {f"recall@{k}": "" for k in AT}
        weights = " ".join(f"{weight:.2g}" for weight in made.weights.values())
        return {**blank, "nDCG@10": ndcg, "interval": f"{low:.3g} - {high:.3g}", "weights": weights}


def asked(work: Work) -> dict[str, Scene]:
    generation = Generation.open(work.past_draft, check=False)
    filters = Filters.open(generation, work.config)
    variants = {
        own: work.config.model_copy(
            update={"popular": work.config.popular.model_copy(update={"own": own})}
        )
        for own in (0.0, *OWN)
    }
    parts = {own: Parts.open(generation, config) for own, config in variants.items()}
    made: dict[str, list[tuple[Mapping[str, Candidates], Mapping[int, float]]]] = {}
    for query, became in sorted(requests(work), key=lambda entry: id_hash(entry[0].request_id)):
        wanted = {row: label for row, (label, _) in became.items() if label > 0}
        if query.scene not in ("home", "similar") or not wanted:
            continue
        if len(made.setdefault(query.scene, [])) < REQUESTS:
            found = answers(query, work.config, parts[0.0], filters)
            mask = filters.allowed(query)
            for own in OWN:
                channel = parts[own].channels["popular"]
                found[f"popular {own}"] = channel.find(query, mask, DEPTH)
            made[query.scene].append((found, wanted))
    return {scene: Scene(cases) for scene, cases in made.items()}


def measure(data: Path, root: Path, own: Mapping[str, Any], by: str) -> list[dict[str, Any]]:
    work = Work.open(data, settings(root, own, by))
    build.run(work, steps=[step for step in build.STEPS if step.name in STEPS])
    rows: list[dict[str, Any]] = []
    for name, scene in asked(work).items():
        count = {"requests": len(scene.asked)}
        for channel in scene.asked[0][0]:
            rows.append({"method": f"{name}: {channel}", **scene.alone(channel), **count})
        cold = scene.only(np.load(work.past_draft / "new/rows.npy"))
        for channel in scene.asked[0][0] if cold.asked else ():
            few = {"requests": len(cold.asked)}
            rows.append({"method": f"{name}, cold items: {channel}", **cold.alone(channel), **few})
        plain = {channel: channel for channel in DEFAULT}
        others = {f"popular {share}": plain | {"popular": f"popular {share}"} for share in OWN}
        fusions = {"default": plain, **others, "and new": {**plain, "new": "new"}}
        for label, channels in fusions.items():
            found = scene.fused(work.config, name, channels)
            rows.append({"method": f"{name}: fusion, {label}", **found, **count})
    return rows


def sequences(data: Path, root: Path) -> list[dict[str, Any]]:
    """Of every user the last item but one, by the items before it; the last is a test's."""
    lists = pq.read_table(data / "sequences.parquet").column("items").to_pylist()
    table = pq.read_table(data / "item_attributes.parquet")
    count = max(max(items) for items in lists) + 1
    tags: list[list[str]] = [[] for _ in range(count)]
    for item, values in zip(*(table.column(i).to_pylist() for i in range(2)), strict=True):
        tags[item] = [str(value) for value in values]
    names = [f"{row:09}" for row in range(count)]
    items = pa.table({"item_id": names, "title": names, "tags": pa.array(tags)})
    settings = parse({"data": {"categorical": [], "multi": ["tags"]}, "popular": {"by": "tags"}})
    write_catalogue(root / "items", items, [], ["tags"], [])
    table = settings.model_dump(mode="json")
    Manifest("past", 0, 0, settings.all_actions, table).write(root)
    scores = np.bincount(np.concatenate([one[:-2] for one in lists]), minlength=count)
    write_popular(root, scores.astype(np.float32))
    known = Generation.open(root, check=False)
    made = Categories.of(known.items, "tags", scores.astype(np.float32), settings.popular.each)
    assert made is not None
    made.write(root / "popular/lists")
    rows = []
    for own in (0.0, *OWN):
        with_own = settings.popular.model_copy(update={"own": own})
        channel = Popular.open(known, settings.model_copy(update={"popular": with_own}))
        places = []
        for before, target in ((one[:-2], one[-2]) for one in lists[::4]):
            query = asked_by(np.array(before), np.arange(len(before)), settings)
            mask = np.ones(count, bool)
            mask[before] = False
            at = np.flatnonzero(channel.find(query, mask, 100).rows == target)
            places.append(int(at[0]) if len(at) else 1000)
        place = np.array(places)
        ndcg = np.where(place < 10, 1 / np.log2(place + 2.0), 0).mean()
        hits = {f"HR@{k}": (place < k).mean() for k in (10, 20, 100)}
        row = {"method": f"popular {own}", **hits, "nDCG@10": ndcg, "users": len(places)}
        rows.append(row)
    return rows


def main(
    data: Annotated[Path | None, typer.Argument(help="data set; none: a simulated shop")] = None,
    size: Annotated[str, typer.Option(help="of the simulated shop")] = "small",
    config: Annotated[Path | None, typer.Option(help="TOML file of DIR")] = None,
    by: Annotated[str, typer.Option(help="column of the categories")] = "category",
    json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "generations"
        if data is not None and (data / "sequences.parquet").exists():
            harness.show("popular", str(data), sequences(data, root), json)
            return
        if data is None:
            simulate(Path(place) / "shop", size)
            spark = session("local[2]", scratch=root / "spark")
            validate(spark, Path(place) / "shop")
        found = data or Path(place) / "shop"
        table = columns(found)
        if config is not None:
            table = tomllib.loads(config.read_text())["data"]
        made = measure(found, root, table, by)
    harness.show("popular", str(data or f"simulated shop, {size}"), made, json)


if __name__ == "__main__":
    main.__doc__ = __doc__
    harness.run(main)
