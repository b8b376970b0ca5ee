"""
How good the pages are: on graded queries, and on what users did after the generation's cut.

Every stage's order is measured on the same requests (`funnel/cases.py`): recall's, prerank's,
rank's and the page's, each followed by what the stage before had left, so that one list gives
nDCG@10, recall@100 and GAUC: how well it tells what is relevant from the rest of what recall found.
AUC asks the same of all requests together: whether scores of one request mean the same in another.
Several requests of a user are one measurement, their mean: what a user is like is in all of them,
so intervals are over users.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from funnel.cases import Case, askers, requests
from funnel.catalogue import Catalogue
from funnel.config import STAGES, Config
from funnel.errors import BadData
from funnel.generation import Generation
from funnel.metrics import auc_values, bootstrap_interval, mrr_at_k, ndcg_at_k, recall_at_k
from funnel.passages import PARENT, representatives
from funnel.pipeline import Pipeline
from funnel.stage import Hydrator, Stage
from funnel.types import Array, Candidates, Query, Rows

DEPTH = 100
FIRST = 20  # of rank's own order: what prerank should not have lost
FAITHFUL = 200  # requests of a scene that this is measured on


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean over the users (or queries) with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Report:
    """What `funnel evaluate` prints for one scene.

    `orders`: ordering -> metric -> figure. `survival`: stage -> share of the relevant items that
    are still there after it. `fidelity`: share of what rank would put first among all recalled
    candidates that prerank lets through; None without a rank model. `values`: ordering -> metric
    -> one value a user (or query), for comparisons.
    """

    scene: str
    kind: str  # graded queries or held-out events
    requests: int
    users: int  # whose they are; a request without a user counts as one
    orders: Mapping[str, Mapping[str, Figure]]
    survival: Mapping[str, float]
    coverage: float
    fidelity: float | None = None
    values: Mapping[str, Mapping[str, Array]] = field(default_factory=dict, repr=False)


def evaluate(
    generation: Generation,
    config: Config,
    data: Path,
    pipelines: Callable[[Hydrator | None], Mapping[str, Pipeline]],
    ranked: Callable[[Hydrator | None], Mapping[str, Stage]],
    scenes: Sequence[str],
    most: int = 1000,
    progress: Callable[[str, int, int], None] = lambda scene, done, total: None,
    per_user: int = 1,
) -> list[Report]:
    """One report a scene that the data set can measure, on at most `most` requests, `per_user` of
    one user.

    `pipelines(counters)` gives the funnels that read those item counters (`None`: those of the
    generation's cut), `ranked(counters)` the scenes' prerank and rank together, cutting nothing
    between. Raises `BadData` where there is neither a graded query nor a held-out event.
    """
    reports = [
        report
        for scene in scenes
        if (
            report := _scene(
                generation, config, data, pipelines, scene, most, progress, ranked, per_user
            )
        )
    ]
    if not reports:
        raise BadData(
            f"{data} has nothing to evaluate on: no graded test query, and no positive event at or "
            f"after {generation.manifest.until}, the cut of generation {generation.id}"
        )
    return reports


def _scene(
    generation: Generation,
    config: Config,
    data: Path,
    pipelines: Callable[[Hydrator | None], Mapping[str, Pipeline]],
    scene: str,
    most: int,
    progress: Callable[[str, int, int], None],
    ranked: Callable[[Hydrator | None], Mapping[str, Stage]],
    per_user: int,
) -> Report | None:
    measured: list[tuple[Case, dict[str, Candidates]]] = []
    kept: list[float] = []

    def measure(case: Case, funnel: Pipeline, whole: Stage | None) -> None:
        left = funnel.trail(case.query)
        measured.append((case, left))
        if whole is not None:
            let_through(kept, whole, case.query, left["recall"], left["prerank"])

    asked = requests(generation, config, data, scene, most, per_user)
    funnel = whole = None
    for counters, case in asked.cases:
        if funnel is None:
            funnel, whole = pipelines(counters)[scene], ranked(counters).get(scene)
        measure(case, funnel, whole)
        progress(scene, len(measured), asked.most)
    if not measured:
        return None
    found = report(generation, scene, asked.kind, measured)
    return replace(found, fidelity=float(np.mean(kept)) if kept else None)


def let_through(
    kept: list[float], whole: Stage, query: Query, found: Candidates, near: Candidates
) -> None:
    """Adds the share of what rank would put first among all that recall `found` that prerank let
    through (`near`); `whole` is what `funnel.pipeline.ranked` gives. Of the first requests only."""
    if len(kept) < FAITHFUL and len(found):
        first = whole.run(query, found).rows[:FIRST]
        kept.append(float(np.isin(first, near.rows).mean()))


def report(
    generation: Generation,
    scene: str,
    kind: str,
    measured: Sequence[tuple[Case, Mapping[str, Candidates]]],
) -> Report:
    """The figures of one scene from its cases and what left every stage. A document counts once,
    whichever of its passages was found or judged."""
    popular = _popular(generation)
    if generation.items.has("codes", PARENT):
        measured = [_documents(case, left, generation.items) for case, left in measured]
        whole = representatives(popular, generation.items)
        popular = whole[np.sort(np.unique(whole, return_index=True)[1])]
    lists: dict[str, list[Rows]] = {}  # whole
    survived: dict[str, list[float]] = {name: [] for name in STAGES}
    shown: set[int] = set()
    for case, left in measured:
        for name, rows in orders(left).items():
            lists.setdefault(name, []).append(rows)
        allowed = popular[~np.isin(popular, case.query.excluded)]
        lists.setdefault("popularity", []).append(allowed)
        for name in STAGES:
            survived[name].append(float(np.isin(case.rows, left[name].rows).mean()))
        shown.update(left["rerank"].rows[:10].tolist())
    owners = askers([case for case, _ in measured])
    values: dict[str, dict[str, Array]] = {}
    for name, ranked in lists.items():
        pairs = list(zip(ranked, measured, strict=True))
        gains = [_gains(rows[:DEPTH], case) for rows, (case, _) in pairs]
        ideal = [np.asarray(case.grades, np.float64) for case, _ in measured]
        apart = [told_apart(rows, left["recall"].rows, case.rows) for rows, (case, left) in pairs]
        own = {metric: of_users(v, owners) for metric, v in _metrics(gains, ideal).items()}
        together = told_apart_together(measured, name, owners)
        values[name] = {**own, "AUC": together, "GAUC": of_users(np.array(apart), owners)}
    figures = {
        name: {metric: _figure(v[~np.isnan(v)]) for metric, v in of.items()}
        for name, of in values.items()
    }
    return Report(
        scene,
        kind,
        len(measured),
        int(owners.max()) + 1,
        figures,
        {name: float(np.mean(shares)) for name, shares in survived.items()},
        len(shown) / max(len(generation.items), 1),
        values=values,
    )


def of_users(values: Array, owners: Array) -> Array:
    """The means of each user's values (R,), of those that are not NaN."""
    known = ~np.isnan(values)
    count = int(owners.max()) + 1
    sums = np.bincount(owners[known], values[known], count)
    many = np.bincount(owners[known], minlength=count)
    means: Array = np.divide(sums, many, out=np.full(count, np.nan), where=many > 0)
    return means


def _figure(values: Array) -> Figure:
    if not len(values):
        return Figure(np.nan, np.nan, np.nan)
    return Figure(float(values.mean()), *bootstrap_interval(values))


def told_apart(ranked: Rows, recalled: Rows, relevant: Rows) -> float:
    """How many pairs of a relevant and another recalled item are in the right order; what the order
    does not list ties at its end. NaN where recall found nothing relevant, or nothing else."""
    recalled = np.unique(recalled)
    wanted = np.isin(recalled, relevant)
    ones, others = int(wanted.sum()), int((~wanted).sum())
    if not ones or not others:
        return float("nan")
    by_row = np.argsort(ranked, kind="stable")
    known = np.append(ranked[by_row], -1)  # an end for what comes after all of them
    at = np.searchsorted(known[:-1], recalled)
    places = np.append(by_row, 0)[at]
    places = np.where(known[at] == recalled, places, len(ranked))
    rest = np.sort(places[~wanted])
    behind = others - np.searchsorted(rest, places[wanted], "right")
    tied = others - behind - np.searchsorted(rest, places[wanted], "left")
    return float((behind + 0.5 * tied).sum() / (ones * others))


def told_apart_together(
    measured: Sequence[tuple[Case, Mapping[str, Candidates]]], name: str, users: Array
) -> Array:
    """One value a user (`users` (R,) says whose each request is), their mean the AUC of an order's
    scores over what was recalled in all requests together: what a stage kept stands above what it
    cut, which has its score of before. NaN for orders without scores, the page's and that by
    popularity."""
    if name in ("page", "popularity"):
        return np.full(int(users.max()) + 1, np.nan)
    recalled = [np.unique(left["recall"].rows) for _, left in measured]
    wanted = [np.isin(rows, case.rows) for rows, (case, _) in zip(recalled, measured, strict=True)]
    known = [_scored(rows, left, name) for rows, (_, left) in zip(recalled, measured, strict=True)]
    scores = np.concatenate(known, axis=1)
    order = np.lexsort(scores)
    ordered = scores[:, order]
    above = (ordered[:, 1:] != ordered[:, :-1]).any(axis=0)
    place = np.zeros(len(order), np.int64)
    place[order[1:]] = np.cumsum(above)
    owners = np.repeat(users, [len(rows) for rows in recalled])
    return auc_values(np.concatenate(wanted), place, owners, int(users.max()) + 1)


def _scored(recalled: Rows, left: Mapping[str, Candidates], name: str) -> Array:
    """(2, N) of each recalled item the score and, above it, how many stages have kept it."""
    found = np.stack([np.full(len(recalled), -np.inf), np.zeros(len(recalled))])
    if name in STAGES:
        stages = [left[stage] for stage in STAGES[: STAGES.index(name) + 1]]
        lists = [(one.rows, np.where(np.isnan(one.scores), -np.inf, one.scores)) for one in stages]
    else:  # a channel's own
        column = left["recall"].columns.get(name, np.empty(0))
        here = np.flatnonzero(np.isfinite(column))
        lists = [(left["recall"].rows[here], column[here])]
    for kept, (rows, scores) in enumerate(lists, 1):
        by_row = np.lexsort((scores, rows))  # of several passages the best
        own, last = np.unique(rows[by_row][::-1], return_index=True)
        at = np.searchsorted(recalled, own)
        found[:, at] = scores[by_row][::-1][last], np.full(len(own), kept)
    return found


def _documents(
    case: Case, left: Mapping[str, Candidates], items: Catalogue
) -> tuple[Case, Mapping[str, Candidates]]:
    """With every passage's row as that of its document; of several grades the highest."""
    order = np.lexsort((-np.asarray(case.grades), rows := representatives(case.rows, items)))
    wanted, first = np.unique(rows[order], return_index=True)
    graded = replace(case, rows=wanted.astype(np.int32), grades=case.grades[order][first])
    return graded, {
        name: replace(candidates, rows=representatives(candidates.rows, items))
        for name, candidates in left.items()
    }


def orders(left: Mapping[str, Candidates]) -> dict[str, Rows]:
    """Each stage's whole list: its own order, then what the stages before had kept."""
    lists: dict[str, Rows] = {}
    before = np.empty(0, np.int32)
    for name in STAGES:
        rows = left[name].rows
        rest = before[~np.isin(before, rows)]
        lists["page" if name == "rerank" else name] = before = np.concatenate([rows, rest])
    for name, column in left["recall"].columns.items():
        if name.startswith("recall."):
            found = left["recall"].take(np.flatnonzero(np.isfinite(column)))
            own = np.lexsort((found.rows, -found.columns[name]))
            lists[name] = found.rows[own]
    return lists


def _popular(generation: Generation) -> Rows:
    if not generation.has("popular"):
        return np.empty(0, np.int32)
    return np.asarray(generation.array("popular/rows"), np.int32)


def _gains(rows: Rows, case: Case) -> Array:
    """The grade of each listed row, 0 where it is not relevant."""
    order = np.argsort(case.rows, kind="stable")
    known, grades = case.rows[order], case.grades[order]
    place = np.minimum(np.searchsorted(known, rows), len(known) - 1)
    return np.where(known[place] == rows, grades[place], 0.0)


def _metrics(gains: Sequence[Array], ideal: Sequence[Array]) -> dict[str, Array]:
    pairs = list(zip(gains, ideal, strict=True))
    return {
        "nDCG@10": np.array([ndcg_at_k(g, i, 10) for g, i in pairs]),
        "Recall@100": np.array([recall_at_k(g, i, 100) for g, i in pairs]),
        "MRR": np.array([mrr_at_k(g, 100) for g, _ in pairs]),
        "HR@10": np.array([float((g[:10] > 0).any()) for g, _ in pairs]),
    }
