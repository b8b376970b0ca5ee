"""
Trains a cross-encoder for the searches of the scenes whose `rank.cross.model` is `trained`.

It learns from what stood high by prerank and from all that was wanted, and validates on the
requests that rank validated on: the best `top` of rank's order change places by both scores, with
the weight that is best there. One that does not beat rank's order is published switched off.
Writes cross/<scene>/, a sentence-transformers cross-encoder, and meta.json beside it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.assemble import Assembler
from funnel.catalogue import id_hash
from funnel.errors import BadData
from funnel.generation import Generation, write_text
from funnel.log import Logged
from funnel.types import Array, Candidates
from jobs.command import command
from jobs.fresh import fresh, removed
from jobs.judged import Judged, Parted, compared, lacking, scenes, streamed
from jobs.train_prerank import told
from jobs.train_rank import ORDERED, Before, Part
from jobs.work import Work
from rank.cross import TRAINED, Cross, loaded, texts_of
from rank.cross_fit import MOST, Lists, Reader, fit
from rank.value import weighed

REACH = 30  # a request's best by prerank that lists are drawn from


def high(part: Part) -> Part:
    """Of each request what stood high, and all that was wanted."""
    return part.take((part.places() < REACH) | (part.judged.labels > 0))


def lists(early: Sequence[Part]) -> Lists:
    judged = Judged.of([one for part in early for one in part.judged.requests])
    texts = [one.query.text for one in judged.requests]
    return Lists(texts, judged.rows, judged.labels, judged.sizes, judged.weights)


def searches(requests: Sequence[Logged]) -> list[Logged]:
    return [one for one in requests if one.query.text and not one.query.sort]


def train(work: Work, generation: Generation, scene: str) -> dict[str, Any]:
    """Trains and writes a scene's cross-encoder; its metrics, or under `why` why there is none."""
    config, target = work.config, work.draft / "cross" / scene
    settings = config.scene(scene).rank.cross
    removed(target)
    where = f"scenes.{scene}.rank.cross"
    reader = Reader.start(settings, config.build.seed, f"{where}.start")
    parted = Parted.of(work, scene)
    before = Before.of(work, scene, Assembler(generation, config, scene))
    most = frozenset(sorted(parted.train, key=id_hash)[: settings.epochs * MOST])
    early, late = list[Part](), list[Logged]()
    for some, held in streamed(work, scene, replace(parted, train=most)):
        late += held
        if asked := searches(some):
            early.append(high(before.part(asked)))
    learned = sum(len(part.judged.sizes) for part in early)
    if why := lacking(range(learned), searches(late)):
        return {"on": False, "why": f"searches: {why}"}
    judged, order = Judged.of(late), ordered(work, scene)
    texts = texts_of(generation.items)
    tell = told(work, f"train_cross: {scene}")
    learn = lists(early)
    fit(reader, learn, texts, settings.epochs, config.build.seed, tell)
    reader.save(fresh(target))
    reads = loaded(str(target), f"{where}.model")
    stage = Cross(reads, texts, settings.top, 0.0)
    said = np.concatenate(
        [
            stage.said(one.query, Candidates(one.candidates.rows, own))
            for one, own in zip(judged.requests, apart(order, judged), strict=True)
        ]
    )

    def ndcg(weight: float) -> NDArray[np.float64]:
        changed = replace(stage, weight=weight)
        parts = zip(apart(order, judged), apart(said, judged), judged.requests, strict=True)
        scores = [changed.moved(own, read, one.candidates.rows) for own, read, one in parts]
        return judged.ndcg(np.concatenate(scores))

    weight, honest = weighed(ndcg, judged.weights)
    metrics = {
        "requests": {"train": learned, "valid": len(searches(late))},
        **compared(judged, {"rank": judged.ndcg(order), "cross": honest}),
    }
    on = metrics["gain"]["mean"] > 0 and weight > 0
    meta = {"on": on, "weight": weight, "start": settings.start, "metrics": metrics}
    write_text(target / "meta.json", json.dumps(meta, indent=1))
    return {"on": on, "weight": weight, **metrics}


def ordered(work: Work, scene: str) -> Array:
    """(N,) what rank orders the candidates of the requests that validate by."""
    place = work.tables / ORDERED / f"{scene}.npy"
    if not place.exists():
        raise BadData(f"{place} is missing: run `python -m jobs.train_rank` first")
    order: Array = np.load(place)
    return order


def apart(values: Array, judged: Judged) -> list[Array]:
    """(N,) values, request by request."""
    return np.split(values, np.cumsum(judged.sizes)[:-1])


def run(work: Work) -> dict[str, Any]:
    generation = Generation.open(work.past_draft, check=False)
    asked = [name for name in scenes(work) if work.config.scene(name).rank.cross.model == TRAINED]
    return {scene: train(work, generation, scene) for scene in asked}


if __name__ == "__main__":
    command(run, __doc__)
