"""
The samples as models learn from them: requests with something positive in them, split by time, and
how good an order of their candidates is.

N candidates of R requests
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from funnel.catalogue import id_hash
from funnel.log import Logged, stream
from funnel.metrics import auc, bootstrap_interval, gauc, grouped_ndcg_at_k
from funnel.types import Array, Floats, Rows
from jobs.requests import validating
from jobs.work import Work

ENOUGH = 50  # requests; a model of fewer would be noise
AT = 10
CHANCE = "chance"  # the column of what chance a candidate had to be kept (jobs/candidates.py)
MOST_VALID = 2_000_000  # candidates that validate, for they are held in memory
FEW_VALID = 50  # requests that validate at least, where there are so many


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Some requests, their candidates joined."""

    requests: Sequence[Logged]
    rows: Rows  # (N,)
    labels: Floats  # (N,)
    sizes: NDArray[np.int64]  # (R,)
    owners: NDArray[np.int64]  # (N,)

    @staticmethod
    def of(requests: Sequence[Logged]) -> Judged:
        sizes = np.array([len(logged.candidates) for logged in requests], np.int64)
        return Judged(
            requests,
            np.concatenate([logged.candidates.rows for logged in requests]),
            np.concatenate([logged.labels for logged in requests]),
            sizes,
            np.repeat(np.arange(len(sizes)), sizes),
        )

    @property
    def positions(self) -> NDArray[np.int32]:
        """(N,) where each candidate was shown, from 1; 0 where it was not."""
        return np.concatenate([logged.positions for logged in self.requests])

    @property
    def stands_for(self) -> Floats:
        """(N,) how many of recall's candidates each stands for: one over its chance to be kept."""
        chances = self.column(CHANCE)
        return np.where(chances > 0, 1 / np.where(chances > 0, chances, 1), 1).astype(np.float32)

    @property
    def weights(self) -> Floats:
        """(R,) how much each request counts, 1 on average.

        Where there are both, the graded queries together count as much as the requests of users:
        they are few, but say what is right and not what was clicked where it stood.
        """
        return weighed(self.graded, float(self.graded.mean()) if len(self.graded) else 0.0)

    @property
    def graded(self) -> NDArray[np.bool_]:
        """(R,) whether each request is a query that was graded, and no user's."""
        return np.array([not logged.query.user_id for logged in self.requests], bool)

    def column(self, name: str) -> Floats:
        """(N,) a column of the candidates, NaN where a request does not have it."""
        parts = [
            logged.candidates.columns.get(name, np.full(len(logged.candidates), np.nan))
            for logged in self.requests
        ]
        return np.concatenate(parts).astype(np.float32)

    def ndcg(self, scores: Array) -> NDArray[np.float64]:
        """(R,) nDCG@10 of the order by these scores."""
        return grouped_ndcg_at_k(self.labels, scores, self.rows, self.owners, AT)

    def order(self, scores: Array) -> dict[str, float]:
        """How well the scores tell the positive candidates from the others."""
        return {
            "AUC": round(auc(self.labels, scores), 4),
            "GAUC": round(gauc(self.labels, scores, self.owners), 4),
        }


def weighed(graded: Array, kinds: float) -> Floats:
    """(R,) how much requests count, of which `kinds` are graded, among all there are."""
    if kinds in (0.0, 1.0):
        return np.ones(len(graded), np.float32)
    return np.where(graded, 0.5 / kinds, 0.5 / (1 - kinds)).astype(np.float32)


def scenes(work: Work) -> list[str]:
    """The scenes that have samples."""
    return [name for name in work.config.scenes if (work.samples / name / "requests").is_dir()]


@dataclass(frozen=True, slots=True, eq=False)
class Parted:
    """The ids of a scene's requests: to train on, and the latest `build.valid_share` to validate
    on, of very many as many as have `MOST_VALID` candidates.

    Graded queries have no time of their own: those of the validation split, or where there is none
    as large a share of them, by the hash of their ids.
    """

    train: frozenset[str]
    valid: frozenset[str]
    graded: float  # of those to train on

    @staticmethod
    def among(
        work: Work, scene: str, asked: pa.Table, useful: Container[str] | None = None
    ) -> Parted:
        """Of the requests that were `asked` (request_id, user_id, at), those that are `useful`.
        Which of them validate hangs on all that were asked, for samples are thinned by it."""
        share, keep = work.config.build.valid_share, work.config.scene(scene).recall.keep
        asked = asked.sort_by([("at", "ascending"), ("request_id", "ascending")])
        rows = asked.select(["request_id", "user_id"]).to_pylist()
        timed = [row["request_id"] for row in rows if row["user_id"]]
        graded = [row["request_id"] for row in rows if not row["user_id"]]
        cut = round(len(timed) * (1 - share))
        drawn = (name for name in graded if id_hash(name) / 2**64 < share)
        held = validating(work).intersection(graded) or frozenset(drawn)
        valid = sorted([*held, *timed[cut:]], key=id_hash)[: max(MOST_VALID // keep, FEW_VALID)]
        learned, early = [name for name in graded if name not in held], timed[:cut]
        if useful is not None:
            learned, early, valid = (
                [name for name in names if name in useful] for names in (learned, early, valid)
            )
        kinds = len(learned) / max(len(learned) + len(early), 1)
        return Parted(frozenset([*learned, *early]), frozenset(valid), kinds)

    @staticmethod
    def of(work: Work, scene: str) -> Parted:
        """Of a scene's samples, those with a positive candidate. Told without reading them."""
        path = work.samples / scene
        labels = ds.dataset(path / "candidates")
        found = labels.to_table(columns=["request_id"], filter=ds.field("label") > 0)
        useful = frozenset(pc.unique(found.column("request_id")).to_pylist())
        asked = ds.dataset(path / "requests").to_table(columns=["request_id", "user_id", "at"])
        return Parted.among(work, scene, asked, useful)


def streamed(work: Work, scene: str, parted: Parted) -> Iterator[tuple[list[Logged], list[Logged]]]:
    """Some requests at a time: to train on, and to validate on."""
    for entries in stream(work.samples / scene):
        train = [entry for entry in entries if entry.query.request_id in parted.train]
        valid = [entry for entry in entries if entry.query.request_id in parted.valid]
        if train or valid:
            yield train, valid


def lacking(train: Sized, valid: Sized) -> str:
    """Why there is not enough to learn from; empty where there is."""
    if len(train) + len(valid) < ENOUGH:
        return f"{len(train) + len(valid)} requests with a positive candidate, {ENOUGH} are needed"
    if not len(train) or not len(valid):
        return "no request is left for validation or for training"
    return ""


def compared(judged: Judged, values: Mapping[str, Array]) -> dict[str, Any]:
    """Weighted mean nDCG@10 of every order (name -> (R,) values), and what the last gains over the
    one before it, with a 95 % interval over requests."""
    weighed = {name: value * judged.weights for name, value in values.items()}
    last, before = list(weighed.values())[-1], list(weighed.values())[-2]
    return {
        "nDCG@10": {name: round(float(value.mean()), 4) for name, value in weighed.items()},
        "gain": interval(last - before),
    }


def interval(values: Array) -> dict[str, float]:
    """The mean of requests' values, with its 95 % interval."""
    low, high = bootstrap_interval(values)
    named = {"mean": float(values.mean()), "low": low, "high": high}
    return {name: round(value, 4) for name, value in named.items()}
