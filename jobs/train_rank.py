"""
Trains rank: DeepFM over the fields of the samples, one model a scene.

It learns from what reaches it: of every request's candidates the best by prerank, and the positive
ones. The latest requests validate, the same as prerank's; a model that does not beat prerank's
order there is published switched off. Writes rank/<scene>/{model.safetensors,meta.json}.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import lightgbm as lgb
import numpy as np

from features.assemble import Assembler
from funnel.generation import Generation
from funnel.metrics import ece, log_loss
from funnel.types import Array, Floats
from jobs.command import command
from jobs.fresh import removed
from jobs.judged import Judged, compared, lacking, scenes, split
from jobs.train_prerank import table, told
from jobs.work import Work
from prerank.gbdt import cross_scores, predict, usable
from rank.deepfm import DeepFM, DeepFMConfig
from rank.encoding import Encoding
from rank.scorer import Reader, positive, save
from rank.train import Table, fit
from rank.train import predict as logits

REACH = 40  # a request's best candidates by prerank, which rank learns from
SILENT = 0.1  # share of the requests that it learns from without prerank's scores


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """The requests to train or to validate on, with the order that rank has to beat."""

    judged: Judged
    before: Floats  # (N,) prerank's scores; recall's where prerank is off

    def places(self) -> Array:
        """(N,) each candidate's place in its request by that order, from 0."""
        order = np.lexsort((self.judged.rows, -self.before, self.judged.owners))
        ends = np.cumsum(self.judged.sizes)
        places = np.empty(len(order), np.int64)
        places[order] = np.arange(len(order)) - (ends - self.judged.sizes)[self.judged.owners]
        return places

    def take(self, keep: Array) -> Part:
        """The candidates where `keep` (N,) holds."""
        parts = np.split(keep, np.cumsum(self.judged.sizes)[:-1])
        pairs = zip(self.judged.requests, parts, strict=True)
        taken = [
            replace(
                one,
                candidates=one.candidates.take(np.flatnonzero(part)),
                labels=one.labels[part],
                positions=one.positions[part],
            )
            for one, part in pairs
        ]
        return Part(Judged.of(taken), self.before[keep])

    def told(self, silent: Array) -> Part:
        """With prerank's scores as a column, except for the requests where `silent` (R,) holds."""
        parts = np.split(self.before, np.cumsum(self.judged.sizes)[:-1])
        requests = [
            one if mute else replace(one, candidates=one.candidates.with_columns({"prerank": part}))
            for one, part, mute in zip(self.judged.requests, parts, silent, strict=True)
        ]
        return replace(self, judged=replace(self.judged, requests=requests))


def ordered(work: Work, scene: str, assembler: Assembler) -> tuple[Part, Part]:
    """The requests to train and to validate on, with the scores of the stage before rank.

    Prerank was fitted to the training requests, so there its own scores are better than they will
    ever be again, and rank would lean on them too much. Rank learns from the scores of trees that
    were fitted to the other half of the requests instead.
    """
    early, late = (Judged.of(part) for part in split(work, scene))
    draft = Generation.open(work.draft, check=False)
    if not usable(draft, scene, "auto"):
        return Part(early, early.column("recall")), Part(late, late.column("recall"))
    booster = lgb.Booster(model_file=str(draft.file(f"prerank/{scene}/model.txt")))
    config, trees = work.config, booster.num_trees()
    honest = cross_scores(table(early, assembler), config.prerank, trees, config.build.seed)
    column = np.concatenate(
        [predict(booster, assembler.matrix(one.query, one.candidates)) for one in late.requests]
    )
    silent = np.random.default_rng(config.build.seed).random(len(early.sizes)) < SILENT
    none = np.zeros(len(late.sizes), bool)
    return Part(early, honest).told(silent), Part(late, column).told(none)


def inputs(part: Part, reader: Reader, encoding: Encoding | None = None) -> tuple[Table, Encoding]:
    """The part as a ranker takes it; without an encoding, one is fitted to it."""
    requests = part.judged.requests
    raw = reader.raw([reader.fields(one.query, one.candidates) for one in requests])
    encoding = encoding or reader.fit(raw)
    return Table(encoding(raw), part.judged.labels, part.judged.rows), encoding


def above(scores: Array, reached: Array, before: Array) -> Floats:
    """(N,) an order: what reached rank by its `scores`, below it the rest as it was `before`."""
    found = np.empty(len(reached), np.float32)
    found[reached] = scores
    low = float(scores.min()) if len(scores) else 0.0
    rest = before[~reached]
    place = np.searchsorted(np.unique(rest), rest)
    found[~reached] = low - 1 - (place.max(initial=0) - place)
    return found


def train(work: Work, generation: Generation, scene: str) -> dict[str, Any]:
    """Trains and writes one scene's model; its metrics, or under `why` why there is none."""
    config, target = work.config, work.draft / "rank" / scene
    removed(target)
    if why := lacking(*split(work, scene)):
        return {"on": False, "why": why}
    reader = Reader(Assembler(generation, config, scene), config.rank.history, positive(generation))
    work.progress(f"train_rank: {scene}")
    early, late = ordered(work, scene, reader.assembler)
    learned, encoding = inputs(early.take(seen(early)), reader)
    reached = late.places() < REACH
    valid, _ = inputs(late.take(reached), reader, encoding)
    fitted = fit(
        lambda: DeepFM(shape(encoding, work)),
        learned,
        valid,
        config.rank,
        config.build.seed,
        told(work, f"train_rank: {scene}"),
    )
    model = cast(DeepFM, fitted.model)
    scores = logits(model, valid.inputs)
    before = {"recall": late.judged.column("recall"), "prerank": late.before}
    final = above(scores, reached, late.before)
    metrics = {
        "requests": {"train": len(early.judged.sizes), "valid": len(late.judged.sizes)},
        "epochs": fitted.best + 1,
        **compared(late.judged, {**before, "rank": final}),
        **late.judged.order(final),
        **calibration(valid, scores),
    }
    on = metrics["gain"]["mean"] > 0
    save(target, model, encoding, reader, {"on": on, "metrics": metrics})
    return {"on": on, **metrics}


def seen(part: Part) -> Array:
    """(N,) what rank learns from: what reaches it, and all that is positive."""
    wanted: Array = (part.places() < REACH) | (part.judged.labels > 0)
    return wanted


def shape(encoding: Encoding, work: Work) -> DeepFMConfig:
    settings = work.config.rank
    return DeepFMConfig(
        vocab=encoding.vocab,
        bags=len(encoding.bags),
        shared=tuple(encoding.shared.tolist()),
        numbers=len(encoding.mean),
        width=settings.width,
        hidden=settings.hidden,
        dropout=settings.dropout,
    )


def calibration(valid: Table, scores: Floats) -> Mapping[str, float]:
    """How far p.click can be believed, on candidates that are as many as in the samples."""
    p = 1 / (1 + np.exp(-scores.astype(np.float64)))
    return {
        "log loss": round(log_loss(valid.labels, p), 4),
        "ECE": round(ece(valid.labels, p), 4),
    }


def run(work: Work) -> dict[str, Any]:
    generation = Generation.open(work.past_draft, check=False)
    return {scene: train(work, generation, scene) for scene in scenes(work)}


if __name__ == "__main__":
    command(run, __doc__)
