"""
Trains rank: DeepFM, DIN or a transformer (`rank.network`) over the fields of the samples, one
model a scene.

It learns from all candidates of the samples, each as many as it stands for. The requests that
validate prerank validate it, by what reaches rank there: the best `keep` by prerank. A model is
published switched off where prerank's score together with it does not make what was wanted there
likelier than alone (where prerank is off: where its order is not better than recall's). Writes
rank/<scene>/{model.safetensors,meta.json}.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from features.assemble import Assembler
from funnel.errors import BadData
from funnel.generation import CURRENT, Generation, current
from funnel.log import Logged
from funnel.metrics import ece, log_loss
from funnel.types import Array, Floats, Rows
from jobs.command import command
from jobs.distilled import Lesson, teach, teacher
from jobs.fresh import fresh, removed
from jobs.judged import Judged, Parted, compared, interval, lacking, scenes, streamed
from jobs.judged import weighed as weighed_requests
from jobs.requests import label_of
from jobs.train_prerank import matrix, told
from jobs.work import Work
from prerank.gbdt import Model, predict, usable
from rank.checkpoint import Checkpoint
from rank.encoding import Encoding, Raw
from rank.fields import Shape
from rank.models import MODELS
from rank.scorer import Network, Reader, positive, save
from rank.stored import Writer, opened
from rank.train import Epoch, Fitted, Table, fit
from rank.train import predict as logits_of
from rank.value import Blend, Head, Platt, likelier, nested, probabilities, weighed
from rank.warm import carried
from rank.workers import train_stored

RARE = 50  # an action with fewer positive candidates in training gets no head
FIT = 2_000_000  # candidates that the encoding is fitted to, and that are held at most
ORDERED = "ordered"  # under tables/


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


@dataclass(frozen=True, slots=True, eq=False)
class Before:
    """The stage before rank: prerank, or recall where prerank is off (no model)."""

    model: Model | None
    assembler: Assembler

    @staticmethod
    def of(work: Work, scene: str, assembler: Assembler) -> Before:
        draft = Generation.open(work.draft, check=False)
        on = usable(draft, scene, "auto")
        return Before(teacher(work, scene, assembler.names) if on else None, assembler)

    def part(self, requests: Sequence[Logged]) -> Part:
        judged = Judged.of(requests)
        if self.model is None:
            return Part(judged, judged.column("recall"))
        return Part(judged, self.model.predict(matrix(judged, self.assembler)))


def heads(work: Work, labels: Floats) -> tuple[Head, ...]:
    """A head for anything positive, called `click`, and one for every action that weighs more than
    another and is frequent enough to learn from."""
    actions: dict[float, str] = {}
    for name, weight in work.config.data.positive.items():
        actions.setdefault(label_of(weight), name)
    found, below = [Head("click", 0.0)], min(actions)
    for label in sorted(actions)[1:]:
        if (labels > below).sum() >= RARE:
            found.append(Head(actions[label], below))
        below = label
    return tuple(found)


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """What a ranker takes of a part, not yet encoded."""

    raw: Raw
    labels: Floats  # (N,)
    rows: Rows  # (N,)
    graded: Array  # (R,)
    stands_for: Floats  # (N,)

    @staticmethod
    def of(judged: Judged, reader: Reader) -> Read:
        fields = [reader.fields(one.query, one.candidates) for one in judged.requests]
        raw = reader.raw(fields)
        return Read(raw, judged.labels, judged.rows, judged.graded, judged.stands_for)

    def table(self, encoding: Encoding, levels: tuple[float, ...], kinds: float) -> Table:
        weights = weighed_requests(self.graded, kinds)
        inputs = encoding(self.raw)
        return Table(inputs, self.labels, self.rows, weights, levels, self.stands_for)


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """A scene's samples, read in parts: each is encoded once, into files that training maps."""

    work: Work
    scene: str
    parted: Parted
    before: Before
    reader: Reader

    def early(self) -> Iterator[Read]:
        """What there is to learn from."""
        for train, _ in streamed(self.work, self.scene, self.parted):
            if train:
                yield Read.of(Judged.of(train), self.reader)

    def late(self) -> Part:
        """All that there is to validate on."""
        entries = streamed(self.work, self.scene, self.parted)
        return self.before.part([one for _, valid in entries for one in valid])

    def stored(self, path: Path) -> tuple[Encoding, tuple[Head, ...]]:
        """Writes the table to learn from. The encoding is fitted to the first `FIT` candidates;
        what comes after is read twice, so that never more than these are in memory."""
        kept: list[Read] = []
        labels: list[Floats] = []
        count = 0
        for one in self.early():
            labels.append(one.labels)
            if count < FIT:
                kept.append(one)
            count += len(one.labels)
        targets = heads(self.work, np.concatenate(labels))
        levels = tuple(head.level for head in targets)
        encoding = self.reader.fit(Raw.joined([one.raw for one in kept]))
        writer = Writer(fresh(path), levels)
        rest = islice(self.early(), len(kept), None) if len(kept) < len(labels) else iter(())
        for one in chain(kept, rest):
            writer.add(one.table(encoding, levels, self.parted.graded))
        writer.close()
        return encoding, targets


def above(scores: Array, reached: Array, places: Array) -> NDArray[np.float64]:
    """(N,) an order: what reached rank by its `scores`, below it the rest at its `places`."""
    found = np.empty(len(reached))
    found[reached] = scores
    found[~reached] = float(scores.min(initial=0.0)) - 1 - places[~reached]
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """The requests that validate, all of their candidates, and what of them reaches rank."""

    late: Part
    places: Array  # (N,) by the order before rank, from 0
    keep: int  # so many reach rank
    near: Part
    table: Table  # `near`, encoded

    @staticmethod
    def of(
        late: Part, keep: int, reader: Reader, encoding: Encoding, levels: tuple[float, ...]
    ) -> Held:
        places = late.places()
        near = late.take(places < keep)
        read = Read.of(near.judged, reader)
        table = read.table(encoding, levels, float(read.graded.mean()))
        return Held(late, places, keep, near, table)

    def order(self, scores: Array) -> NDArray[np.float64]:
        """(N,) what reached rank by its `scores`, below it the rest as before."""
        return above(scores, self.places < self.keep, self.places)


def train(work: Work, generation: Generation, scene: str) -> dict[str, Any]:
    """Trains and writes one scene's model; its metrics, or under `why` why there is none."""
    config, target = work.config, work.draft / "rank" / scene
    removed(target)
    parted = Parted.of(work, scene)
    if why := lacking(parted.train, parted.valid):
        return {"on": False, "why": why}
    assembler = Assembler(generation, config, scene)
    wide = config.rank.vectors and assembler.width > 0
    reader = Reader(assembler, config.rank.history, positive(generation), wide)
    work.progress(f"train_rank: {scene}")
    before_rank = Before.of(work, scene, reader.assembler)
    scored = before_rank.model is not None
    samples = Samples(work, scene, parted, before_rank, reader)
    place = work.root / "tables" / f"rank-{scene}"
    encoding, targets = samples.stored(place / "train")
    levels = tuple(head.level for head in targets)
    held = partial(
        Held.of,
        keep=config.scene(scene).prerank.keep,
        reader=reader,
        encoding=encoding,
        levels=levels,
    )
    valid = held(samples.late())
    sizes = shape(encoding, work, len(targets), assembler.width if wide else 0)
    start, warm = warmed(work, scene, sizes, encoding, (generation, reader.assembler))
    fitted = fitted_to(work, scene, place, valid.table, sizes, start)
    removed(place)
    every = logits_of(fitted.model, valid.table.inputs)  # (N, T)
    if scored and config.prerank.objective == "distilled":
        scores = Scores(fitted.model, encoding, reader, every[:, 0])
        valid = held(distilled(work, samples, valid, scores))
        every = logits_of(fitted.model, valid.table.inputs)
    logits, near, judged = every[:, 0], valid.near, valid.late.judged
    usual = float(near.before.mean()) if scored else 0.0

    def order(weight: float) -> Array:
        return valid.order(Blend(weight, usual).of(logits, near.before))

    weight, honest = blended(valid, logits) if scored else (0.0, judged.ndcg(order(0.0)))
    stages = {"recall": judged.column("recall"), "prerank": valid.late.before}
    before = {name: judged.ndcg(scores) for name, scores in stages.items()}
    blend = Blend(weight, usual)
    targets, calibrated = calibrate(targets, every, near.judged.labels)
    each = logits, near.before, near.judged.labels, near.judged.sizes, judged.weights
    metrics = {
        "requests": {"train": len(parted.train), "valid": len(judged.sizes)},
        "network": config.rank.network,
        **({"warm": round(warm, 4)} if config.rank.warm else {}),
        "epochs": fitted.best + 1,
        **compared(judged, {**before, "rank": honest}),
        **({"likelier": interval(likelier(*each) * judged.weights)} if scored else {}),
        "network alone": round(float(np.mean(judged.ndcg(order(0.0)) * judged.weights)), 4),
        **judged.order(order(weight)),
        "heads": calibrated,
    }
    # Which of two good orders is better nDCG of few requests cannot tell; whether the network knows
    # more than prerank does, likelihood can. Recall's scores are no one's likelihood.
    on = metrics["likelier" if scored else "gain"]["mean"] > 0
    write_order(work, scene, order(weight) if on else stages["prerank"])
    told_heads = [asdict(head) for head in targets]
    meta = {"on": on, "blend": asdict(blend), "heads": told_heads, "metrics": metrics}
    save(target, fitted.model, encoding, reader, meta)
    return {"on": on, **metrics}


def blended(held: Held, logits: Array) -> tuple[float, Array]:
    """The weight of prerank's scores beside the network's `logits` of what reached rank, by
    nDCG@10, and (R,) what it is worth, of each half by the other's choice."""
    judged, near, usual = held.late.judged, held.near, float(held.near.before.mean())

    def ndcg(weight: float) -> Array:
        return judged.ndcg(held.order(Blend(weight, usual).of(logits, near.before)))

    return weighed(ndcg, judged.weights)


def write_order(work: Work, scene: str, scores: Array) -> None:
    """Leaves what the requests that validate are ordered by, (N,), for what comes after rank."""
    place = work.tables / ORDERED
    place.mkdir(exist_ok=True)
    np.save(place / f"{scene}.npy", scores)


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What a trained network says of candidates; `known` (N,) are its logits of those that
    validated it, by which its blend with prerank is chosen."""

    model: nn.Module
    encoding: Encoding
    reader: Reader
    known: Floats

    def of(self, part: Part) -> Floats:
        """(N,) logits."""
        read = Read.of(part.judged, self.reader)
        encoded: Floats = logits_of(self.model, self.encoding(read.raw))[:, 0]
        return encoded


def distilled(work: Work, samples: Samples, held: Held, scores: Scores) -> Part:
    """Teaches prerank what rank says; the requests to validate on, with what it says then."""
    work.progress(f"train_rank: {samples.scene}: prerank learns what rank says")
    near, late = held.near, held.late
    weight, _ = blended(held, scores.known)
    blend, reader = Blend(weight, float(near.before.mean())), scores.reader

    def lesson(part: Part) -> Lesson:
        said = np.asarray(blend.of(scores.of(part), part.before), np.float32)
        features = matrix(part.judged, reader.assembler)
        return Lesson(len(part.judged.sizes), features, said, part.before)

    early = (samples.before.part(t) for t, _ in streamed(work, samples.scene, samples.parted) if t)
    place = work.root / "tables" / f"taught-{samples.scene}"
    train, valid = Lesson.stored(map(lesson, early), fresh(place)), lesson(late)
    student = teach(work, samples.scene, train, valid, late.judged, reader.assembler)
    removed(place)
    return Part(late.judged, predict(student, valid.matrix))


def warmed(
    work: Work,
    scene: str,
    sizes: Shape,
    encoding: Encoding,
    new: tuple[Generation, Assembler],
) -> tuple[dict[str, Tensor] | None, float]:
    """What to begin with out of the published generation, where the config wants that and there is
    such a model, and the share of embeddings that it gives."""
    root, settings = Path(work.config.build.root), work.config.rank
    if not settings.warm or not (root / CURRENT).exists():
        return None, 0.0
    old = Generation.open(root / current(root), check=False)
    if not old.has(f"rank/{scene}/model.safetensors"):
        return None, 0.0
    before = Network.open(old, old.config, scene)
    with torch.random.fork_rng():
        torch.manual_seed(seed_of(work))
        model = MODELS[settings.network](sizes)
    return carried(model, encoding, new, before, old)


def seed_of(work: Work) -> int:
    return work.config.build.seed + work.config.rank.seed


def fitted_to(
    work: Work,
    scene: str,
    place: Path,
    valid: Table,
    sizes: Shape,
    start: dict[str, Tensor] | None,
) -> Fitted:
    """The network trained on the table in `place`, by as many processes as the config wants."""
    settings, seed = work.config.rank, seed_of(work)
    file = work.root / "checkpoints" / f"rank-{scene}.pt"

    def make() -> nn.Module:
        return MODELS[settings.network](sizes)

    if settings.workers == 1:
        tell = told(work, f"train_rank: {scene}")
        table = opened(place / "train")
        return fit(make, table, valid, settings, seed, tell, Checkpoint(file), start=start)
    from pyspark.ml.torch.distributor import TorchDistributor

    writer = Writer(fresh(place / "valid"), valid.levels)
    writer.add(valid)
    writer.close()
    local = str(work.spark.conf.get("spark.master")).startswith("local")
    launcher = TorchDistributor(settings.workers, local, torch.cuda.is_available())
    paths, begin = [str(place / "train"), str(place / "valid")], ""
    if start is not None:
        begin = str(place / "start.pt")
        torch.save(start, begin)
    args = settings.network, sizes, *paths, settings, seed, str(file), begin
    found = launcher.run(train_stored, *args)
    if found is None:
        raise BadData(f"the {settings.workers} processes that train rank gave no model")
    model = make()
    model.load_state_dict({name: torch.from_numpy(a) for name, a in found["weights"].items()})
    return Fitted(model.eval(), tuple(Epoch(*one) for one in found["epochs"]), found["best"])


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


def shape(encoding: Encoding, work: Work, heads: int, vectors: int = 0) -> Shape:
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
        vectors=vectors,
    )


def run(work: Work) -> dict[str, Any]:
    generation = Generation.open(work.past_draft, check=False)
    return {scene: train(work, generation, scene) for scene in scenes(work)}


if __name__ == "__main__":
    command(run, __doc__)
