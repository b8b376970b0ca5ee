"""The benchmark of all networks asks recall once for all of them, and says of each what
`funnel evaluate` says."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from benchmarks.rankers import Built, judged, meant
from benchmarks.truth import TRUE, truly
from funnel.cases import requests
from funnel.evaluate import evaluate
from funnel.pipeline import offline, ranked
from funnel.world import load
from rank.value import LOGIT

MOST = 40


@pytest.mark.parametrize(
    ("order", "value"), [("rank by deepfm, seed 0", ""), ("deepfm, seed 0", LOGIT)]
)
def test_it_says_of_every_order_what_an_evaluation_of_its_own_says(
    shop: Any, order: str, value: str
) -> None:
    generation = shop.generation
    # Twice the same: what one network leaves must not reach the next.
    table = shop.config.model_dump(mode="json")
    built = [Built("deepfm", generation, table, None, seed) for seed in (0, 1)]
    found = judged(built, shop.data, "home", MOST)
    networks = {f"{place}deepfm, seed {seed}" for place in ("", "rank by ") for seed in (0, 1)}
    assert found.keys() == {"recall", "prerank", *networks}
    settings = built[0].settings("home", value)
    funnels, wide = (partial(of, generation, settings) for of in (offline, ranked))
    [alone] = evaluate(generation, settings, shop.data, funnels, wide, ["home"], MOST)
    for name, own in {"recall": "recall", "prerank": "prerank", order: "rank"}.items():
        for metric, values in alone.values[own].items():
            np.testing.assert_array_equal(found[name][1][metric], values, err_msg=metric)
    if not value:
        assert found[order][0].fidelity == alone.fidelity
    for metric, values in found[order][1].items():
        again = order.replace("seed 0", "seed 1")
        np.testing.assert_array_equal(found[again][1][metric], values, err_msg=metric)


def test_seeds_of_one_network_are_meant_request_by_request() -> None:
    known = np.array([1.0, np.nan, 3.0]), np.array([2.0, np.nan, 5.0])
    orders = {
        "recall": {"GAUC": known[0]},
        **{f"rank by din, seed {seed}": {"GAUC": one} for seed, one in enumerate(known)},
        "din, seed 0": {"GAUC": known[1]},
    }
    found = meant(orders)
    assert found.keys() == {"recall", "rank by din", "din"}
    np.testing.assert_array_equal(found["rank by din"]["GAUC"], [1.5, np.nan, 4.0])
    np.testing.assert_array_equal(found["recall"]["GAUC"], known[0])


def test_the_truth_is_asked_of_the_orders_that_are_measured(shop: Any) -> None:
    built = Built("deepfm", shop.generation, shop.config.model_dump(mode="json"), None)
    found, world = judged([built], shop.data, "home", MOST), load(shop.data)
    settings = built.settings("home")
    funnel, at = None, -1
    asked = requests(shop.generation, settings, shop.data, "home", MOST)
    for at, (counters, case) in enumerate(asked.cases):
        funnel = funnel or offline(shop.generation, settings, counters)["home"]
        left = funnel.trail(case.query)
        lists = {"recall": left["recall"].rows, "rank by deepfm, seed 0": left["rank"].rows}
        for name, expected in truly(world, case.query, lists["recall"], lists).items():
            for metric in TRUE:
                assert found[name][1][metric][at] == expected[metric]
    assert at + 1 == len(found["recall"][1][TRUE[0]]) > 10
