"""The simulated shop: what it writes keeps the contracts, and the truth it tells is the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from funnel.config import ACTIONS
from funnel.errors import BadConfig, BadData, BadQuery, Occupied
from funnel.world import (
    TABLES,
    World,
    WorldConfig,
    describe,
    examined,
    graded,
    item_table,
    load,
    rows_of,
    simulate,
)
from funnel.world_sessions import PAGE, Requests, requests
from funnel.world_truth import AGAIN, DAY, GOES_ON, WEEK

TINY = WorldConfig(items=700, users=60, events=6_000, queries=40, days=30)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("world") / "small"
    simulate(path, "small", seed=3)
    return path


@pytest.fixture(scope="module")
def world() -> World:
    return World("small", seed=3)


@pytest.fixture(scope="module")
def tables(small: Path) -> dict[str, pa.Table]:
    return {name: pq.read_table(small / name) for name in TABLES}


@pytest.fixture(scope="module")
def many() -> tuple[World, Requests]:
    """A third of the sessions of the demo."""
    world = World("demo", seed=5)
    return world, requests(world, np.arange(0, 19_000, 3))


def column(table: pa.Table, name: str) -> np.ndarray:
    return table.column(name).to_numpy()


# ---------------------------------------------------------------- one function of (config, seed)


def test_the_same_seed_writes_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        simulate(tmp_path / name, TINY, seed)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.parquet"))
    assert len(files) == len(TABLES)
    for file in files:
        a, b, c = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert a == b
        assert a != c


def test_chunks_of_any_size_give_the_same_tables(tmp_path: Path) -> None:
    simulate(tmp_path / "one", TINY, 1, chunk=10_000)
    simulate(tmp_path / "tiny", TINY, 1, chunk=7)
    for name in TABLES:
        one, tiny = (pq.read_table(tmp_path / size / name) for size in ("one", "tiny"))
        assert one.equals(tiny), name


def test_progress_ends_at_the_total_of_every_table(tmp_path: Path) -> None:
    heard: dict[str, list[tuple[int, int]]] = {}

    def hear(name: str, done: int, total: int) -> None:
        heard.setdefault(name, []).append((done, total))

    simulate(tmp_path, TINY, 1, hear)
    assert set(heard) == set(TABLES)
    assert all(told[-1][0] == told[-1][1] for told in heard.values())


def test_a_written_world_can_be_asked_for_its_truth(small: Path, world: World) -> None:
    again = load(small)
    assert (again.config, again.seed) == (world.config, world.seed)
    with pytest.raises(BadData, match="not a simulated"):
        load(small / "items")


def test_simulating_spares_directories_of_others(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(Occupied, match="new directory"):
        simulate(tmp_path, TINY)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"items": 0}, "items"),
        ({"days": -1}, "days"),
        ({"end": 5}, "end"),
        ({"items": 2**31}, "int32"),
    ],
)
def test_a_world_that_cannot_be_says_which_setting_is_wrong(
    change: dict[str, int], names: str
) -> None:
    sizes = {"items": 9, "users": 9, "events": 9, "queries": 9}
    with pytest.raises(BadConfig, match=names):
        WorldConfig(**{**sizes, **change})
    with pytest.raises(BadConfig, match="known sizes: small, demo"):
        World("middling")


def test_more_queries_than_there_are_words_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="queries is 90000"):
        simulate(tmp_path, WorldConfig(items=100, users=5, events=100, queries=90_000))


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (3, 2, 50, 2), (40, 1, 200, 5)])
def test_the_smallest_worlds_are_whole(tmp_path: Path, sizes: tuple[int, int, int, int]) -> None:
    items, users, events, queries = sizes
    simulate(tmp_path, WorldConfig(items, users, events, queries, days=1), seed=2)
    assert pq.read_table(tmp_path / "items").num_rows == items
    assert pq.read_table(tmp_path / "events").schema.field("timestamp").type == pa.int64()


# ---------------------------------------------------------------- the contracts of a data set


def test_sizes_are_as_announced(tables: dict[str, pa.Table], world: World) -> None:
    config = world.config
    assert tables["items"].num_rows == config.items == 1_000
    assert tables["users"].num_rows == config.users == 300
    assert tables["queries"].num_rows == config.queries == 60
    assert 0.9 < tables["events"].num_rows / config.events < 1.1


def test_tables_are_sorted_by_unique_keys(tables: dict[str, pa.Table]) -> None:
    keys = {"items": ["item_id"], "users": ["user_id"], "queries": ["query_id"],
            "qrels": ["query_id", "item_id"], "events": ["timestamp", "event_id"]}  # fmt: skip
    for name, key in keys.items():
        rows = list(zip(*(tables[name].column(k).to_pylist() for k in key), strict=True))
        assert rows == sorted(rows), name
        assert len(set(rows)) == len(rows), name
    assert len(tables["events"].column("event_id").unique()) == tables["events"].num_rows


def test_columns_have_the_types_of_the_contract(tables: dict[str, pa.Table]) -> None:
    expected = {
        "items": {"item_id": pa.string(), "title": pa.string(), "description": pa.string(),
                  "category": pa.string(), "brand": pa.string(), "price": pa.float64(),
                  "created_at": pa.int64(), "available": pa.bool_(), "sponsor_id": pa.string(),
                  "bid": pa.float64(), "product_key": pa.string()},
        "users": {"user_id": pa.string()},
        "queries": {"query_id": pa.string(), "query": pa.string(), "split": pa.string()},
        "qrels": {"query_id": pa.string(), "item_id": pa.string(), "grade": pa.int32()},
        "events": {"user_id": pa.string(), "item_id": pa.string(), "action": pa.string(),
                   "timestamp": pa.int64(), "event_id": pa.string(), "session_id": pa.string(),
                   "request_id": pa.string(), "scene": pa.string(), "query": pa.string(),
                   "position": pa.int32(), "value": pa.float64(), "propensity": pa.float64()},
    }  # fmt: skip
    for name, columns in expected.items():
        schema = tables[name].schema
        assert {c: schema.field(c).type for c in columns} == columns
    optional = {"sponsor_id", "bid", "query", "value", "propensity"}
    for table in tables.values():
        assert all(table.column(c).null_count == 0 for c in set(table.column_names) - optional)


def test_events_name_known_items_users_and_actions(tables: dict[str, pa.Table]) -> None:
    events = tables["events"]
    for key, name in (("item_id", "items"), ("user_id", "users")):
        assert pc.all(
            pc.is_in(events.column(key), tables[name].column(key).combine_chunks())
        ).as_py()
    assert set(events.column("action").unique().to_pylist()) <= set(ACTIONS)
    searches = pc.equal(events.column("scene"), "search")
    assert searches.equals(pc.is_valid(events.column("query")))
    bought = pc.equal(events.column("action"), "purchase")
    assert bought.equals(pc.is_valid(events.column("value")))


def test_every_action_has_the_one_before_it_on_the_same_page(tables: dict[str, pa.Table]) -> None:
    frame = tables["events"].to_pandas()
    place = ["request_id", "item_id", "position", "user_id", "session_id"]
    for before, after in (("impression", "click"), ("click", "cart"), ("cart", "purchase")):
        first = frame[frame.action == before].set_index(place).timestamp
        second = frame[frame.action == after].set_index(place).timestamp
        assert len(second) > 50
        assert first.index.is_unique
        assert (second > first.reindex(second.index)).all()  # NaN, so False, where there is none


def test_pages_are_filled_from_the_top_without_an_item_twice(tables: dict[str, pa.Table]) -> None:
    frame = tables["events"].to_pandas()
    shown = frame[frame.action == "impression"].groupby("request_id")
    assert (shown.position.max() == shown.position.nunique()).all()
    assert (shown.position.min() == 1).all()
    assert (shown.item_id.nunique() == shown.item_id.size()).all()
    assert shown.position.max().max() == PAGE


def test_events_lie_within_the_days_and_items_are_shown_only_while_on_sale(
    tables: dict[str, pa.Table], world: World
) -> None:
    config, events = world.config, tables["events"]
    at = column(events, "timestamp")
    assert config.start <= at.min()
    assert at.max() < config.end == 1_767_225_600_000
    assert at.max() - at.min() > 59 * DAY
    shown = events.filter(pc.equal(events.column("action"), "impression"))
    rows, at = rows_of(shown.column("item_id")), column(shown, "timestamp")
    assert (column(tables["items"], "created_at")[rows] <= at).all()
    gone = np.flatnonzero(~tables["items"].column("available").to_numpy(zero_copy_only=False))
    assert 5 < len(gone) < 100
    assert (world.items.gone[gone] < config.end).all()
    assert (at[np.isin(rows, gone)] < world.items.gone[rows[np.isin(rows, gone)]]).all()


def test_near_duplicates_are_declared(tables: dict[str, pa.Table], world: World) -> None:
    frame = tables["items"].to_pandas()
    groups = frame.groupby("product_key")
    copies = frame[groups.item_id.transform("size") > 1]
    assert 40 < len(copies) < 200
    same = copies.groupby("product_key")
    for name in ("category", "brand", "colour", "material", "description"):
        assert (same[name].nunique() == 1).all()
    assert (same.title.nunique() > 1).any()
    spread = same.price.max() / same.price.min()
    assert (spread < 1.3).all()
    words = (
        [set(t.split()) for t in same.title.first()],
        [set(t.split()) for t in same.title.last()],
    )
    overlap = [len(a & b) / len(a | b) for a, b in zip(*words, strict=True)]
    assert np.mean(overlap) > 0.6


def test_some_items_are_new_and_some_sponsored(tables: dict[str, pa.Table], world: World) -> None:
    items = tables["items"]
    new = column(items, "created_at") > world.config.start
    assert 0.02 < new.mean() < 0.07
    assert (column(items, "created_at")[new] > world.config.end - 15 * DAY).all()
    bids = items.column("bid").drop_null().to_numpy()
    assert 0.01 < len(bids) / 1000 < 0.06
    assert (bids > 0).all()
    assert pc.is_valid(items.column("bid")).equals(pc.is_valid(items.column("sponsor_id")))


def test_a_half_of_the_queries_is_for_training(tables: dict[str, pa.Table]) -> None:
    queries, qrels = tables["queries"], tables["qrels"]
    splits = queries.column("split").to_pylist()
    assert [splits.count(name) for name in ("train", "valid", "test")] == [30, 15, 15]
    assert len(set(queries.column("query").to_pylist())) == 60
    useful = qrels.filter(pc.greater(qrels.column("grade"), 0))
    assert len(useful.column("query_id").unique()) == 60
    assert set(qrels.column("grade").unique().to_pylist()) == {0, 1, 2, 3}


# ---------------------------------------------------------------- the truth of search


def test_every_query_of_the_log_and_of_the_judges_is_understood(
    many: tuple[World, Requests],
) -> None:
    world, asked = many
    which = np.flatnonzero(asked.search)[:2000]
    meant = world.intents(asked.query.take(pa.array(which)).to_pylist())
    for name in ("leaf", "kind", "value"):
        assert (getattr(meant, name) == getattr(asked.intents[which], name)).all()
    table, intents = graded(world)
    assert (world.intents(table.column("query").to_pylist()).leaf == intents.leaf).all()
    with pytest.raises(BadQuery, match="'how are you' is not a query"):
        world.relevance("how are you", np.arange(3))


def test_a_synonym_asks_for_the_same_as_the_usual_word(many: tuple[World, Requests]) -> None:
    world, _ = many
    rows = np.arange(world.config.items)
    usual = world.relevance("steel frying pan", rows)
    assert usual.max() == 3
    assert (world.relevance("steel skillet", rows) == usual).all()
    assert (world.relevance("steel frypan", rows) == usual).all()


def test_grades_agree_with_a_reading_of_the_items(many: tuple[World, Requests]) -> None:
    world, _ = many
    rows = np.arange(world.config.items)
    items = item_table(world, rows).to_pandas()
    grade = world.relevance("steel frying pan", rows)
    pans = items.category == "Kitchen/Cookware/Frying Pan"
    steel = pans & (items.material == "steel") & ~world.items.accessory
    assert set(np.flatnonzero(grade >= 2)) <= set(np.flatnonzero(steel))
    assert (grade[steel] >= 1).all()
    assert (grade[~items.category.str.startswith("Kitchen/Cookware/")] == 0).all()
    assert world.items.quality[grade == 3].min() > world.items.quality[grade == 2].max()


def test_the_buyers_own_words_are_in_no_title_and_in_some_descriptions(
    tables: dict[str, pa.Table], world: World
) -> None:
    own = [nouns[-1] for nouns in world.grammar.nouns]
    titles = " | ".join(tables["items"].column("title").to_pylist()).lower()
    texts = " | ".join(tables["items"].column("description").to_pylist())
    # a word of the buyers may be part of a word of the sellers ("lawn mower" is not "lawnmower")
    assert np.mean([f" {word} " in f" {titles} " for word in own]) < 0.05
    assert np.mean([word in texts for word in own]) > 0.9


def test_searchers_click_what_is_relevant(many: tuple[World, Requests]) -> None:
    world, asked = many
    which = np.flatnonzero(asked.search)[:3000]
    looked = asked.pages[which] >= 0
    match = world.topical(asked.intents[which], asked.pages[which])
    clicked = asked.times[which][..., 1] >= 0
    good, bad = looked & (match > 0.9), looked & (match < 0.1)
    assert clicked[good].mean() > 5 * clicked[bad].mean()


# ---------------------------------------------------------------- the truth of users


def test_users_click_higher_places_more_though_home_pages_are_in_random_order(
    many: tuple[World, Requests],
) -> None:
    _, asked = many
    home = ~asked.search
    clicked, shown = asked.times[home][..., 1] >= 0, asked.pages[home] >= 0
    rate = clicked.sum(0) / shown.sum(0)
    assert (np.diff(rate) < 0.01).all()
    assert rate[0] > 2.5 * rate[9]
    # what the log calls the propensity explains it: clicks per look are flat
    per_look = clicked.sum(0) / np.where(shown, asked.propensity[home], 0).sum(0)
    assert per_look.max() / per_look.min() < 1.25


def test_clicks_come_from_tastes_not_from_fame(many: tuple[World, Requests]) -> None:
    _, asked = many
    home = ~asked.search[:, None] & (asked.pages >= 0)
    taste, popular, explore = (home & (asked.source == s) for s in range(3))
    shown = [x.sum() / home.sum() for x in (taste, popular, explore)]
    assert np.allclose(shown, [0.5, 0.25, 0.25], atol=0.05)
    clicked = asked.times[..., 1] >= 0
    assert clicked[taste].mean() > 5 * clicked[popular].mean() > 5 * clicked[explore].mean() * 0.9


def test_tastes_drift(world: World) -> None:
    users, start = np.arange(300), world.config.start
    week = [world.tastes(users, start + w * WEEK) for w in range(8)]
    last = week[-1].factors
    alike = [
        np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(last, w.factors, strict=True)])
        for w in week
    ]
    assert alike[0] < alike[4] < alike[6] < 1
    kept = [(week[-1].focus[:, 0] == w.focus[:, 0]).mean() for w in week]
    assert kept[0] < kept[4] < kept[6] < 1
    assert kept[0] > 0.3  # slowly
    now = world.tastes(users, start + 10 * DAY), world.tastes(users, start + 10 * DAY + 60_000)
    assert np.abs(now[0].factors - now[1].factors).max() < 0.01


def test_recent_clicks_say_more_than_old_ones(many: tuple[World, Requests]) -> None:
    world, asked = many
    r, slot = np.nonzero(asked.times[..., 1] >= 0)
    leaf = world.items.leaf[asked.pages[r, slot]].astype(np.int64)
    week = (asked.at[r] - world.config.start) // (20 * DAY)  # first, second, third 20 days
    counts = np.zeros((3, world.config.users, world.grammar.leaves))
    np.add.at(counts, (week, asked.user[r], leaf), 1.0)
    shares = counts / np.maximum(counts.sum(-1, keepdims=True), 1)
    seen = (counts.sum(-1) > 0).all(0)
    old, recent = ((shares[w] * shares[2]).sum(-1)[seen].mean() for w in (0, 1))
    assert recent > 1.1 * old


def test_utility_is_the_same_whichever_way_it_is_asked(world: World) -> None:
    users, at = np.array([1, 5, 9]), np.full(3, world.config.end - DAY)
    pages = np.arange(12).reshape(3, 4)
    whole = world.utility(users, pages, at)
    assert whole.shape == (3, 4)
    single = world.utility(np.repeat(users, 4), pages.ravel(), np.repeat(at, 4))
    assert np.allclose(whole.ravel(), single)
    asked = world.utility(users, pages, at, ["wok", "sofa", "tent"])
    assert not np.allclose(asked, whole)
    gone = np.flatnonzero(world.items.gone < world.config.end - DAY)[:1]
    assert world.utility(users[:1], gone, at[:1])[0] == 0


# ---------------------------------------------------------------- what pages earn


def test_the_value_of_a_page_is_what_playing_it_many_times_earns(world: World) -> None:
    rng = np.random.default_rng(0)
    at = np.array([world.config.end - 5 * DAY])
    likes = np.argsort(-world.utility(np.array([7]), np.arange(1000)[None], at)[0])
    copies = np.flatnonzero(world.items.base != np.arange(1000))
    pair = copies[world.on_sale(copies, at) & world.on_sale(world.items.base[copies], at)][:1]
    page = np.concatenate([likes[:3], pair, world.items.base[pair], likes[3:6], [-1, -1]])
    chance = world.utility(np.array([7]), page[None], at)[0]
    chance[4] *= AGAIN  # the second copy of a product
    cart, buy = (p[0] for p in world.after_click(world.tastes(np.array([7]), at), page[None]))
    runs = 40_000
    clicks, money = 0, 0.0
    reading = np.ones(runs, bool)
    for place in range(8):
        click = reading & (rng.random(runs) < chance[place])
        bought = click & (rng.random(runs) < cart[place]) & (rng.random(runs) < buy[place])
        clicks += click.sum()
        money += bought.sum() * world.items.price[page[place]]
        reading &= rng.random(runs) < np.where(click, GOES_ON[1], GOES_ON[0])
    earned = world.value_of(np.array([7]), page[None], at)
    assert earned.clicks[0] == pytest.approx(clicks / runs, rel=0.02)
    assert earned.revenue[0] == pytest.approx(money / runs, rel=0.1)


def test_looks_follow_the_click_model_by_hand() -> None:
    skip, click = GOES_ON
    looked = examined(np.array([[1.0, 0.0, 0.5, 0.0]]))[0]
    assert np.allclose(looked, [1, click, click * skip, click * skip * (skip + click) / 2])


def test_the_log_earns_what_the_truth_expects(many: tuple[World, Requests]) -> None:
    world, asked = many
    home = np.flatnonzero(~asked.search)[:4000]
    earned = world.value_of(asked.user[home], asked.pages[home], asked.at[home])
    clicks = (asked.times[home][..., 1] >= 0).sum(1)
    error = clicks.std() / len(home) ** 0.5
    assert abs(clicks.mean() - earned.clicks.mean()) < 4 * error
    search = np.flatnonzero(asked.search)[:1000]
    words = asked.query.take(pa.array(search)).to_pylist()
    earned = world.value_of(asked.user[search], asked.pages[search], asked.at[search], words)
    clicks = (asked.times[search][..., 1] >= 0).sum(1)
    assert abs(clicks.mean() - earned.clicks.mean()) < 4 * clicks.std() / len(search) ** 0.5


def test_knowing_users_pays(small: Path) -> None:
    figures = describe(small, pages=100)
    of = {name: figures[f"clicks a home page of 10: {name}"]
          for name in ("random", "popularity", "affinity", "oracle")}  # fmt: skip
    assert of["oracle"] > 1.5 * of["affinity"] > 1.5 * of["popularity"] > of["random"]
    assert figures["share of a user's clicks in the three most clicked categories"] > 0.6
    rates = [figures[f"home click rate at position {p}"] for p in (1, 5, 10)]
    assert rates == sorted(rates, reverse=True)


def test_items_of_any_rows_are_written_alike(world: World) -> None:
    rows = np.array([3, 500, 999])
    some, every = item_table(world, rows), item_table(world, np.arange(1000))
    assert some.equals(every.take(pa.array(rows)).combine_chunks())
