"""
Prerank taught by rank: trees that say what rank would, so that what prerank lets through is what
rank wants to see (Tang and Wang 2018, "Ranking distillation").

`train_prerank` leaves its model as the teacher's own prerank (teacher.txt): rank was blended with
it. Once rank is trained, its scores of all candidates of the training requests are what prerank's
trees learn, on the scale of the teacher's, and rank's blend is chosen again with the new prerank.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from features.assemble import Assembler
from funnel.generation import write_text
from funnel.types import Array, Floats
from jobs.judged import Judged, compared
from jobs.train_prerank import TEACHER, table
from jobs.work import Work
from prerank.gbdt import contributions, importance, predict, taught


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """Requests, their features, and what rank says of every candidate."""

    judged: Judged
    matrix: Floats  # (N, F)
    said: NDArray[np.float64]  # (N,)

    @staticmethod
    def of(judged: Judged, assembler: Assembler, said: Array) -> Lesson:
        return Lesson(judged, table(judged, assembler).matrix, np.asarray(said, np.float64))


def teach(
    work: Work, scene: str, train: Lesson, valid: Lesson, before: Array, assembler: Assembler
) -> lgb.Booster:
    """Writes prerank/<scene>/ anew and gives the student. `before` (N,) is what the teacher's
    prerank says of the candidates to train on."""
    target = work.draft / "prerank" / scene
    centre, spread = train.said.mean(), train.said.std() or 1.0
    own = np.asarray(before, np.float64)

    def scaled(said: NDArray[np.float64]) -> Floats:
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
    judged = valid.judged
    recalled = judged.ndcg(judged.column("recall"))
    meta: dict[str, Any] = json.loads((target / "meta.json").read_text())
    metrics = {
        "requests": {"train": len(train.judged.sizes), "valid": len(judged.sizes)},
        "trees": student.num_trees(),
        **compared(judged, {"recall": recalled, "prerank": judged.ndcg(scores)}),
        **judged.order(scores),
        "as rank says": round(float(np.corrcoef(scores, valid.said)[0, 1]), 4),
    }
    meta |= {
        "on": metrics["gain"]["mean"] > 0,
        "taught": True,
        "metrics": metrics,
        "importance": importance(student, assembler.names),
        "shap": contributions(student, valid.matrix, assembler.names, seed=work.config.build.seed),
    }
    write_text(target / "model.txt", student.model_to_string())
    write_text(target / "meta.json", json.dumps(meta, indent=1))
    return student


def teacher(work: Work, scene: str) -> Path:
    """The prerank that rank was blended with before it taught another."""
    path = work.draft / "prerank" / scene
    return path / TEACHER if (path / TEACHER).exists() else path / "model.txt"
