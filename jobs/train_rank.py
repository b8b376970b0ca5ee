"""
Trains rank: DeepFM, DIN or a transformer (`rank.network`) over the fields of the samples, one
model a scene.

It learns from what reaches it: of every request's candidates the best by prerank, and the positive
ones. The latest requests validate, the same as prerank's; a model that does not beat prerank's
order there is published switched off. Writes rank/<scene>/{model.safetensors,meta.json}.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from features.assemble import Assembler
from funnel.generation import Generation
from funnel.metrics import ece, log_loss
from funnel.types import Array, Floats
from jobs.command import command
from jobs.fresh import removed
from jobs.judged import Judged, compared, lacking, scenes, split
from jobs.train_prerank import table, told
from jobs.work import Work
from prerank.gbdt import predict, usable
from rank.checkpoint import Checkpoint
from rank.encoding import Encoding
from rank.fields import Shape
from rank.models import MODELS
from rank.scorer import Reader, positive, save
from rank.train import Table, fit
from rank.train import predict as logits_of
from rank.value import Blend, Head, Platt, nested, probabilities, weighed

RARE = 50  # an action with fewer positive candidates in training gets no head
REACH = 40  # a request's best candidates by prerank: what reaches rank, of samples thinned out


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """The requests to train or to validate on, with the order that rank has to beat."""

    judged: Judged
    before: Floats  # (N,) prerank's scores; recall's where prerank is off

    def places(self) -> Array:
        """(N,) each candidate's place in its request by that order, from 0."""
        judged = self.judged
        scores = np.where(np.isfinite(self.before), self.before, -np.inf)
        order = np.lexsort((judged.rows, -scores, judged.owners))
        starts = np.cumsum(judged.sizes) - judged.sizes
        places = np.empty(len(order), np.int64)
        places[order] = np.arange(len(order)) - starts[judged.owners]
        return places

    def take(self, keep: Array) -> Part:
        """The candidates where `keep` (N,) holds."""
        parts = np.split(keep, np.cumsum(self.judged.sizes)[:-1])
        taken = [
            replace(
                one,
                candidates=one.candidates.take(np.flatnonzero(part)),
                labels=one.labels[part],
                positions=one.positions[part],
            )
            for one, part in zip(self.judged.requests, parts, strict=True)
        ]
        return Part(Judged.of(taken), self.before[keep])


def ordered(work: Work, scene: str, assembler: Assembler) -> tuple[Part, Part, bool]:
    """The requests to train and to validate on, with the scores of the stage before rank, and
    whether that is prerank."""
    parts = [Judged.of(part) for part in split(work, scene)]
    draft = Generation.open(work.draft, check=False)
    on = usable(draft, scene, "auto")
    if on:
        booster = lgb.Booster(model_file=str(draft.file(f"prerank/{scene}/model.txt")))
        scores = [predict(booster, table(part, assembler).matrix) for part in parts]
    else:
        scores = [part.column("recall") for part in parts]
    early, late = (Part(part, own) for part, own in zip(parts, scores, strict=True))
    return early, late, on


def heads(work: Work, labels: Floats) -> tuple[Head, ...]:
    """A head for anything positive, called `click`, and one for every action that weighs more than
    another and is frequent enough to learn from."""
    actions: dict[float, str] = {}
    for name, weight in work.config.data.positive.items():
        actions.setdefault(weight, name)
    found, below = [Head("click", 0.0)], min(actions)
    for weight in sorted(actions)[1:]:
        if (labels > below).sum() >= RARE:
            found.append(Head(actions[weight], below))
        below = weight
    return tuple(found)


def inputs(
    part: Part, reader: Reader, levels: tuple[float, ...], encoding: Encoding | None = None
) -> tuple[Table, Encoding]:
    """The part as a ranker takes it; without an encoding, one is fitted to it."""
    requests = part.judged.requests
    raw = reader.raw([reader.assembler.fields(one.query, one.candidates) for one in requests])
    encoding = encoding or reader.fit(raw)
    judged = part.judged
    table = Table(encoding(raw), judged.labels, judged.rows, judged.weights, levels)
    return table, encoding


def seen(part: Part) -> Array:
    """(N,) what rank learns from: what reaches it, and all that is positive."""
    wanted: Array = (part.places() < REACH) | (part.judged.labels > 0)
    return wanted


def above(scores: Array, reached: Array, places: Array) -> NDArray[np.float64]:
    """(N,) an order: what reached rank by its `scores`, below it the rest at its `places`."""
    found = np.empty(len(reached))
    found[reached] = scores
    found[~reached] = float(scores.min(initial=0.0)) - 1 - places[~reached]
    return found


def train(work: Work, generation: Generation, scene: str) -> dict[str, Any]:
    """Trains and writes one scene's model; its metrics, or under `why` why there is none."""
    config, target = work.config, work.draft / "rank" / scene
    removed(target)
    if why := lacking(*split(work, scene)):
        return {"on": False, "why": why}
    reader = Reader(Assembler(generation, config, scene), config.rank.history, positive(generation))
    work.progress(f"train_rank: {scene}")
    early, late, scored = ordered(work, scene, reader.assembler)
    shown = early.take(seen(early))
    targets = heads(work, shown.judged.labels)
    levels = tuple(head.level for head in targets)
    learned, encoding = inputs(shown, reader, levels)
    places = late.places()
    reached = places < REACH
    valid, _ = inputs(late.take(reached), reader, levels, encoding)
    fitted = fit(
        lambda: MODELS[config.rank.network](shape(encoding, work, len(targets))),
        learned,
        valid,
        config.rank,
        config.build.seed,
        told(work, f"train_rank: {scene}"),
        Checkpoint(work.root / "checkpoints" / f"rank-{scene}.pt"),
    )
    every = logits_of(fitted.model, valid.inputs)  # (N, T)
    logits = every[:, 0]
    usual = float(late.before[reached].mean()) if scored else 0.0

    def order(weight: float) -> Array:
        blend = Blend(weight if scored else 0.0, usual)
        return above(blend.of(logits, late.before[reached]), reached, places)

    judged = late.judged
    weight, honest = weighed(lambda weight: judged.ndcg(order(weight)), judged.weights)
    before = {"recall": judged.ndcg(judged.column("recall")), "prerank": judged.ndcg(late.before)}
    blend = Blend(weight if scored else 0.0, usual)
    targets, calibrated = calibrate(targets, every, valid.labels)
    metrics = {
        "requests": {"train": len(early.judged.sizes), "valid": len(judged.sizes)},
        "network": config.rank.network,
        "epochs": fitted.best + 1,
        **compared(judged, {**before, "rank": honest}),
        "network alone": round(float(np.mean(judged.ndcg(order(0.0)) * judged.weights)), 4),
        **judged.order(order(weight)),
        "heads": calibrated,
    }
    on = metrics["gain"]["mean"] > 0
    told_heads = [asdict(head) for head in targets]
    meta = {"on": on, "blend": asdict(blend), "heads": told_heads, "metrics": metrics}
    save(target, fitted.model, encoding, reader, meta)
    return {"on": on, **metrics}


def calibrate(
    targets: tuple[Head, ...], logits: Floats, labels: Floats
) -> tuple[tuple[Head, ...], dict[str, dict[str, float]]]:
    """The heads with their Platt scales, and what their probabilities are worth: the scales of one
    half of the candidates judged on the other, so that ECE is that of candidates not fitted to."""
    joint = nested(logits)
    even = np.arange(len(labels)) % 2 == 0

    def fitted(chosen: Array) -> tuple[Head, ...]:
        return tuple(
            replace(head, platt=Platt.fit(joint[chosen, t], labels[chosen] > head.level))
            for t, head in enumerate(targets)
        )

    held = np.empty((len(labels), len(targets)), np.float32)
    for own in (even, ~even):
        held[own] = np.stack([*probabilities(fitted(~own), logits[own]).values()], axis=1)
    said = {
        head.action: {
            "positives": int((labels > head.level).sum()),
            "log loss": round(log_loss(labels > head.level, held[:, t]), 4),
            "ECE": round(ece(labels > head.level, held[:, t]), 4),
        }
        for t, head in enumerate(targets)
    }
    return fitted(even | ~even), said


def shape(encoding: Encoding, work: Work, heads: int) -> Shape:
    settings = work.config.rank
    return Shape(
        vocab=encoding.vocab,
        bags=len(encoding.bags),
        shared=tuple(encoding.shared.tolist()),
        numbers=len(encoding.mean),
        width=settings.width,
        hidden=settings.hidden,
        dropout=settings.dropout,
        actions=len(work.config.all_actions) + 1,
        unit=settings.unit,
        blocks=settings.blocks,
        past=settings.history,
        heads=heads,
    )


def run(work: Work) -> dict[str, Any]:
    generation = Generation.open(work.past_draft, check=False)
    return {scene: train(work, generation, scene) for scene in scenes(work)}


if __name__ == "__main__":
    command(run, __doc__)
