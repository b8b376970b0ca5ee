"""
Orders judged by what a simulated world knows and no log tells: how likely the user was to click on
each item, had it been looked at.

A log rewards an order for what the old system happened to show, and so not for knowing the user: on
the busy world the order by the truth itself has less nDCG@10 on held-out events than prerank's.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from funnel.types import Array, Query, Rows
from funnel.world_truth import World

TRUE = "true nDCG@10", "clicks"
TOP = 10


def truly(
    world: World, query: Query, found: Rows, orders: Mapping[str, Rows]
) -> dict[str, dict[str, float]]:
    """Of each order of what was `found`: nDCG@10 with the chances of a click on what is looked at
    as gains, and the clicks that its first ten would get as a page, in expectation. NaN where a
    query was typed or nobody asked."""
    if query.text or not query.user_id:
        return {name: dict.fromkeys(TRUE, np.nan) for name in orders}
    user, at = np.array([int(query.user_id[1:])]), query.at  # u0012: ids are the rows of the world
    best = np.sort(world.utility(user, found[None], at)[0])[::-1]
    ideal = _dcg(best)
    judged: dict[str, dict[str, float]] = {}
    for name, rows in orders.items():
        page = rows[None, :TOP]
        dcg = _dcg(world.utility(user, page, at)[0])
        ndcg = dcg / ideal if ideal > 0 else np.nan
        clicks = float(world.value_of(user, page, at).clicks[0])
        judged[name] = dict(zip(TRUE, (ndcg, clicks), strict=True))
    return judged


def _dcg(gains: Array) -> float:
    gains = gains[:TOP]
    return float((gains / np.log2(np.arange(2, len(gains) + 2))).sum())
