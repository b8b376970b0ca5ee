"""
Whether rerank ever breaks a hard rule: random lists of candidates through random rules, quotas,
ads, exploration and pages, each page checked by conditions that share no code with rerank.

Checked: nothing comes twice or out of nowhere; blocks, `only`, pins and their places; products
once; quotas in every window; ad load, gaps, first place, floor and prices; that the page is full
whenever it can be (by trying all pages of small lists); and that taking a rule away loses no item
that it was not on.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise, permutations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer
from rich.progress import track

from benchmarks import harness
from funnel.catalogue import write_catalogue
from funnel.config import Config, parse
from funnel.generation import Generation, Manifest
from funnel.rulebook import RuleBook
from funnel.types import AD, PINNED, PRICE, PROPENSITY, Array, Candidates, Query
from rerank import Rerank, build

ITEMS, SMALL = 120, 6
RULES_EACH = 25  # slates for one config and one set of rules


@dataclass(frozen=True)
class Shop:
    generation: Generation
    brand: Array
    kind: Array
    model: Array
    sponsor: Array
    bid: Array
    price: Array

    @staticmethod
    def made(path: Path, seed: int = 0) -> Shop:
        draw = np.random.default_rng(seed)
        brand, kind = draw.integers(0, 6, ITEMS), draw.integers(0, 3, ITEMS)
        model, price = draw.integers(0, 80, ITEMS), draw.integers(1, 100, ITEMS).astype(float)
        sponsor = np.where(draw.random(ITEMS) < 0.4, draw.integers(0, 8, ITEMS), -1)
        bid = np.where(sponsor >= 0, draw.random(ITEMS).round(2), np.nan)
        items = pa.table(
            {
                "item_id": [f"i{n:03d}" for n in range(ITEMS)],
                "title": [f"thing {n}" for n in range(ITEMS)],
                "brand": [f"b{n}" for n in brand],
                "kind": [f"k{n}" for n in kind],
                "model": [f"m{n:02d}" for n in model],
                "sponsor_id": [f"s{n}" if n >= 0 else None for n in sponsor],
                "price": price,
                "bid": pa.array(bid, from_pandas=True),
            }
        )
        config = parse({"data": {"product_key": "model", "categorical": ["brand", "kind"]}})
        coded = ["brand", "kind", "model", "sponsor_id"]
        write_catalogue(path / "items", items, coded, [], ["price", "bid"])
        (path / "vector").mkdir()
        vectors = draw.normal(size=(ITEMS, 8)).astype(np.float32)
        vectors[::7] = 0
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
        np.save(path / "vector/text.npy", vectors)
        Manifest("g1", 0, 0, config.all_actions, config.model_dump(mode="json")).write(path)
        return Shop(Generation.open(path), brand, kind, model, sponsor, bid, price)


@dataclass(frozen=True)
class Case:
    settings: dict[str, Any]
    rules: tuple[dict[str, Any], ...]
    limit: int


def case(draw: np.random.Generator) -> Case:
    """A random scene and random rules."""
    settings: dict[str, Any] = {"diversity": float(draw.choice([0.0, 0.3]))}
    settings["method"] = str(draw.choice(["mmr", "sum", "dpp", "ssd"]))
    settings["near_duplicates"] = bool(draw.random() < 0.7)
    if draw.random() < 0.6:
        names = [name for name in ("brand", "kind") if draw.random() < 0.6]
        settings["quotas"] = {
            name: [int(draw.integers(1, 4)), int(draw.integers(1, 9))] for name in names
        }
    if draw.random() < 0.5:
        settings["ads"] = {
            "method": str(draw.choice(["fixed", "dynamic"])),
            "slots": sorted(draw.choice(np.arange(1, 12), 4, replace=False).tolist()),
            "load": float(draw.choice([0.1, 0.2, 0.5])),
            "gap": int(draw.integers(0, 4)),
            "first": int(draw.integers(1, 4)),
            "floor": float(draw.choice([0.0, 0.5, 1.0])),
            "worth": float(draw.choice([0.1, 1.0])),
            "reserve": float(draw.choice([0.01, 0.3])),
        }
    if draw.random() < 0.4:
        method = str(draw.choice(["epsilon", "plackett_luce"]))
        settings["explore"] = {"method": method, "pool": int(draw.integers(1, 8))}
    rules = [_rule(draw, number) for number in range(int(draw.integers(0, 5)))]
    return Case(settings, tuple(rules), int(draw.integers(1, 13)))


def _rule(draw: np.random.Generator, number: int) -> dict[str, Any]:
    do = str(draw.choice(["pin", "pin", "boost", "bury", "block", "block", "only"]))
    rule: dict[str, Any] = {"name": f"r{number}", "do": do}
    if do == "pin" or draw.random() < 0.5:
        rows = draw.choice(ITEMS, int(draw.integers(1, 4 if do == "pin" else 30)), replace=False)
        rule["items"] = [f"i{row:03d}" for row in rows]
    else:
        rule["where"] = str(
            draw.choice(
                ['brand = "b1"', 'kind = "k0" and price < 50', "not price > 20", "price 30..60"]
            )
        )
    if do == "pin":
        rule["place"] = int(draw.integers(1, 9))
    if do == "boost":
        rule["by"] = 2.0
    if do == "bury" and draw.random() < 0.5:
        rule["by"] = 0.5
    return rule


def stage(shop: Shop, made: Case, rules: tuple[dict[str, Any], ...], path: Path) -> Rerank:
    """The real stage, its rules out of a real file."""
    text = "".join(
        "[[rule]]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in rule.items())
        for rule in rules
    )
    path.write_text(text)
    config: Config = parse({"scenes": {"home": {"rerank": {**made.settings, "rules": str(path)}}}})
    found = build(shop.generation, config, "home", {str(path): RuleBook(path)})
    assert isinstance(found, Rerank)
    return found


def slate(draw: np.random.Generator, small: bool) -> Candidates:
    n = int(draw.integers(0, SMALL + 1 if small else 50))
    rows = (
        draw.integers(0, ITEMS, n) if draw.random() < 0.2 else draw.choice(ITEMS, n, replace=False)
    )
    scores = draw.normal(size=n).astype(np.float32).round(1)
    if n > 3 and draw.random() < 0.3:
        scores[draw.choice(n, 2, replace=False)] = [np.nan, np.inf]
    columns = {"p.click": draw.random(n).astype(np.float32).round(2)} if draw.random() < 0.8 else {}
    return Candidates(rows.astype(np.int32), scores, columns)


def on(shop: Shop, rule: dict[str, Any]) -> set[int]:
    """The rows that a rule is on, written out by hand."""
    by_where = {
        'brand = "b1"': shop.brand == 1,
        'kind = "k0" and price < 50': (shop.kind == 0) & (shop.price < 50),
        "not price > 20": shop.price <= 20,
        "price 30..60": (shop.price >= 30) & (shop.price <= 60),
    }
    rows = {int(item[1:]) for item in rule.get("items", ())}
    return rows | set(np.flatnonzero(by_where[rule["where"]]).tolist() if "where" in rule else ())


def wrong(shop: Shop, made: Case, came: Candidates, page: Candidates) -> str:
    """What is broken on the page, or nothing."""
    rows, limit = page.rows.tolist(), made.limit
    there = set(came.rows.tolist())
    if len(set(rows)) < len(rows) or len(rows) > limit or not set(rows) <= there:
        return "a row twice, too many, or from nowhere"
    blocked = {row for rule in made.rules if rule["do"] == "block" for row in on(shop, rule)}
    only = [on(shop, rule) for rule in made.rules if rule["do"] == "only"]
    wanted: set[int] = set().union(*only) if only else there
    allowed = (there & wanted) - blocked
    if not set(rows) <= allowed:
        return "a blocked item"
    pins: dict[int, int] = {}
    held: dict[int, int] = {}
    for rule in made.rules:
        if rule["do"] == "pin":
            named = [int(item[1:]) for item in rule["items"]]
            present = [row for row in named if row in there]
            for number, row in enumerate(present):
                if row in allowed and row not in pins:
                    pins[row] = rule["place"] + number
    for row, place in pins.items():
        while place in held:
            place += 1
        if place <= limit:
            held[place] = row
    ends = [row for place, row in sorted(held.items()) if place > len(rows)]
    one = shop.model.tolist() if made.settings["near_duplicates"] else list(range(ITEMS))
    for place, row in held.items():
        if place > len(rows) - len(ends) or rows[place - 1] == row:
            continue
        # It may stand above its place where no page that keeps the quotas reaches that.
        others = sorted(allowed - set(held.values()))
        if "quotas" not in made.settings or row not in rows[:place]:
            return f"pin {row} is not at {place}"
        if len(others) <= SMALL and any(
            fits(shop, made, one, _between(page, held), set(held.values()))
            for page in permutations(others, place - sum(other <= place for other in held))
        ):
            return f"pin {row} could be at {place}"
    if not set(held.values()) <= set(rows):
        return "a pin is missing"
    standing = set(held.values())
    if (
        PINNED in page.columns
        and {r for r, p in zip(rows, page.columns[PINNED], strict=True) if p} != standing
    ):
        return "the pins are not marked"
    for row in rows:
        if row not in standing and [one[other] for other in rows].count(one[row]) > 1:
            return "a product twice"
    if not fits(shop, made, list(range(ITEMS)), tuple(rows), standing):
        return "a quota broken"
    if "ads" in made.settings and (said := _ads(shop, made, page)):
        return said
    return _short(shop, made, allowed, standing, rows, one)


def fits(shop: Shop, made: Case, one: list[int], rows: tuple[int, ...], pins: set[int]) -> bool:
    """Whether a page has nothing twice and keeps all quotas, but for what pins alone break."""
    loose = [one[row] for row in rows if row not in pins]
    if len(set(loose)) < len(loose) or {one[row] for row in rows if row in pins} & set(loose):
        return False
    for name, (most, among) in made.settings.get("quotas", {}).items():
        values = getattr(shop, name).tolist()
        for start in range(len(rows)):
            window = rows[start : start + among]
            for value in {values[row] for row in window}:
                own = [row for row in window if values[row] == value]
                if len(own) > max(most, len(pins & set(own))):
                    return False
    return True


def _between(rows: tuple[int, ...], held: dict[int, int]) -> tuple[int, ...]:
    """A page with the pins at their places."""
    left, page = list(rows), list[int]()
    while left or len(page) + 1 in held:
        page.append(held[len(page) + 1] if len(page) + 1 in held else left.pop(0))
    return tuple(page)


def _ads(shop: Shop, made: Case, page: Candidates) -> str:
    ads, rows = made.settings["ads"], page.rows.tolist()
    places = [place for place, ad in enumerate(page.columns[AD], 1) if ad]
    if len(places) > int(ads["load"] * made.limit + 1e-9):
        return "too many ads"
    if any(b - a <= ads["gap"] for a, b in pairwise(places)):
        return "ads too close"
    if any(place < ads["first"] for place in places):
        return "an ad too high"
    if ads["method"] == "fixed" and not set(places) <= set(ads["slots"]):
        return "an ad outside its slots"
    for place in places:
        row, price = rows[place - 1], float(page.columns[PRICE][place - 1])
        if shop.sponsor[row] < 0 or shop.bid[row] < ads["reserve"]:
            return "an ad that nobody pays for"
        if not ads["reserve"] - 1e-6 <= price <= shop.bid[row] + 1e-6:
            return f"a price of {price} for a bid of {shop.bid[row]}"
    return ""


def _short(
    shop: Shop, made: Case, allowed: set[int], pins: set[int], rows: list[int], one: list[int]
) -> str:
    """Whether the page could have been longer."""
    distinct = {one[row]: row for row in allowed if row not in pins}
    for row in pins:
        distinct.pop(one[row], None)
    standing = [row for row in rows if row in pins]
    most = min(made.limit, len(distinct) + len(standing))
    if len(rows) >= most:
        return ""
    quotas = made.settings.get("quotas", {})
    if not quotas:
        return f"{len(rows)} items where {most} could be"
    if pins or len(allowed) > SMALL:  # not to be tried out here
        return ""

    # Of alike items the better-scored one is all there is to choose from.
    longer = permutations(distinct.values(), len(rows) + 1)
    if len(distinct) == len(allowed) and any(fits(shop, made, one, page, set()) for page in longer):
        return "a longer page keeps all quotas"
    return ""


def lost(shop: Shop, made: Case, came: Candidates, path: Path) -> str:
    """Whether taking a rule away loses an item that it was not on, with room for all of them."""
    if not made.rules or "quotas" in made.settings:
        return ""
    query = Query(limit=max(len(came), 1), request_id="r")
    whole = set(stage(shop, made, made.rules, path).run(query, came).rows.tolist())
    for number, rule in enumerate(made.rules):
        fewer = tuple(other for place, other in enumerate(made.rules) if place != number)
        left = set(stage(shop, made, fewer, path).run(query, came).rows.tolist())
        models = {int(shop.model[row]) for row in left}
        for row in whole - left - on(shop, rule):
            # One that survived only because its better-scored twin was out.
            if made.settings["near_duplicates"] and int(shop.model[row]) in models:
                continue
            return f"without rule {rule} the item {row} is gone"
    return ""


def run(slates: int, seed: int, path: Path) -> list[str]:
    """What was broken, of so many random pages."""
    draw, shop = np.random.default_rng(seed), Shop.made(path)
    found: list[str] = []
    for number in track(range(0, slates, RULES_EACH), "sets of rules", transient=True):
        made = case(draw)
        made_stage = stage(shop, made, made.rules, path / "rules.toml")
        for turn in range(min(RULES_EACH, slates - number)):
            came = slate(draw, small=turn % 2 == 0)
            query = Query(limit=made.limit, request_id=f"{number}.{turn}")
            page = made_stage.run(query, came)
            again = made_stage.run(query, came.take(draw.permutation(len(came))))
            said = wrong(shop, made, came, page)
            once = len(set(came.rows.tolist())) == len(came)
            if not said and once and again.rows.tolist() != page.rows.tolist():
                said = "the page depends on the order of what came in"
            chances = page.columns.get(PROPENSITY)
            if not said and chances is not None and (chances[np.isfinite(chances)] <= 0).any():
                said = "a place with no chance"
            if not said and turn == 0:
                said = lost(shop, made, came, path / "other.toml")
            if said:
                found.append(
                    f"{said}: {made}, rows {came.rows.tolist()}, page {page.rows.tolist()}"
                )
    return found


def main(
    slates: Annotated[int, typer.Option(help="pages")] = 100_000,
    seed: Annotated[int, typer.Option(help="of the random slates and rules")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """Whether rerank ever breaks a hard rule."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as made:
        broken = run(slates, seed, Path(made))
    for said in broken[:5]:
        typer.echo(said, err=True)
    row = {
        "method": "all selectors, rules, ads, chance",
        "slates": slates,
        "broken": len(broken),
        "seconds": time.perf_counter() - start,
        "peak_mb": harness.peak_mb(),
    }
    harness.show("rerank_slates", f"{slates} slates, seed {seed}", [row], as_json)
    if broken:
        raise typer.Exit(1)


if __name__ == "__main__":
    harness.run(main)
