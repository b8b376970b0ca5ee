"""
Prerank taught by rank: trees that say what rank would, so that what prerank lets through is what
rank wants to see (Tang and Wang 2018, "Ranking distillation").

`train_prerank` leaves its model as the teacher's own prerank (teacher.txt): rank was blended with
it. Once rank is trained, its scores of all candidates of the training requests are what prerank's
trees learn, on the scale of the teacher's, and rank's blend is chosen again with the new prerank.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np

from features.assemble import Assembler
from funnel.generation import write_text
from funnel.ondisk import Growing, grown
from funnel.types import Floats
from jobs.judged import Judged, compared
from jobs.train_prerank import TEACHER
from jobs.work import Work
from prerank.gbdt import Model, contributions, importance, predict, taught


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """The features of some requests' candidates, and what rank says of every one."""

    requests: int
    matrix: Floats  # (N, F)
    said: Floats  # (N,)
    before: Floats  # (N,) what the teacher's own prerank says

    @staticmethod
    def stored(parts: Iterable[Lesson], path: Path) -> Lesson:
        """The parts joined, in files under `path`, which must be empty."""
        growing, requests = Growing(path), 0
        for part in parts:
            growing.add(matrix=part.matrix, said=part.said, before=part.before)
            requests += part.requests
        growing.close()
        return Lesson(requests, **grown(path))


def teach(
    work: Work, scene: str, train: Lesson, valid: Lesson, judged: Judged, assembler: Assembler
) -> lgb.Booster:
    """Writes prerank/<scene>/ anew and gives the student; `judged` are the requests of `valid`."""
    target = work.draft / "prerank" / scene
    centre, spread = train.said.mean(), train.said.std() or 1.0
    own = train.before

    def scaled(said: Floats) -> Floats:
        moved = (said - centre) / spread * (own.std() or 1.0) + own.mean()
        return np.asarray(moved, np.float32)

    student = taught(
        train.matrix,
        scaled(train.said),
        valid.matrix,
        scaled(valid.said),
        work.config.prerank,
        work.config.build.seed,
    )
    scores = predict(student, valid.matrix)
    recalled = judged.ndcg(judged.column("recall"))
    meta: dict[str, Any] = json.loads((target / "meta.json").read_text())
    metrics = {
        "requests": {"train": train.requests, "valid": valid.requests},
        "trees": student.num_trees(),
        **compared(judged, {"recall": recalled, "prerank": judged.ndcg(scores)}),
        **judged.order(scores),
        "as rank says": round(float(np.corrcoef(scores, valid.said)[0, 1]), 4),
    }
    meta |= {
        "taught by": meta.get("taught by", meta["start"]),
        "start": 0.0,
        "on": metrics["gain"]["mean"] > 0,
        "taught": True,
        "metrics": metrics,
        "importance": importance(student, assembler.names),
        "shap": contributions(student, valid.matrix, assembler.names, seed=work.config.build.seed),
    }
    write_text(target / "model.txt", student.model_to_string())
    write_text(target / "meta.json", json.dumps(meta, indent=1))
    return student


def teacher(work: Work, scene: str, names: Sequence[str]) -> Model:
    """The prerank that rank was blended with before it taught another; `names` are its features."""
    path = work.draft / "prerank" / scene
    meta: dict[str, Any] = json.loads((path / "meta.json").read_text())
    file = path / TEACHER if (path / TEACHER).exists() else path / "model.txt"
    start = float(meta.get("taught by", meta["start"]))
    return Model(lgb.Booster(model_file=str(file)), names, start)
