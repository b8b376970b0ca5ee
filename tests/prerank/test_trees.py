"""The trees without LightGBM against LightGBM, bit for bit."""

from __future__ import annotations

import lightgbm as lgb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prerank.trees import _below, flattened


def grown(seed: int, **own: object) -> tuple[lgb.Booster, np.ndarray]:
    draw = np.random.default_rng(seed)
    matrix = draw.standard_normal((800, 7)).astype(np.float32)
    matrix[:, 2] = np.round(matrix[:, 2])  # ties, and thresholds that rows lie on
    matrix[draw.random(matrix.shape) < 0.1] = np.nan
    matrix[:, 5] = np.nan_to_num(matrix[:, 5])  # a column that training never misses
    labels = (np.nan_to_num(matrix[:, :4]).sum(1) + draw.standard_normal(800) > 0).astype(int)
    params = {"objective": "binary", "verbosity": -1, "num_threads": 1, "min_data_in_leaf": 3}
    booster = lgb.train(params | own, lgb.Dataset(matrix, labels), 20)
    return booster, matrix


def same(booster: lgb.Booster, matrix: np.ndarray) -> None:
    trees = flattened(booster)
    assert trees is not None
    expected = booster.predict(matrix, raw_score=True, num_threads=1)
    np.testing.assert_array_equal(trees.score(matrix), expected)


@pytest.mark.parametrize("leaves", [2, 31, 32, 33, 64])
@pytest.mark.parametrize("rows", [1, 63, 64, 65, 800])
def test_scores_are_those_of_lightgbm(leaves: int, rows: int) -> None:
    booster, matrix = grown(leaves, num_leaves=leaves)
    same(booster, matrix[:rows])


def test_what_training_never_saw_is_scored_alike() -> None:
    booster, matrix = grown(1)
    odd = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, 3.4e38, -3.4e38], np.float32)
    draw = np.random.default_rng(2)
    same(booster, odd[draw.integers(len(odd), size=(500, matrix.shape[1]))])
    same(booster, np.full((1, matrix.shape[1]), np.nan, np.float32))


def test_other_objectives_and_a_model_without_a_split(tmp_path: object) -> None:
    booster, matrix = grown(3, objective="regression_l1")
    same(booster, matrix)
    flat, _ = grown(4, min_data_in_leaf=700)
    same(flat, matrix)


def test_trees_that_are_too_wide_or_of_another_kind_are_left_to_lightgbm() -> None:
    wide, _ = grown(5, num_leaves=200)
    assert flattened(wide) is None
    codes = np.random.default_rng(6).integers(0, 30, (500, 1)).astype(np.float32)
    data = lgb.Dataset(codes, codes[:, 0] % 3 == 0, categorical_feature=[0])
    params = {"objective": "binary", "verbosity": -1, "min_data_in_leaf": 3, "num_threads": 1}
    assert flattened(lgb.train(params, data, 5)) is None
    zero, _ = grown(7, zero_as_missing=True)
    assert flattened(zero) is None


def test_rows_of_the_wrong_width_are_refused() -> None:
    trees = flattened(grown(8)[0])
    assert trees is not None
    with pytest.raises(ValueError, match="7 columns"):
        trees.score(np.zeros((2, 6), np.float32))


@settings(deadline=None)
@given(st.floats(allow_nan=False), st.floats(allow_nan=False, width=32))
def test_a_float32_is_below_the_one_threshold_exactly_if_below_the_other(
    threshold: float, value: float
) -> None:
    with np.errstate(over="ignore"):
        assert (np.float32(value) <= _below(threshold)) == (value <= threshold)
