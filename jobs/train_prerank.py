"""
Trains prerank: LightGBM over the assembled features of the samples, one model a scene.

The evidence in the samples comes from the generation as of `past`, and so do the vectors and
attributes that the features look up. The latest requests validate; a model that does not beat
recall's order there is published switched off. Writes prerank/<scene>/{model.txt,meta.json}.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from features.assemble import Assembler
from funnel.generation import Generation, write_text
from jobs.command import command
from jobs.fresh import fresh, removed
from jobs.judged import Judged, compared, lacking, scenes, split
from jobs.work import Work
from prerank.gbdt import Table, contributions, fit, importance, predict
from prerank.position import boosts, examination

TEACHER = "teacher.txt"  # of a prerank that rank will teach: jobs/distilled.py


def table(judged: Judged, assembler: Assembler) -> Table:
    """The features of every candidate, request by request."""
    parts = [assembler.matrix(one.query, one.candidates) for one in judged.requests]
    return Table(np.concatenate(parts), judged.labels, judged.sizes, judged.weights)


def train(work: Work, generation: Generation, scene: str) -> dict[str, Any]:
    """Trains and writes one scene's model; its metrics, or under `why` why there is none."""
    config, target = work.config, work.draft / "prerank" / scene
    removed(target)
    requests = split(work, scene)
    if why := lacking(*requests):
        return {"on": False, "why": why}
    early, late = (Judged.of(part) for part in requests)
    assembler = Assembler(generation, config, scene)
    work.progress(f"train_prerank: features of {len(early.sizes) + len(late.sizes)} requests")
    valid = table(late, assembler)
    learned, tell = table(early, assembler), told(work, f"train_prerank: {scene}")
    booster = fit(learned, valid, config.prerank, config.build.seed, tell)
    looked: list[float] = []
    if config.prerank.unbiased and (early.positions > 0).any():
        # What was shown further up was looked at more: again, with clicks weighed for that.
        chance = examination(predict(booster, learned.matrix), early.labels > 0, early.positions)
        looked = [round(float(share), 3) for share in chance[1:]]
        weighed = replace(learned, boosts=boosts(early.labels, early.positions, chance))
        booster = fit(weighed, valid, config.prerank, config.build.seed, tell)
    scores = predict(booster, valid.matrix)
    metrics = {
        "requests": {"train": len(early.sizes), "valid": len(late.sizes)},
        "trees": booster.num_trees(),
        **({"looked at": looked} if looked else {}),
        **compared(
            late, {"recall": late.ndcg(late.column("recall")), "prerank": late.ndcg(scores)}
        ),
        **late.order(scores),
    }
    on = metrics["gain"]["mean"] > 0
    meta = {
        "on": on,
        "features": list(assembler.names),
        "spec": assembler.spec.hash,
        "metrics": metrics,
        "importance": importance(booster, assembler.names),
        "shap": contributions(booster, valid.matrix, assembler.names, seed=config.build.seed),
    }
    write_text(fresh(target) / "model.txt", booster.model_to_string())
    if config.prerank.objective == "distilled":
        write_text(target / TEACHER, booster.model_to_string())
    write_text(target / "meta.json", json.dumps(meta, indent=1))
    return {"on": on, **metrics}


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
