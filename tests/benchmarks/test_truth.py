"""What a simulated world says of orders, against the formulas written item by item."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.truth import TRUE, truly
from funnel.types import Query
from funnel.world_truth import GOES_ON, World

USER, AT = 12, 1_766_000_000_000


@pytest.fixture(scope="module")
def world() -> World:
    return World("small", seed=3)


@pytest.fixture(scope="module")
def found(world: World) -> np.ndarray:
    """Fifty products that can be bought, no two of them the same."""
    rows = np.random.default_rng(0).permutation(world.config.items)
    rows = rows[world.on_sale(rows, np.int64(AT))]
    _, first = np.unique(world.items.base[rows], return_index=True)
    return rows[np.sort(first)][:50].astype(np.int32)


def asked(**settings: object) -> Query:
    return Query(
        **{"request_id": "r", "scene": "home", "user_id": f"u{USER:03}", "at": AT} | settings
    )


def test_orders_are_judged_by_the_formulas(world: World, found: np.ndarray) -> None:
    chance = dict(zip(found, world.utility(np.array([USER]), found[None], AT)[0], strict=True))
    best = np.array(sorted(found, key=lambda row: -chance[row]), np.int32)
    judged = truly(world, asked(), found, {"recall": found, "rank": best})

    def dcg(rows: np.ndarray) -> float:
        return sum(chance[row] / np.log2(place + 2) for place, row in enumerate(rows[:10]))

    for name, rows in (("recall", found), ("rank", best)):
        assert judged[name]["true nDCG@10"] == pytest.approx(dcg(rows) / dcg(best))
        looked, clicks = 1.0, 0.0
        for row in rows[:10]:
            clicks += looked * chance[row]
            looked *= chance[row] * GOES_ON[1] + (1 - chance[row]) * GOES_ON[0]
        assert judged[name]["clicks"] == pytest.approx(clicks, rel=1e-5)
    assert judged["rank"]["true nDCG@10"] == pytest.approx(1)
    assert judged["rank"]["clicks"] > judged["recall"]["clicks"]


@pytest.mark.parametrize("settings", [{"text": "red lamp"}, {"user_id": ""}])
def test_what_was_typed_or_asked_by_nobody_is_not_judged(
    world: World, found: np.ndarray, settings: dict[str, str]
) -> None:
    judged = truly(world, asked(**settings), found, {"rank": found})
    assert all(np.isnan(judged["rank"][metric]) for metric in TRUE)
