"""
Gradient-boosted decision trees over the assembled features: LightGBM.
Ke et al., 2017, "LightGBM: a highly efficient gradient boosting decision tree"; the lambdarank
objective is Burges 2010, "From RankNet to LambdaRank to LambdaMART".

The sum may begin with recall's order instead of nothing, so that the trees learn only where it is
wrong (`start_of`): with few requests that is most of what there is to know.

R requests, N candidates of all of them together, F features
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from features.assemble import Assembler
from funnel.choice import likeliest
from funnel.config import Config, Prerank
from funnel.errors import BadGeneration
from funnel.generation import Generation
from funnel.types import Candidates, Floats, Query
from prerank.trees import flattened

PATIENCE = 40  # trees without an improvement on validation
STOP_AT = 100  # nDCG that validation watches; at 10, so few candidates decide that luck stops early
THREADS = 1  # of a model: threads that wait for each other are slow on a busy machine
AT = 10  # the cut-off of the nDCG that pages are judged by
BEGINS = "recall"  # the column that the sum may begin with
# Of the likeliest scale. Of 0.5, 1 and 2, five folds of four data sets liked this most: at 1 the
# first trees find little to do where recall is sure of itself.
SHY = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Requests as one table, each request's candidates beside each other."""

    matrix: Floats  # (N, F), NaN where missing
    labels: Floats  # (N,) 0 for nothing, higher for more
    sizes: NDArray[np.int64]  # (R,) candidates of a request
    weights: Floats  # (R,) how much a request counts
    boosts: Floats | None = None  # (N,) how much each candidate counts beside
    stands_for: Floats | None = None  # (N,) how many candidates each is a sample of
    begins: Floats | None = None  # (N,) what the sum of the trees is added to


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """Trees, and what their sum is added to: `start` times recall's column."""

    booster: lgb.Booster
    names: Sequence[str]  # of the columns
    start: float = 0.0

    def predict(self, matrix: Floats) -> Floats:
        """(n,) scores of the rows of an (n, F) matrix."""
        return (predict(self.booster, matrix) + self.begins(matrix)).astype(np.float32)

    def begins(self, matrix: Floats) -> Floats:
        """(n,) what the trees are added to."""
        return begun(matrix, self.names, self.start)


def begun(matrix: Floats, names: Sequence[str], start: float) -> Floats:
    """(n,) `start` times recall's column; 0 where recall said nothing."""
    if not start:
        return np.zeros(len(matrix), np.float32)
    return np.float32(start) * np.nan_to_num(matrix[:, names.index(BEGINS)], nan=0.0)


def start_of(table: Table, names: Sequence[str]) -> float:
    """What to multiply recall's column by for the trees to begin with: `SHY` times what makes what
    was wanted likeliest, as the softmax over each request's candidates. 0 without such a column."""
    if BEGINS not in names:
        return 0.0
    values = begun(table.matrix, names, 1.0)
    columns = values[:, None]
    (scale,) = likeliest(columns, table.labels, table.sizes, table.weights, table.stands_for)
    return SHY * float(scale)


class GBDT:
    """A `Scorer`: the raw sum of the trees and of what it begins with, one thread a request.

    Trees that prerank/trees.py cannot read are summed by LightGBM itself.
    """

    def __init__(self, booster: lgb.Booster, assembler: Assembler, start: float = 0.0):
        self.booster, self.assembler, self.start = booster, assembler, start
        self.trees = flattened(booster)
        self.sums(np.zeros((1, booster.num_feature()), np.float32))  # loads the kernel

    @staticmethod
    def open(generation: Generation, config: Config, scene: str) -> GBDT:
        """The scene's model. Raises `BadGeneration` where it is missing, broken, or was trained
        on other features than the generation declares."""
        meta = generation.json(f"prerank/{scene}/meta.json")
        assembler = Assembler(generation, config, scene)
        path = generation.file(f"prerank/{scene}/model.txt")
        check(path, meta, assembler)
        try:
            booster = lgb.Booster(model_file=str(path))
        except lgb.basic.LightGBMError as error:
            raise BadGeneration(f"{path} is not a model: {error}; build again") from error
        if booster.num_feature() != len(assembler.names):
            raise BadGeneration(
                f"{path} takes {booster.num_feature()} features, the generation has "
                f"{len(assembler.names)}: build the generation again"
            )
        return GBDT(booster, assembler, float(meta.get("start", 0.0)))

    def score(self, query: Query, candidates: Candidates) -> Floats:
        return self.sums(self.assembler.matrix(query, candidates))

    def sums(self, matrix: Floats) -> Floats:
        """(n,) raw scores of the rows of an (n, F) matrix."""
        begins = begun(matrix, self.assembler.names, self.start)
        if self.trees is None:
            return (predict(self.booster, matrix) + begins).astype(np.float32)
        return (self.trees.score(matrix) + begins).astype(np.float32)


def usable(generation: Generation, scene: str, model: str) -> bool:
    """Whether the scene's model is to be used; `model` is auto, on or off.

    Raises `BadGeneration` for `on` without a model.
    """
    name = f"prerank/{scene}/meta.json"
    there = generation.has(name) and generation.has(f"prerank/{scene}/model.txt")
    if model == "on" and not there:
        raise BadGeneration(
            f"{generation.path} has no prerank model for scene '{scene}', and the config says "
            f'scenes.{scene}.prerank.model = "on": set it to "auto", or build with more events'
        )
    return model != "off" and there and (model == "on" or bool(generation.json(name)["on"]))


def check(path: Path, meta: dict[str, Any], assembler: Assembler) -> None:
    """Raises `BadGeneration` where the model at `path` was trained on other features."""
    trained = tuple(meta.get("features", ()))
    if trained != tuple(assembler.names) or meta.get("spec") != assembler.spec.hash:
        differ = sorted(set(trained) ^ set(assembler.names))
        raise BadGeneration(
            f"{path} was trained on other features than the generation declares "
            f"({', '.join(differ[:5]) or 'their order or formulas differ'}): "
            "build the generation again"
        )


def predict(booster: lgb.Booster, matrix: Floats) -> Floats:
    """(n,) raw scores of the rows of an (n, F) matrix, by LightGBM."""
    if not len(matrix):
        return np.empty(0, np.float32)
    return np.asarray(booster.predict(matrix, raw_score=True, num_threads=1), np.float32)


def fit(
    train: Table,
    valid: Table | None,
    settings: Prerank,
    seed: int,
    progress: Callable[[int, int], None] = lambda tree, most: None,
) -> lgb.Booster:
    """Trees fitted on `train`; with `valid`, only as many as it is best with.

    The same tables, settings and seed give the same model text. `progress(tree, most)` is called
    after every tree.
    """
    levels = np.unique(np.concatenate([train.labels, valid.labels if valid else train.labels]))
    params = parameters(settings, levels, seed, len(train.labels))
    data = dataset(train, settings, levels, params)
    watched = [dataset(valid, settings, levels, params, data)] if valid else []
    calls: list[Callable[..., None]] = [lambda env: progress(env.iteration + 1, settings.trees)]
    if watched:
        calls.append(lgb.early_stopping(PATIENCE, verbose=False))
    booster = lgb.train(params, data, settings.trees, valid_sets=watched, callbacks=calls)
    best = booster.best_iteration if watched else booster.current_iteration()
    # Reading it back drops the training data and the trees after the best.
    return lgb.Booster(model_str=booster.model_to_string(num_iteration=best))


def taught(
    matrix: Floats,
    targets: Floats,
    valid: Floats,
    wanted: Floats,
    settings: Prerank,
    seed: int,
) -> lgb.Booster:
    """Trees whose sum is near `targets` (N,), as many as are best for `wanted` of `valid`."""
    params = parameters(settings, np.zeros(1, np.float32), seed, len(targets))
    ranking = ("label_gain", "lambdarank_truncation_level", "eval_at")
    params = {name: value for name, value in params.items() if name not in ranking}
    params |= {"objective": "regression", "metric": "l2"}
    data = lgb.Dataset(matrix, targets, params=params)
    watched = lgb.Dataset(valid, wanted, reference=data, params=params)
    stop = lgb.early_stopping(PATIENCE, verbose=False)
    booster = lgb.train(params, data, settings.trees, valid_sets=[watched], callbacks=[stop])
    return lgb.Booster(model_str=booster.model_to_string(num_iteration=booster.best_iteration))


def parameters(settings: Prerank, levels: Floats, seed: int, rows: int) -> dict[str, Any]:
    """LightGBM's settings; `levels` are the distinct labels, rising, from 0."""
    params: dict[str, Any] = {
        "objective": "binary" if settings.objective == "binary" else "lambdarank",
        "learning_rate": settings.learning_rate,
        "num_leaves": settings.leaves,
        "min_data_in_leaf": int(np.clip(rows // 2000, 5, 100)),
        "lambda_l2": 1.0,
        "feature_fraction": 0.8,
        "max_bin": 127,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": THREADS,
        "verbosity": -1,
    }
    if settings.objective != "binary":
        # The gains of the metric that decides: 2^label - 1, of labels that need not be whole.
        gains = np.exp2(levels.astype(np.float64)) - 1
        params |= {"metric": "ndcg", "eval_at": [STOP_AT], "label_gain": gains.tolist()}
        params |= {"lambdarank_truncation_level": 2 * AT}
    else:
        params |= {"metric": "binary_logloss"}
    return params


def dataset(
    table: Table,
    settings: Prerank,
    levels: Floats,
    params: dict[str, Any],
    reference: lgb.Dataset | None = None,
) -> lgb.Dataset:
    """Labels as their place among `levels` for lambdarank, as 0/1 for binary."""
    ranked = settings.objective != "binary"
    labels = np.searchsorted(levels, table.labels) if ranked else table.labels > 0
    weight = np.repeat(table.weights, table.sizes)
    for own in (table.boosts, table.stands_for):
        weight = weight if own is None else weight * own
    return lgb.Dataset(
        table.matrix,
        label=labels.astype(np.float32),
        weight=weight,
        group=table.sizes if ranked else None,
        init_score=table.begins,
        reference=reference,
        params=params,
        free_raw_data=True,
    )


def contributions(
    booster: lgb.Booster, matrix: Floats, names: Sequence[str], rows: int = 5000, seed: int = 0
) -> dict[str, float]:
    """Each feature's mean absolute SHAP value over at most `rows` rows drawn from the matrix, the
    largest first: by how much it moves a score. Lundberg et al. 2020, "From local explanations to
    global understanding with explainable AI for trees"."""
    if not len(matrix):
        return {}
    chosen = np.sort(np.random.default_rng(seed).permutation(len(matrix))[:rows])
    values = np.asarray(booster.predict(matrix[chosen], pred_contrib=True, num_threads=1))
    means = np.abs(values[:, : len(names)]).mean(axis=0)
    order = np.argsort(-means, kind="stable")
    return {names[place]: round(float(means[place]), 6) for place in order if means[place] > 0}


def importance(booster: lgb.Booster, names: Sequence[str]) -> dict[str, float]:
    """Each feature's share of the gain of all splits, the largest first."""
    gains = booster.feature_importance("gain")
    shares = gains / max(float(gains.sum()), 1e-12)
    order = np.argsort(-shares, kind="stable")
    return {names[place]: round(float(shares[place]), 6) for place in order if shares[place] > 0}
