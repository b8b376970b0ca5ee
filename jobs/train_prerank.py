"""
Trains prerank: LightGBM over the assembled features of the samples, one model a scene.

The trees learn twice, from recall's order on and from nothing; the first are taken unless the
others are better on validation by more than chance.

The evidence in the samples comes from the generation as of `past`, and so do the vectors and
attributes that the features look up. The samples are read in parts and their features go into
files, of which LightGBM keeps a byte a number. The latest requests validate; a model that does not
beat recall's order there is published switched off. Writes prerank/<scene>/{model.txt,meta.json}.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from features.assemble import Assembler
from funnel.generation import Generation, write_text
from funnel.log import Logged
from funnel.metrics import bootstrap_interval
from funnel.ondisk import Growing, grown
from funnel.types import Array, Floats
from jobs.command import command
from jobs.fresh import fresh, removed
from jobs.judged import Judged, Parted, compared, lacking, scenes, streamed, weighed
from jobs.work import Work
from prerank.gbdt import Model, Table, begun, contributions, fit, importance, start_of
from prerank.position import boosts, examination

TEACHER = "teacher.txt"  # of a prerank that rank will teach: jobs/distilled.py


def matrix(judged: Judged, assembler: Assembler) -> Floats:
    """(N, F) the features of every candidate, request by request."""
    return np.concatenate([assembler.matrix(one.query, one.candidates) for one in judged.requests])


def stored(
    work: Work, scene: str, parted: Parted, assembler: Assembler, path: Path
) -> tuple[Table, Array, Judged]:
    """What there is to learn from, in files under `path`, with the position of every candidate; and
    what validates."""
    growing, late = Growing(fresh(path)), list[Logged]()
    for early, held in streamed(work, scene, parted):
        late += held
        if early:
            judged = Judged.of(early)
            growing.add(
                matrix=matrix(judged, assembler),
                labels=judged.labels,
                sizes=judged.sizes,
                graded=judged.graded,
                positions=judged.positions,
                stands_for=judged.stands_for,
            )
    growing.close()
    arrays = grown(path)
    weights = weighed(arrays["graded"], parted.graded)
    table = Table(
        arrays["matrix"],
        arrays["labels"],
        arrays["sizes"],
        weights,
        stands_for=arrays["stands_for"],
    )
    return table, arrays["positions"], Judged.of(late)


def train(work: Work, generation: Generation, scene: str) -> dict[str, Any]:
    """Trains and writes one scene's model; its metrics, or under `why` why there is none."""
    config, target = work.config, work.draft / "prerank" / scene
    removed(target)
    parted = Parted.of(work, scene)
    if why := lacking(parted.train, parted.valid):
        return {"on": False, "why": why}
    assembler = Assembler(generation, config, scene)
    count = len(parted.train) + len(parted.valid)
    work.progress(f"train_prerank: features of {count} requests")
    place = work.root / "tables" / f"prerank-{scene}"
    learned, positions, late = stored(work, scene, parted, assembler, place)
    valid = Table(matrix(late, assembler), late.labels, late.sizes, late.weights)
    names = assembler.names
    model = chosen(learned, valid, late, names, work, scene)
    looked: list[float] = []
    if config.prerank.unbiased and (positions > 0).any():
        # What was shown further up was looked at more: again, with clicks weighed for that.
        chance = examination(model.predict(learned.matrix), learned.labels > 0, positions)
        looked = [round(float(share), 3) for share in chance[1:]]
        weighed = replace(learned, boosts=boosts(learned.labels, positions, chance))
        model = chosen(weighed, valid, late, names, work, f"{scene}, clicks weighed by place")
    removed(place)
    booster, scores = model.booster, model.predict(valid.matrix)
    metrics = {
        "requests": {"train": len(learned.sizes), "valid": len(late.sizes)},
        "trees": booster.num_trees(),
        "from recall on": model.start > 0,
        **({"looked at": looked} if looked else {}),
        **compared(
            late, {"recall": late.ndcg(late.column("recall")), "prerank": late.ndcg(scores)}
        ),
        **late.order(scores),
    }
    on = metrics["gain"]["mean"] > 0
    meta = {
        "on": on,
        "start": model.start,
        "features": list(names),
        "spec": assembler.spec.hash,
        "metrics": metrics,
        "importance": importance(booster, names),
        "shap": contributions(booster, valid.matrix, names, seed=config.build.seed),
    }
    write_text(fresh(target) / "model.txt", booster.model_to_string())
    if config.prerank.objective == "distilled":
        write_text(target / TEACHER, booster.model_to_string())
    write_text(target / "meta.json", json.dumps(meta, indent=1))
    return {"on": on, **metrics}


def chosen(
    learned: Table,
    valid: Table,
    late: Judged,
    names: Sequence[str],
    work: Work,
    what: str,
) -> Model:
    """Trees that correct recall's order, or trees that start from nothing where these are better on
    `valid`, the features of `late`, beyond a 95 % interval."""
    models = []
    for start in dict.fromkeys((start_of(learned, names), 0.0)):
        begin, watched = (
            replace(table, begins=begun(table.matrix, names, start)) for table in (learned, valid)
        )
        tell = told(work, f"train_prerank: {what}, from {'recall on' if start else 'nothing'}")
        booster = fit(begin, watched, work.config.prerank, work.config.build.seed, tell)
        models.append(Model(booster, names, start))
    values = [late.ndcg(model.predict(valid.matrix)) * late.weights for model in models]
    low, _ = bootstrap_interval(values[-1] - values[0])
    return models[-1] if low > 0 else models[0]


def told(work: Work, what: str) -> Callable[[int, int], None]:
    """Progress in tenths: a line a step would be noise."""
    last = -1

    def tell(done: int, of: int) -> None:
        nonlocal last
        if (tenth := 10 * done // of) > last:
            last = tenth
            work.progress(f"{what} {10 * tenth} %")

    return tell


def run(work: Work) -> dict[str, Any]:
    generation, names = Generation.open(work.past_draft, check=False), scenes(work)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # a scene a core: LightGBM leaves the GIL
        trained = pool.map(lambda scene: train(work, generation, scene), names)
        return dict(zip(names, trained, strict=True))


if __name__ == "__main__":
    command(run, __doc__)
