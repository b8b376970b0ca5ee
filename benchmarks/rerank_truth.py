"""
Rerank against the truth of the simulated world: `python -m benchmarks.rerank_truth`.

Visitors of the world's end see pages that the real rerank stage makes out of 50 items, scored by a
noisy guess of their click rates; what the pages earn is the world's own expectation, and clicks are
drawn from it.

`chance`: how often pages come against what their logged propensities say (χ² over the items of the
first explored place, and of the second given the first), and whether the 95 % interval of inverse
propensity scoring (weights: the target's choice over the logged probability, explored places
multiplied) holds what the target policy would truly earn, in so many runs.

`ads`: what fixed slots and places won by worth earn (price × clicks) and what they cost in clicks
of the page, against the page without ads. `dynamic` is read off its own curve at the same loss of
clicks; the interval is a bootstrap over requests of the difference of the two.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.progress import track
from scipy.stats import chi2

from benchmarks import harness
from funnel.config import Ads as AdSettings
from funnel.types import PRICE, PROPENSITY, Array, Candidates, Query
from funnel.world_truth import GOES_ON, World, examined
from rerank import Rerank
from rerank.ads import Ads
from rerank.explore import Epsilon, Explore, PlackettLuce, Thompson
from rerank.layout import Layout

NOISE = 0.7  # of the guessed log-odds of a click
SEEN = 400  # items that a visitor's candidates are the best of
KEPT, PAGE = 50, 10
POOL, SLOTS = 4, (1, 3)  # explored: the best so many, at these places
LEAST = 0.1  # chance of each
TRIES = 4000  # pages of one visitor, for frequencies
SPONSORED = 8  # of the candidates


@dataclass(frozen=True, eq=False)
class Visits:
    """n requests: the candidates of each, best first by the guess."""

    world: World
    users: Array  # (n,)
    at: Array  # (n,)
    rows: NDArray[np.int64]  # (n, KEPT)
    guess: NDArray[np.float64]  # (n, KEPT) p(click)
    other: NDArray[np.float64]  # (n, KEPT) another guess, of the target policy
    bids: NDArray[np.float64]  # (n, KEPT) NaN where nobody pays

    @staticmethod
    def drawn(world: World, n: int, seed: int) -> Visits:
        draw = np.random.default_rng(seed)
        users = draw.integers(0, world.config.users, n)
        at = np.full(n, world.config.end - 1)
        seen = draw.integers(0, world.config.items, (n, SEEN))
        truth = world.utility(users, seen, at)
        odds = np.log(np.maximum(truth, 1e-9)) - np.log1p(-np.minimum(truth, 1 - 1e-9))
        guesses = [_sigmoid(odds + NOISE * draw.normal(size=odds.shape)) for _ in range(2)]
        # One of each, and nothing that cannot be bought.
        twice = np.zeros(seen.shape, bool)
        for line, mask in zip(seen, twice, strict=True):
            mask[:] = True
            mask[np.unique(line, return_index=True)[1]] = False
        guesses[0][twice | (truth <= 0)] = -1.0
        order = np.argsort(-guesses[0], axis=1, kind="stable")
        best = order[:, : KEPT - SPONSORED]
        paid = order[:, KEPT - SPONSORED : 3 * KEPT]
        paid = draw.permuted(paid, axis=1)[:, :SPONSORED]
        index = np.concatenate([best, paid], axis=1)
        bids = np.full(index.shape, np.nan)
        bids[:, -SPONSORED:] = 0.05 + 0.6 * draw.random((n, SPONSORED)) ** 2
        some = np.argsort(-np.take_along_axis(guesses[0], index, 1), axis=1, kind="stable")
        index = np.take_along_axis(index, some, 1)

        def taken(values: Array) -> Array:
            return np.take_along_axis(values, index, 1)

        bids = np.take_along_axis(bids, some, 1)
        return Visits(world, users, at, taken(seen), taken(guesses[0]), taken(guesses[1]), bids)

    def __len__(self) -> int:
        return len(self.users)

    def pages(self, layout: Layout, name: str) -> tuple[NDArray[np.int64], Array, Array]:
        """What the stage makes of each: places in the candidates (n, PAGE), chances and prices."""
        stage = Rerank(layout=layout)
        found = np.zeros((len(self), PAGE), np.int64)
        chances, prices = np.ones((len(self), PAGE)), np.full((len(self), PAGE), np.nan)
        rows = np.arange(KEPT, dtype=np.int32)
        for i in range(len(self)):
            scores = self.guess[i].astype(np.float32)
            query = Query(limit=PAGE, request_id=f"{name}.{i}")
            page = stage.run(query, Candidates(rows, scores, {"p.click": scores}))
            found[i] = page.rows
            chances[i] = page.columns.get(PROPENSITY, chances[i])
            prices[i] = page.columns.get(PRICE, prices[i])
        return found, chances, prices

    def chance(self, pages: Array) -> NDArray[np.float64]:
        """(n, PAGE) P(click | looked at) of pages of places."""
        rows = np.take_along_axis(self.rows, pages, 1)
        return self.world.chances(self.world.tastes(self.users, self.at), rows, self.at)


def _sigmoid(x: Array) -> NDArray[np.float64]:
    return np.asarray(1.0 / (1.0 + np.exp(-x)), np.float64)


def clicked(chance: NDArray[np.float64], draw: np.random.Generator) -> NDArray[np.bool_]:
    """(n, k) clicks of visitors who go on down the page, or stop."""
    clicks = np.zeros(chance.shape, bool)
    looks = np.ones(len(chance), bool)
    for place in range(chance.shape[1]):
        clicks[:, place] = looks & (draw.random(len(chance)) < chance[:, place])
        goes = np.where(clicks[:, place], GOES_ON[1], GOES_ON[0])
        looks &= draw.random(len(chance)) < goes
    return clicks


def policies(visits: Visits) -> dict[str, Epsilon | PlackettLuce | Thompson]:
    draw = np.random.default_rng(5)
    shown = draw.integers(20, 100, KEPT).astype(float)
    clicks = draw.binomial(shown.astype(int), 0.1).astype(float)
    return {
        "epsilon": Epsilon(0.5),
        "plackett_luce": PlackettLuce(0.3),
        "thompson": Thompson(lambda query, rows: (clicks[rows], shown[rows])),
    }


def target(visits: Visits) -> NDArray[np.int64]:
    """Pages of another policy: at the explored places the best of the pool by the other guess."""
    pages = np.zeros((len(visits), PAGE), np.int64)
    for i in range(len(visits)):
        left = list(range(KEPT))
        for place in range(PAGE):
            pool = left[:POOL] if place + 1 in SLOTS else left[:1]
            pages[i, place] = max(pool, key=lambda k: visits.other[i, k])
            left.remove(int(pages[i, place]))
    return pages


def frequencies(visits: Visits, by: Epsilon | PlackettLuce | Thompson) -> tuple[float, float]:
    """χ² over its degrees of freedom, and how likely one as large is."""
    layout = Layout(explore=Explore(by, POOL, frozenset(SLOTS), LEAST))
    one = Visits(
        visits.world,
        *(np.repeat(part[:1], TRIES, 0) for part in (visits.users, visits.at, visits.rows)),
        *(np.repeat(part[:1], TRIES, 0) for part in (visits.guess, visits.other, visits.bids)),
    )
    pages, chances, _ = one.pages(layout, "tries")
    slots = np.array(SLOTS) - 1
    total, freedom = 0.0, 0
    keys = pages[:, slots]
    for depth in range(len(slots)):
        _, before = np.unique(keys[:, :depth], axis=0, return_inverse=True)
        for group in range(int(before.max()) + 1):
            inside = np.flatnonzero(before.ravel() == group)
            _, first, counts = np.unique(keys[inside, depth], return_index=True, return_counts=True)
            expected = len(inside) * chances[inside[first], slots[depth]]
            some = expected >= 5
            rest = len(inside) - expected[some].sum()
            total += float(((counts[some] - expected[some]) ** 2 / expected[some]).sum())
            if rest >= 5:
                total += float((len(inside) - counts[some].sum() - rest) ** 2 / rest)
            freedom += int(some.sum()) - (rest < 5)
    return total / max(freedom, 1), float(chi2.sf(total, freedom))


def covered(world: World, name: str, runs: int, visits_each: int) -> dict[str, Any]:
    """How often the interval of inverse propensity scoring holds the truth."""
    start = time.perf_counter()
    whole = Visits.drawn(world, 20_000, seed=99)
    chance = whole.chance(target(whole))
    truth = float((examined(chance) * chance).sum(1).mean())
    plain = whole.chance(np.tile(np.arange(PAGE), (len(whole), 1)))
    own = float((examined(plain) * plain).sum(1).mean())
    by = policies(whole)[name]
    layout = Layout(explore=Explore(by, POOL, frozenset(SLOTS), LEAST))
    slots = np.array(SLOTS) - 1
    inside, errors, widths = 0, [], []
    for run in track(range(runs), name, transient=True):
        visits = Visits.drawn(world, visits_each, seed=1000 + run)
        pages, chances, _ = visits.pages(layout, f"{name} {run}")
        clicks = clicked(visits.chance(pages), np.random.default_rng(run)).sum(1)
        same = (pages[:, slots] == wanted(visits, pages)).all(1)
        weighted = np.where(same, 1 / chances[:, slots].prod(1), 0.0) * clicks
        mean, error = weighted.mean(), weighted.std(ddof=1) / np.sqrt(len(weighted))
        inside += abs(mean - truth) <= 1.96 * error
        errors.append(mean - truth)
        widths.append(2 * 1.96 * error)
    ratio, likely = frequencies(whole, by)
    return {
        "method": name,
        "χ²/df": ratio,
        "p": likely,
        "truth": truth,
        "by guess alone": own,
        "IPS - truth": float(np.mean(errors)),
        "interval": float(np.mean(widths)),
        "covers %": 100 * inside / runs,
        "runs": runs,
        "visits": visits_each,
        "seconds": time.perf_counter() - start,
    }


def wanted(visits: Visits, pages: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, slots) what the target would choose at the explored places, given what is above."""
    found = np.zeros((len(visits), len(SLOTS)), np.int64)
    for i in range(len(visits)):
        for k, place in enumerate(SLOTS):
            above = set(pages[i, : place - 1].tolist())
            pool = [c for c in range(KEPT) if c not in above][:POOL]
            found[i, k] = max(pool, key=lambda c: visits.other[i, c])
    return found


def mixing(world: World, n: int) -> list[dict[str, Any]]:
    """Fixed slots against places won by worth."""
    visits = Visits.drawn(world, n, seed=3)
    bids = visits.bids

    def earned(settings: AdSettings) -> tuple[Array, Array]:
        """Clicks of the page, and money, of each visit."""
        clicks, money = np.zeros(n), np.zeros(n)
        pages, prices = np.zeros((n, PAGE), np.int64), np.full((n, PAGE), np.nan)
        for i in range(n):
            one = replace(
                visits,
                **{
                    name: getattr(visits, name)[i : i + 1]
                    for name in ("users", "at", "rows", "guess", "other", "bids")
                },
            )
            own = bids[i]
            sponsors = np.where(np.isfinite(own), np.arange(KEPT), -1)
            layout = Layout(ads=Ads(sponsors.__getitem__, own.__getitem__, settings))
            page, _, price = one.pages(layout, str(i))
            pages[i], prices[i] = page[0], price[0]
        chance = visits.chance(pages)
        looked = examined(chance) * chance
        clicks, money = looked.sum(1), np.nansum(looked * prices, axis=1)
        return clicks, money

    plain = visits.chance(np.tile(np.arange(PAGE), (n, 1)))
    base = (examined(plain) * plain).sum(1)
    dynamic = [
        (
            worth,
            *earned(AdSettings(method="dynamic", worth=worth, load=0.3, gap=1, first=1, floor=0)),
        )
        for worth in (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 4.0)
    ]
    rows = []
    for slots in ((2,), (3,), (5,), (3, 8), (2, 5), (2, 5, 8)):
        share = len(slots) / PAGE
        clicks, money = earned(
            AdSettings(method="fixed", slots=slots, load=share, gap=0, first=1, floor=0.0)
        )
        rows.append(_against(slots, clicks, money, dynamic, base))
    return rows


def _against(
    slots: Sequence[int],
    clicks: Array,
    money: Array,
    dynamic: list[tuple[float, Array, Array]],
    base: Array,
) -> dict[str, Any]:
    def at_equal_loss(some: Array) -> tuple[float, float, float]:
        """Loss of clicks, and what both earn at it, over some visits."""
        loss = 1 - clicks[some].mean() / base[some].mean()
        losses = np.array([1 - c[some].mean() / base[some].mean() for _, c, _ in dynamic])
        earns = np.array([m[some].mean() for _, _, m in dynamic])
        order = np.argsort(losses)
        return loss, money[some].mean(), float(np.interp(loss, losses[order], earns[order]))

    n = len(base)
    draw = np.random.default_rng(1)
    loss, fixed, other = at_equal_loss(np.arange(n))
    again = np.array(
        [np.subtract(*at_equal_loss(draw.integers(0, n, n))[:0:-1]) for _ in range(300)]
    )
    low, high = np.percentile(again, [2.5, 97.5])
    return {
        "method": f"fixed slots {', '.join(map(str, slots))}",
        "clicks lost %": 100 * loss,
        "earns": fixed,
        "dynamic earns": other,
        "more %": 100 * (other / fixed - 1),
        "from": 100 * low / fixed,
        "to": 100 * high / fixed,
        "visits": n,
    }


def main(
    what: Annotated[str, typer.Argument(help="chance or ads.")] = "chance",
    size: Annotated[str, typer.Option(help="World: small, demo, large.")] = "demo",
    runs: Annotated[int, typer.Option(help="chance: runs, each with its own seed.")] = 200,
    visits: Annotated[int, typer.Option(help="Visits of a run.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Rerank against the truth of the simulated world."""
    if what not in ("chance", "ads"):
        raise typer.BadParameter(f"'{what}' is neither chance nor ads")
    world = World(size)
    if what == "ads":
        rows = mixing(world, visits)
    else:
        rows = [
            covered(world, name, runs, visits) for name in ("epsilon", "plackett_luce", "thompson")
        ]
    harness.show("rerank_truth", f"{what}, world {size}", rows, as_json)


if __name__ == "__main__":
    harness.run(main)
