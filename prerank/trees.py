"""
LightGBM's trees without LightGBM: the same sums, many times faster.

Every node of a tree is looked at for a whole block of rows at once, no row walks anywhere: a row
that goes right at a node strikes out the leaves on its left, and of the leaves that remain the
first is the row's (Lucchese et al. 2015, QuickScorer, https://doi.org/10.1145/2766462.2767733; by
blocks of rows Lucchese et al. 2016, https://doi.org/10.1145/2911451.2914758). A tree is thus a
bit mask a node, and a block one vector instruction after the other, without a branch.

Scores are those of `Booster.predict(raw_score=True)` bit for bit: values are compared as float32
with the largest float32 that is not above LightGBM's threshold, and leaves are added in the same
order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightgbm as lgb
import numba
import numpy as np
from numpy.typing import NDArray

from funnel.types import Floats

MOST_LEAVES = 64  # bits of the widest mask
BLOCK = 64  # rows
ALL = np.iinfo(np.uint64).max


@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """T trees with N nodes and V leaves in all.

    The nodes of a tree where a missing value goes left come before those where it goes right.
    """

    thresholds: Floats  # (N,)
    features: NDArray[np.int32]  # (N,) columns
    masks: NDArray[Any]  # (N,) uint32 or uint64: the leaves that are left after going right
    bounds: NDArray[np.int32]  # (T, 3) where a tree's nodes begin, those that miss right, their end
    leaves: NDArray[np.float64]  # (V,) a tree's beside each other, from left to right
    starts: NDArray[np.int32]  # (T,)
    width: int  # columns that the trees look at

    def score(self, matrix: Floats) -> NDArray[np.float64]:
        """(n,) sums of the trees for an (n, F) matrix, NaN where missing. Releases the GIL."""
        if matrix.ndim != 2 or matrix.shape[1] < self.width:
            raise ValueError(f"a matrix of shape {matrix.shape} for {self.width} columns")
        out = np.zeros(len(matrix))
        _score(
            np.ascontiguousarray(matrix, np.float32),
            self.thresholds,
            self.features,
            self.masks,
            self.bounds,
            self.leaves,
            self.starts,
            np.full(1, ALL).astype(self.masks.dtype),
            out,
        )
        return out


def flattened(booster: lgb.Booster) -> Trees | None:
    """The booster's trees; None where they have what is not read here: more than 64 leaves,
    categorical or linear nodes, zero as missing, several classes, averages of trees."""
    model = booster.dump_model()
    if model["num_tree_per_iteration"] != 1 or model.get("average_output"):
        return None
    made = [_tree(tree) for tree in model["tree_info"]]
    trees = [tree for tree in made if tree is not None]
    if len(trees) < len(made):
        return None
    most = max((len(leaves) for _, leaves in trees), default=0)
    if most > MOST_LEAVES:
        return None
    kind = np.uint32 if most <= 32 else np.uint64
    nodes = [node for own, _ in trees for node in own]
    sizes = np.cumsum([0, *(len(own) for own, _ in trees)])
    right = [sum(not node.right for node in own) for own, _ in trees]
    bounds = np.stack([sizes[:-1], sizes[:-1] + np.array(right, int), sizes[1:]], axis=1)
    counts = [len(leaves) for _, leaves in trees]
    return Trees(
        np.array([node.threshold for node in nodes], np.float32),
        np.array([node.feature for node in nodes], np.int32),
        np.array([node.mask for node in nodes], np.uint64).astype(kind),
        bounds.astype(np.int32).reshape(-1, 3),
        np.array([value for _, leaves in trees for value in leaves], np.float64),
        np.cumsum([0, *counts])[:-1].astype(np.int32),
        booster.num_feature(),
    )


@dataclass(frozen=True, slots=True)
class _Node:
    threshold: np.float32
    feature: int
    mask: int
    right: bool  # where a missing value goes


def _tree(tree: dict[str, Any]) -> tuple[list[_Node], list[float]] | None:
    """Nodes, those that miss left first, and leaves from left to right."""
    nodes: list[_Node] = []
    leaves: list[float] = []

    def walk(node: dict[str, Any]) -> tuple[int, int] | None:
        """The leaves below, [first, last)."""
        if "split_feature" not in node:
            if "leaf_coeff" in node:  # a linear model
                return None
            leaves.append(float(node["leaf_value"]))
            return len(leaves) - 1, len(leaves)
        if node["decision_type"] != "<=" or node["missing_type"] not in ("None", "NaN"):
            return None
        left = walk(node["left_child"])
        right = walk(node["right_child"]) if left else None
        if left is None or right is None:
            return None
        threshold = float(node["threshold"])
        # Where training saw no missing value, one counts as zero.
        missing = threshold < 0.0 if node["missing_type"] == "None" else not node["default_left"]
        struck = ((1 << (left[1] - left[0])) - 1) << left[0]
        mask = int(ALL) & ~struck
        nodes.append(_Node(_below(threshold), int(node["split_feature"]), mask, bool(missing)))
        return left[0], right[1]

    if walk(tree["tree_structure"]) is None:
        return None
    return sorted(nodes, key=lambda node: node.right), leaves


def _below(threshold: float) -> np.float32:
    """The largest float32 that is not above: a float32 is <= the one exactly if <= the other."""
    largest = np.finfo(np.float32).max
    if threshold >= float(largest):
        return np.float32(np.inf) if np.isposinf(threshold) else largest
    if threshold < -float(largest):
        return np.float32(-np.inf)
    near = np.float32(threshold)
    return near if float(near) <= threshold else np.nextafter(near, np.float32(-np.inf))


@numba.njit(nogil=True, cache=True, inline="always")
def _first(bits):  # type: ignore[no-untyped-def]  # pragma: no cover
    """The place of the lowest bit that is set."""
    x = np.uint64(bits)
    low = (x & (~x + np.uint64(1))) - np.uint64(1)
    low = low - ((low >> np.uint64(1)) & np.uint64(0x5555555555555555))
    two = np.uint64(0x3333333333333333)
    low = (low & two) + ((low >> np.uint64(2)) & two)
    low = (low + (low >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((low * np.uint64(0x0101010101010101)) >> np.uint64(56))


@numba.njit(nogil=True, cache=True)
def _score(  # type: ignore[no-untyped-def]  # pragma: no cover
    matrix, thresholds, features, masks, bounds, leaves, starts, every, out
):
    n, width = matrix.shape
    columns = np.zeros((width, BLOCK), np.float32)
    left = np.empty(BLOCK, masks.dtype)
    whole = every[0]
    for first in range(0, n, BLOCK):
        count = min(BLOCK, n - first)
        for row in range(count):
            for column in range(width):
                columns[column, row] = matrix[first + row, column]
        for tree in range(len(starts)):
            for row in range(BLOCK):
                left[row] = whole
            for node in range(bounds[tree, 0], bounds[tree, 1]):
                values, threshold, mask = columns[features[node]], thresholds[node], masks[node]
                for row in range(BLOCK):
                    left[row] &= mask if values[row] > threshold else whole
            for node in range(bounds[tree, 1], bounds[tree, 2]):
                values, threshold, mask = columns[features[node]], thresholds[node], masks[node]
                for row in range(BLOCK):
                    left[row] &= whole if values[row] <= threshold else mask
            for row in range(count):
                out[first + row] += leaves[starts[tree] + _first(left[row])]
