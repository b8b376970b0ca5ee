"""The gateway over a real recall stage of a small catalogue, the other stages cutting only."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pytest

import recall
from features.event import UserHistory
from funnel import wire
from funnel.catalogue import write_catalogue
from funnel.config import Config, parse
from funnel.errors import BadQuery, NotFound, Unavailable
from funnel.gateway import Gateway, Serving
from funnel.generation import Generation, Manifest
from funnel.page import Ask
from funnel.pipeline import Pipeline, pipeline
from funnel.stage import Cut, Select
from funnel.types import Candidates, Filter
from recall.bm25 import write_index
from recall.popular import Popular
from rerank import Rerank
from rerank.layout import Layout
from rerank.quotas import Quota

N = 40
CONFIG = parse(
    {
        "data": {"user_categorical": ["tier"]},
        "scenes": {"home": {"limit": 10}, "search": {"limit": 5}},
        "serve": {"budgets": 100.0},
    }
)


@pytest.fixture(scope="module")
def generation(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    path = tmp_path_factory.mktemp("gateway")
    kinds = ["Shoes/Running", "Shoes/Hiking", "Hats"]
    items = pa.table(
        {
            "item_id": [f"i{n:02}" for n in range(N)],
            "title": [f"{'Red' if n % 2 else 'Blue'} thing & co {n}" for n in range(N)],
            "category": [kinds[n % 3] for n in range(N)],
            "brand": [None if n == 0 else f"b{n % 4}" for n in range(N)],
            "price": [float(n) for n in range(N)],
            "available": [n != 7 for n in range(N)],
        }
    )
    write_catalogue(path / "items", items, ["category", "brand"], [], ["price", "available"])
    users = pa.table({"user_id": ["ann"], "tier": ["gold"]})
    write_catalogue(path / "users", users, ["tier"], [], [], key="user_id")
    (path / "popular").mkdir()
    np.save(path / "popular/rows.npy", np.arange(N, dtype=np.int32))
    np.save(path / "popular/scores.npy", np.linspace(1, 0.1, N).astype(np.float32))
    config = CONFIG.model_dump(mode="json")
    Manifest("g1", until=0, past=0, actions=CONFIG.all_actions, config=config).write(path)
    opened = Generation.open(path)
    write_index(path / "bm25", opened.items, CONFIG)
    return opened


@dataclass
class Users:
    """A store of histories that can be slow or down."""

    known: dict[str, UserHistory] = field(default_factory=dict)
    wait: float = 0.0
    down: bool = False

    def user(self, user_id: str) -> UserHistory:
        time.sleep(self.wait)
        if self.down:
            raise Unavailable("the store does not answer")
        return self.known.get(user_id, UserHistory())


@pytest.fixture
def gateway(generation: Generation) -> Iterator[Gateway]:
    with ThreadPoolExecutor(8) as pool:
        yield made(generation, CONFIG, Users(), pool)


def made(generation: Generation, config: Config, users: Users, pool: ThreadPoolExecutor) -> Gateway:
    popular = Popular.open(generation, config)
    funnels = {}
    for name, scene in config.scenes.items():
        stages = {
            "recall": recall.build(generation, config, name),
            "prerank": Cut(300),
            "rank": Cut(50),
            "rerank": Select([]),
        }
        funnels[name] = pipeline(stages, scene, popular, pool, config.serve.budgets)
    return Gateway(config, Serving(generation, funnels), users, pool, now=lambda: 1_000_000)


def ids(page: object) -> list[str]:
    return [hit.item_id for hit in page.hits]  # type: ignore[attr-defined]


def test_a_stranger_gets_what_is_popular_and_in_stock(gateway: Gateway) -> None:
    page = gateway.page(Ask("home", user_id="nobody"))
    assert ids(page) == [f"i{n:02}" for n in (0, 1, 2, 3, 4, 5, 6, 8, 9, 10)]
    assert page.generation == "g1"
    assert page.degraded == ()
    assert page.hits[0].position == 1
    assert page.hits[0].why == "popular"
    assert page.hits[1].attributes == {
        "category": "Shoes/Hiking",
        "brand": "b1",
        "price": "1",
        "available": "True",
    }


def test_pages_follow_each_other_without_a_repeat_or_a_gap(gateway: Gateway) -> None:
    seen: list[str] = []
    cursor = ""
    for _ in range(20):
        page = gateway.page(Ask("home", limit=7, cursor=cursor))
        assert [hit.position for hit in page.hits] == list(
            range(len(seen) + 1, len(seen) + len(page.hits) + 1)
        )
        seen += ids(page)
        cursor = page.cursor
        if not cursor:
            break
    assert seen == [f"i{n:02}" for n in range(N) if n != 7]


def test_a_search_finds_the_words_and_marks_them(gateway: Gateway) -> None:
    page = gateway.page(Ask("search", text="  red\x07 things "))
    assert len(page.hits) == 5
    assert all(hit.title.startswith("Red") for hit in page.hits)
    assert page.hits[0].highlight.startswith("<b>Red</b> <b>thing</b> &amp; co")
    assert page.hits[0].why == "has the words"


@pytest.mark.parametrize(
    "text", ["🎉🎉", '"a AND (b', "-:*", "title:red^9", "\u202ered", "x" * 1000]
)
def test_any_text_is_only_text(gateway: Gateway, text: str) -> None:
    page = gateway.page(Ask("search", text=text))
    assert page.degraded == ()


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (Ask("search", text=""), BadQuery, "the query is empty"),
        (Ask("search", text=" \x00\n "), BadQuery, "the query is empty"),
        (Ask("search", text="x" * 10_000), BadQuery, "has 10000 characters, at most 1000"),
        (Ask("home", limit=-1), BadQuery, "limit = -1 is negative"),
        (Ask("home", limit=10_000), BadQuery, r"limit = 10000 is more than rank keeps here \(50\)"),
        (Ask("attic"), BadQuery, "unknown scene 'attic'; known: search, home, similar"),
        (Ask("similar"), BadQuery, "item_id is empty"),
        (Ask("similar", item_id="zz"), NotFound, "no item 'zz'"),
        (Ask("home", at=-5), BadQuery, "at = -5 is before 1970"),
        (Ask("home", cursor="abc"), BadQuery, "the cursor 'abc' is not one of ours"),
        (Ask("home", filters=(Filter("colour", ("x",)),)), BadQuery, "cannot filter on 'colour'"),
        (Ask("home", filters=(Filter("price", low=9.0, high=1.0),)), BadQuery, "swap the bounds"),
        (Ask("home", facets=("title",)), BadQuery, "facet 'title' is no attribute .* known: cat"),
        (Ask("home", sort="brand"), BadQuery, "cannot sort by 'brand'; here one can by price"),
    ],
)
def test_a_callers_fault_is_named(
    gateway: Gateway, ask: Ask, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        gateway.page(ask)


def test_filters_hold_and_facets_count_what_was_recalled(gateway: Gateway) -> None:
    asked = Ask(
        "home",
        filters=(Filter("category", ("Shoes",)), Filter("price", low=10.0, high=20.0)),
        facets=("category", "brand", "price"),
        limit=50,
    )
    page = gateway.page(asked)
    assert ids(page) == [f"i{n}" for n in range(10, 21) if n % 3 != 2]
    assert page.total == len(page.hits)
    assert dict(page.facets[0].values) == {"Shoes/Running": 3, "Shoes/Hiking": 4}
    assert sum(count for _, count in page.facets[1].values) == 7
    assert (page.facets[2].low, page.facets[2].high) == (10.0, 19.0)
    assert [bucket.count for bucket in page.facets[2].buckets] == [1, 1, 2, 1, 2]


@pytest.mark.parametrize("sort", ["price", "-price"])
def test_pages_in_the_callers_order_follow_each_other_too(gateway: Gateway, sort: str) -> None:
    seen, cursor = [], ""
    for _ in range(20):
        page = gateway.page(Ask("home", where="price > 4", sort=sort, limit=7, cursor=cursor))
        assert [step.name for step in page.steps if "." not in step.name] == [
            "recall",
            "sort",
            "rerank",
        ]
        seen += [float(hit.attributes["price"]) for hit in page.hits]
        cursor = page.cursor
        if not cursor:
            break
    assert seen == sorted((n for n in range(5, N) if n != 7), reverse=sort.startswith("-"))


def test_what_the_user_bought_is_not_shown_again(generation: Generation) -> None:
    bought = UserHistory(["i00", "gone", "i02"], ["purchase", "purchase", "click"], [1, 2, 3])
    with ThreadPoolExecutor(8) as pool:
        gateway = made(generation, CONFIG, Users({"ann": bought}), pool)
        query, _, _ = gateway.query(Ask("home", user_id="ann"), generation)
        page = gateway.page(Ask("home", user_id="ann"))
    assert query.history.rows.tolist() == [0, 2]  # the item that left the catalogue is skipped
    assert {name: int(code) for name, code in query.user.items()} == {"tier": 0}
    assert "i00" not in ids(page)
    assert "i02" in ids(page)


def test_what_is_counted_of_the_user_is_in_the_query(generation: Generation) -> None:
    known = UserHistory(["i02"], ["click"], [3], {"user.click.30d": 1.5, "user.cart.30d": 0.0})
    with ThreadPoolExecutor(8) as pool:
        gateway = made(generation, CONFIG, Users({"ann": known}), pool)
        query, _, _ = gateway.query(Ask("home", user_id="ann"), generation)
    sent, _ = wire.read_request(wire.request(query, Candidates.empty()))
    for one in (query, sent):
        counters = {name: float(value) for name, value in one.user.items()}
        assert counters == {"tier": 0, "user.click.30d": 1.5, "user.cart.30d": 0.0}


def test_actions_after_the_request_are_not_known_to_it(generation: Generation) -> None:
    later = UserHistory(["i01", "i02"], ["click", "click"], [5, 2_000_000])
    with ThreadPoolExecutor(8) as pool:
        gateway = made(generation, CONFIG, Users({"ann": later}), pool)
        query, _, _ = gateway.query(Ask("home", user_id="ann"), generation)
    assert query.history.rows.tolist() == [1]


def test_a_dead_or_slow_store_costs_the_history_and_not_the_page(generation: Generation) -> None:
    tight = CONFIG.model_copy(update={"serve": replace_budget(CONFIG, 1.0)})
    with ThreadPoolExecutor(8) as pool:
        dead = made(generation, CONFIG, Users(down=True), pool).page(Ask("home", user_id="ann"))
        slow = made(generation, tight, Users(wait=0.3), pool)
        query, _, steps = slow.query(Ask("home", user_id="ann"), generation)
    assert len(dead.hits) == 10
    assert "store: the store does not answer; went on with an empty history" in dead.degraded
    assert len(query.history) == 0
    assert steps[0].fault.startswith("no user state within 5 ms")


def replace_budget(config: Config, factor: float) -> object:
    return config.serve.model_copy(update={"budgets": factor})


def test_every_stage_can_be_missing_and_the_page_is_still_full(generation: Generation) -> None:
    class Broken:
        def run(self, query: object, candidates: object) -> object:
            raise Unavailable("nobody is home")

    with ThreadPoolExecutor(8) as pool:
        whole = made(generation, CONFIG, Users(), pool)
        for name in ("recall", "prerank", "rank", "rerank"):
            scene = CONFIG.scenes["home"]
            stages = {
                "recall": recall.build(generation, CONFIG, "home"),
                "prerank": Cut(300),
                "rank": Cut(50),
                "rerank": Select([]),
            } | {name: Broken()}
            popular = Popular.open(generation, CONFIG)
            funnel = pipeline(stages, scene, popular, pool, 100.0)  # type: ignore[arg-type]
            gateway = replace(whole, serving=Serving(generation, {"home": funnel}))
            page = gateway.page(Ask("home"))
            assert ids(page) == ids(whole.page(Ask("home")))
            assert page.degraded == (f"{name}: nobody is home",)


def test_a_trace_shows_the_evidence_and_the_funnel(gateway: Gateway) -> None:
    page = gateway.page(Ask("search", text="red", trace=1))
    assert page.hits[0].evidence["recall.bm25"] > 0
    names = [step.name for step in page.steps]
    assert names == ["recall.bm25", "recall.vector", "recall", "prerank", "rank", "rerank"] or (
        names == ["recall.bm25", "recall", "prerank", "rank", "rerank"]
    )
    assert gateway.page(Ask("search", text="red")).hits[0].evidence == {}


def test_the_same_question_gives_the_same_page(gateway: Gateway) -> None:
    first, again = (gateway.page(Ask("search", text="blue", request_id="r")) for _ in range(2))
    assert first.hits == again.hits


def test_pages_that_rules_cut_short_go_on_until_everything_was_shown(
    generation: Generation, gateway: Gateway
) -> None:
    codes = generation.items.codes("category")
    rerank = Rerank(layout=Layout({"category": Quota(codes.__getitem__, 1, 10)}))
    funnel = gateway.serving.pipelines["home"]
    pipeline = Pipeline({**funnel.stages, "rerank": rerank}, funnel.order)
    gateway.serving = Serving(generation, {"home": pipeline})
    seen, cursor, pages = list[str](), "", 0
    while pages == 0 or cursor:
        page = gateway.page(Ask("home", cursor=cursor))
        kinds = codes[generation.items.rows(ids(page))].tolist()
        assert len(set(kinds)) == len(kinds)
        seen += ids(page)
        cursor, pages = page.cursor, pages + 1
    assert len(seen) == len(set(seen)) == N - 1  # one is not available
    assert pages > N // 4
