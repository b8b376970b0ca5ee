"""
A shop that does not exist: the embedded data set, in the tables of every other data set.

    world = simulate("var/demo", "demo", seed=1)     writes items/ users/ events/ queries/ qrels/
    world.value_of(users, pages, at)                 what those pages would have earned
    python -m funnel.world var/demo --size demo      the same from a shell
    python -m funnel.world --describe var/demo       what its log looks like, what policies earn

Everything is a pure function of (config, seed), row by row: files come out the same in chunks of
any size, and the truth needs no file but `world.json`, which holds the two.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from funnel.errors import BadConfig, BadData, Occupied
from funnel.types import Array
from funnel.world_grammar import COLOUR, MATERIAL, Intents, ids
from funnel.world_sessions import events, facets, sessions_of
from funnel.world_truth import DAY, ITEM_BLOCK, SIZES, Earnings, World, WorldConfig, examined

__all__ = ["SIZES", "Earnings", "World", "WorldConfig", "examined", "load", "simulate"]

TABLES = ("items", "users", "events", "queries", "qrels")
TYPOS = 0.05  # share of graded queries with a misspelling
JUDGED = 2000, 50  # of a query: most relevant items, most irrelevant ones of its neighbourhood
QUERY_BLOCK = 64
PART_ROWS = 4_000_000  # of one Parquet file
Progress = Callable[[str, int, int], None]


def simulate(
    path: str | Path,
    size: str | WorldConfig = "demo",
    seed: int = 0,
    progress: Progress | None = None,
    chunk: int = 8192,
) -> World:
    """Write the data set of (size, seed) into `path`, which is empty, new, or an older world.

    `progress(table, done, total)` hears how it goes, in items, users, queries and sessions. Memory
    is about 150 bytes an item plus 10 kB a session of a chunk, however many events there are.
    """
    if chunk < 1:
        raise BadConfig(f"chunk is {chunk}: sessions made at once, 1 or more")
    world, root = World(size, seed), Path(path)
    if root.is_dir() and any(root.iterdir()) and not (root / "world.json").exists():
        raise Occupied(f"{root} holds files that no simulation wrote: name a new directory")
    for name in TABLES:
        shutil.rmtree(root / name, ignore_errors=True)
    root.mkdir(parents=True, exist_ok=True)
    recipe = {"config": asdict(world.config), "seed": seed}
    (root / "world.json").write_text(json.dumps(recipe, indent=2) + "\n")
    config = world.config
    queries, intents = graded(world)
    tables: dict[str, tuple[int, Iterator[pa.Table]]] = {
        "items": (config.items, (item_table(world, rows) for rows in _blocks(config.items))),
        "users": (config.users, (user_table(world, rows) for rows in _blocks(config.users))),
        "queries": (config.queries, iter([queries])),
        "qrels": (config.queries, judgements(world, queries, intents)),
        "events": (sessions_of(world), events(world, chunk)),
    }
    per = {"queries": config.queries, "qrels": QUERY_BLOCK, "events": chunk}
    for name, (total, parts) in tables.items():
        told = partial(_tell, progress, name, per.get(name, ITEM_BLOCK), total)
        _write(root / name, parts, told)
    return world


def _tell(progress: Progress | None, name: str, step: int, total: int, parts: int) -> None:
    if progress is not None:
        progress(name, min(parts * step, total), total)


def load(path: str | Path) -> World:
    """The world that `simulate` wrote to a directory."""
    try:
        recipe = json.loads((Path(path) / "world.json").read_text())
        return World(WorldConfig(**recipe["config"]), recipe["seed"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadData(f"{path} is not a simulated data set: {error}") from error


# ------------------------------------------------------------------------ tables


def item_table(world: World, rows: Array) -> pa.Table:
    items, draw, grammar, config = world.items, world.draw, world.grammar, world.config
    names = ("base", "leaf", "brand", "style", "material", "colour", "use", "accessory")
    item = {name: getattr(items, name)[rows] for name in names}
    item["base"] = item["base"].astype(np.int64)
    item["copied"] = item["base"] != rows
    item["line"] = (item["brand"] * 7 + draw.integer("item.line", 4, item["base"])) % 40
    quality = items.quality[rows]
    stars = 3.6 + 0.6 * quality + 0.35 * draw.normal("item.stars", rows)
    sponsored = draw.uniform("item.sponsored", rows) < 0.03
    bid = np.round(0.05 + 0.6 * draw.uniform("item.bid", rows) ** 2, 3)
    colours = grammar.surface(COLOUR, item["colour"], np.zeros(len(rows)))
    return pa.table(
        {
            "item_id": ids(rows, config.items, "i"),
            "title": grammar.titles(rows, item),
            "description": grammar.descriptions(item, quality),
            "category": pa.array(grammar.paths).take(pa.array(item["leaf"])),
            "brand": pa.array(grammar.brand_names).take(pa.array(item["brand"])),
            "price": np.round(items.price[rows].astype(np.float64), 2),
            "created_at": items.created[rows],
            "available": items.gone[rows] > config.end,
            "colour": colours,
            "material": grammar.surface(MATERIAL, item["material"], np.zeros(len(rows))),
            "rating": np.round(np.clip(stars, 1.0, 5.0).astype(np.float64), 1),
            "product_key": ids(item["base"], config.items, "p"),
            "sponsor_id": pa.array(
                np.char.add("s", (item["brand"] % 50).astype(str)), mask=~sponsored
            ),
            "bid": pa.array(bid, mask=~sponsored),
        }
    )


def user_table(world: World, rows: Array) -> pa.Table:
    """What a shop would know of its users: a guess at what they like, sometimes wrong."""
    draw, grammar, config = world.draw, world.grammar, world.config
    tastes = world.tastes(rows, np.full(len(rows), config.start))
    liked = grammar.department[tastes.focus[:, 0]]
    other = draw.integer("user.other", len(grammar.departments), rows)
    liked = np.where(draw.uniform("user.known", rows) < 0.7, liked, other)
    budget = np.digitize(tastes.level + 0.6 * draw.normal("user.budget", rows), [-0.7, 0.7])
    ages = ["18-24", "25-34", "35-49", "50-64", "65+"]
    return pa.table(
        {
            "user_id": ids(rows, config.users, "u"),
            "interest": pa.array(grammar.departments).take(pa.array(liked)),
            "budget": pa.array(["low", "middle", "high"]).take(pa.array(budget)),
            "age": pa.array(ages).take(pa.array(draw.integer("user.age", 5, rows))),
        }
    )


def graded(world: World) -> tuple[pa.Table, Intents]:
    """Different queries with their split (half train, quarter valid, quarter test), and what they
    mean."""
    n = world.config.queries
    index = np.arange(6 * n + 100)
    leaf = world.draw.integer("graded.leaf", world.grammar.leaves, index)
    intents = facets(world, leaf, "graded", index)
    texts = world.grammar.phrase(intents, "graded", index, TYPOS)
    _, first = np.unique(texts.to_numpy(zero_copy_only=False).astype(str), return_index=True)
    chosen = np.sort(first)[:n]
    if len(chosen) < n:
        raise BadConfig(
            f"world.queries is {n}: a world of {world.config.items} items has words for about "
            f"{len(chosen)} different ones"
        )
    split = pa.array(["train", "train", "valid", "test"]).take(pa.array(np.arange(n) % 4))
    table = {
        "query_id": ids(np.arange(n), n, "q"),
        "query": texts.take(pa.array(chosen)),
        "split": split,
    }
    return pa.table(table), intents[chosen]


def judgements(world: World, queries: pa.Table, intents: Intents) -> Iterator[pa.Table]:
    """Grades of a block of queries at a time: every relevant item that can be bought at the end (of
    very many, the best), and some irrelevant ones of the same group of categories."""
    names = queries.column("query_id").combine_chunks()
    for first in range(0, len(names), QUERY_BLOCK):
        block = range(first, min(first + QUERY_BLOCK, len(names)))
        judged = [_judge(world, q, intents[np.array([q])]) for q in block]
        query = np.repeat(block, [len(rows) for rows, _ in judged])
        yield pa.table(
            {
                "query_id": names.take(pa.array(query)),
                "item_id": ids(np.concatenate([r for r, _ in judged]), world.config.items, "i"),
                "grade": np.concatenate([g for _, g in judged]).astype(np.int32),
            }
        )


def _judge(world: World, query: int, intent: Intents) -> tuple[Array, Array]:
    """The judged rows of a query, in order, and their grades."""
    items, grammar = world.items, world.grammar
    leaves = np.flatnonzero(grammar.group == grammar.group[intent.leaf[0]])
    rows = np.concatenate([items.order[items.bounds[i] : items.bounds[i + 1]] for i in leaves])
    rows = np.sort(rows[items.gone[rows] > world.config.end])
    grade = world.relevance(intent, rows)
    order = np.lexsort((world.draw.bits("judged", query, rows), -grade))
    relevant = int((grade > 0).sum())
    chosen = np.sort(np.concatenate([order[:relevant][: JUDGED[0]], order[relevant:][: JUDGED[1]]]))
    return rows[chosen], grade[chosen]


def _blocks(n: int) -> Iterator[NDArray[np.int64]]:
    for first in range(0, n, ITEM_BLOCK):
        yield np.arange(first, min(first + ITEM_BLOCK, n))


def _write(path: Path, tables: Iterator[pa.Table], told: Callable[[int], None]) -> None:
    """The tables as `part-00000.parquet`, …; `told` hears how many are written."""
    path.mkdir()
    rows = files = 0
    writer: pq.ParquetWriter | None = None
    try:
        for done, table in enumerate(tables, start=1):
            if writer is None:
                file = path / f"part-{files:05d}.parquet"
                writer = pq.ParquetWriter(file, table.schema, compression="zstd")
                files += 1
            writer.write_table(table)
            rows += table.num_rows
            told(done)
            if rows >= files * PART_ROWS:
                writer.close()
                writer = None
    finally:
        if writer is not None:
            writer.close()


# ------------------------------------------------------------------------ figures


def describe(path: str | Path, pages: int = 200) -> dict[str, float]:
    """Figures of a simulated log, and what policies earn on `pages` home pages at its end.

    The policies `popularity` and `affinity` see what a shop sees: the clicks of the first nine
    tenths of the time. `oracle` sees the truth.
    """
    world, columns = load(path), ["user_id", "item_id", "action", "timestamp", "scene", "position"]
    log = pq.read_table(Path(path) / "events", columns=[*columns, "source"])
    action = log.column("action")
    shown, clicked = (log.filter(pc.equal(action, name)) for name in ("impression", "click"))
    figures: dict[str, float] = {f"events {k}": v for k, v in _shares(action, len(action)).items()}
    for scene in ("home", "search"):
        views, clicks = (t.filter(pc.equal(t.column("scene"), scene)) for t in (shown, clicked))
        figures[f"{scene} click rate"] = clicks.num_rows / max(views.num_rows, 1)
        places = [
            np.bincount(t.column("position").to_numpy(), minlength=11) for t in (views, clicks)
        ]
        for p in (1, 5, 10):
            figures[f"{scene} click rate at position {p}"] = places[1][p] / max(places[0][p], 1)
    for source, share in _shares(clicked.column("source"), clicked.num_rows).items():
        figures[f"share of clicks from {source}"] = share
        views = pc.sum(pc.equal(shown.column("source"), source)).as_py()
        figures[f"click rate of {source}"] = share * clicked.num_rows / views
    cut = world.config.start + int(0.9 * world.config.days * DAY)
    past = clicked.filter(pc.less(clicked.column("timestamp"), cut))
    items, users = (rows_of(past.column(name)) for name in ("item_id", "user_id"))
    leaf = world.items.leaf[items].astype(np.int64)
    counts = np.zeros((world.config.users, world.grammar.leaves))
    np.add.at(counts, (users, leaf), 1.0)
    active = counts[counts.sum(1) >= 5]
    top = np.sort(active, axis=1)[:, -3:].sum() / max(active.sum(), 1.0)
    figures["share of a user's clicks in the three most clicked categories"] = top
    popular = np.bincount(items, minlength=world.config.items)
    figures["share of clicks on the most clicked 1 % of items"] = np.sort(popular)[
        -max(len(popular) // 100, 1) :
    ].sum() / max(popular.sum(), 1)
    later = shown.filter(pc.greater_equal(shown.column("timestamp"), cut))
    later = later.filter(pc.equal(later.column("position"), 1)).slice(0, pages)
    asking, at = rows_of(later.column("user_id")), later.column("timestamp").to_numpy()
    age = (cut - past.column("timestamp").to_numpy()) / (7 * DAY)
    recent = np.zeros_like(counts)
    np.add.at(recent, (users, leaf), 0.5**age)
    every = np.broadcast_to(np.arange(world.config.items), (len(asking), world.config.items))
    truth = np.concatenate(
        [world.utility(asking[i : i + 1], every[:1], at[i : i + 1]) for i in range(len(asking))]
    )
    chance = np.arange(world.config.items) * 0.61803398875 % 1 * 1e-6  # breaks ties
    in_leaf = (
        popular / np.maximum(np.bincount(leaf, minlength=world.grammar.leaves), 1)[world.items.leaf]
    )
    scores = {
        "random": np.broadcast_to(chance, every.shape),
        "popularity": np.broadcast_to(popular + chance, every.shape),
        "affinity": recent[asking][:, world.items.leaf] * in_leaf + popular * 1e-6 + chance,
        "oracle": truth,
    }
    for policy, score in scores.items():
        earned = world.value_of(asking, _best(world, score, at), at)
        figures[f"clicks a home page of 10: {policy}"] = float(earned.clicks.mean())
    return figures


def rows_of(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Rows of the ids of items or users."""
    return np.asarray(pc.utf8_slice_codeunits(column, 1).cast(pa.int64()).to_numpy(), np.int64)


def _best(world: World, scores: Array, at: Array) -> NDArray[np.int64]:
    """(n, 10) the best on sale of every row of scores, one of a product."""
    on_sale = world.on_sale(np.arange(scores.shape[1])[None], at[:, None])
    order = np.argsort(-np.where(on_sale, scores, -np.inf), axis=1, kind="stable")[:, :40]
    base = world.items.base[order]
    twice = ((base[:, :, None] == base[:, None, :]) & np.tril(np.ones((40, 40), bool), -1)).any(-1)
    return np.take_along_axis(order, np.argsort(twice, axis=1, kind="stable")[:, :10], 1)


def _shares(column: pa.ChunkedArray, n: int) -> dict[str, float]:
    counted = {c["values"]: c["counts"] / n for c in column.value_counts().to_pylist()}
    return dict(sorted(counted.items()))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m funnel.world", description=simulate.__doc__)
    parser.add_argument("path", help="directory of the data set")
    parser.add_argument("--size", default="demo", choices=SIZES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--describe", action="store_true", help="print figures of what is there")
    asked = parser.parse_args()
    if asked.describe:
        for name, figure in describe(asked.path).items():
            print(f"{figure:9.4f}  {name}")
    else:
        simulate(asked.path, asked.size, asked.seed)


if __name__ == "__main__":
    main()
