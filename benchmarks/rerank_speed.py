"""
How fast rerank is: 200 candidates to a page of 20, vectors of 64 dimensions, one at a time.

Each way to spread alike items beside the same formula written plainly in NumPy, in turns, and the
whole stage: products, near-duplicate texts and vectors, DPP, a quota, ads, fatigue and chance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import numpy as np
import typer

from benchmarks import harness
from benchmarks.rank_speed import in_turns, rows_of
from funnel.config import Ads as AdSettings
from funnel.config import Fatigue as FatigueSettings
from funnel.stage import Selector
from funnel.types import Array, Candidates, Query
from rerank import Rerank
from rerank.ads import Ads
from rerank.dedup import Dedup
from rerank.dpp import DPP
from rerank.explore import Explore, PlackettLuce
from rerank.fatigue import Fatigue
from rerank.layout import Layout
from rerank.mmr import MMR
from rerank.quotas import Quota
from rerank.signatures import signatures
from rerank.spread import relevance
from rerank.ssd import SSD

DIVERSITY, WINDOW = 0.3, 10


def plain_mmr(scores: Array, vectors: Array, keep: int) -> list[int]:
    chosen: list[int] = []
    for _ in range(keep):
        values = [
            -np.inf
            if i in chosen
            else (1 - DIVERSITY) * scores[i]
            - DIVERSITY * max([0.0, *(float(vectors[i] @ vectors[j]) for j in chosen)])
            for i in range(len(scores))
        ]
        chosen.append(int(np.argmax(values)))
    return chosen


def plain_dpp(scores: Array, vectors: Array, keep: int) -> list[int]:
    alike, quality = vectors @ vectors.T, np.exp((1 - DIVERSITY) / (2 * DIVERSITY) * scores)
    kernel = quality[:, None] * alike * quality[None, :]
    chosen: list[int] = []
    for _ in range(keep):
        recent = chosen[max(len(chosen) - WINDOW + 1, 0) :]
        values = [
            -np.inf
            if i in chosen
            else float(np.linalg.slogdet(kernel[np.ix_([*recent, i], [*recent, i])])[1])
            for i in range(len(scores))
        ]
        chosen.append(int(np.argmax(values)))
    return chosen


def plain_ssd(scores: Array, vectors: Array, keep: int) -> list[int]:
    left, chosen = vectors.copy(), list[int]()
    taken: list[tuple[Array, Array]] = []
    for _ in range(keep):
        value = (1 - DIVERSITY) * scores + DIVERSITY * np.linalg.norm(left, axis=1)
        value[chosen] = -np.inf
        chosen.append(int(np.argmax(value)))
        if len(taken) == WINDOW - 1:
            axis, shares = taken.pop(0)
            left += shares[:, None] * axis
        axis = left[chosen[-1]].copy()
        shares = left @ axis / (axis @ axis)
        left -= shares[:, None] * axis
        taken.append((axis, shares))
    return chosen


def main(
    candidates: Annotated[int, typer.Option(help="candidates")] = 200,
    page: Annotated[int, typer.Option(help="items of the page")] = 20,
    width: Annotated[int, typer.Option(help="dimensions")] = 64,
    times: Annotated[int, typer.Option(help="requests of each")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """How fast rerank is."""
    draw = np.random.default_rng(7)
    vectors = draw.normal(size=(candidates, width))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = np.sort(draw.random(candidates).astype(np.float32))[::-1].copy()
    rows, query = np.arange(candidates, dtype=np.int32), Query(limit=page)
    found, own = Candidates(rows, scores), relevance(scores)
    words = [f"thing number {n} of a long list of things" for n in range(candidates)]
    signed, brands = signatures(words), draw.integers(0, 30, candidates)
    take = vectors.__getitem__
    ways: dict[str, tuple[Selector, Callable[[Array, Array, int], list[int]], int]] = {
        "MMR": (MMR(take, DIVERSITY), plain_mmr, times),
        "DPP": (DPP(take, DIVERSITY, WINDOW), plain_dpp, max(times // 10, 3)),
        "SSD": (SSD(take, DIVERSITY, WINDOW), plain_ssd, times),
    }
    shown = []
    for name, (selector, plain, turns) in ways.items():
        calls = {
            name: lambda own=selector: own.select(query, found),
            f"{name}, plainly": lambda plain=plain: plain(own, vectors, page),
        }
        shown += rows_of(in_turns(calls, turns), f"{name}, plainly", 1)
    sponsors = np.where(draw.random(candidates) < 0.2, draw.integers(0, 9, candidates), -1)
    bids = draw.random(candidates)
    stage = Rerank(
        Dedup(brands.__getitem__, signed.__getitem__, take),
        (ways["DPP"][0],),
        Layout(
            {"kind": Quota(draw.integers(0, 12, candidates).__getitem__, 2, 10)},
            Ads(sponsors.__getitem__, bids.__getitem__, AdSettings(method="dynamic")),
            Explore(PlackettLuce(0.1), 20),
        ),
        fatigue=Fatigue(FatigueSettings(keep=0.8), np.array([False, True]).__getitem__),
    )
    shown_before: dict[str, Array] = {"shown.rows": rows[:100], "shown.times": np.arange(100)}
    query = Query(limit=page, request_id="r", at=1000, live=shown_before)
    whole = {"all selectors": lambda: stage.run(query, found)}
    shown += rows_of(in_turns(whole, times), "all selectors", 1)
    for row in shown:
        row.pop("scores/s")
    harness.show("rerank_speed", f"{candidates} to {page}, {width} dimensions", shown, as_json)


if __name__ == "__main__":
    harness.run(main)
