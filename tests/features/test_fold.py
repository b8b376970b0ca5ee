from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.event import Event, UserHistory
from features.fold import (
    DAY_MS,
    FAR,
    Histories,
    ItemCounters,
    counted,
    counter_names,
    longest,
    pair_key,
    pair_names,
    span_ms,
    user_names,
    window_names,
    windows_of,
)
from funnel.config import Config, parse
from funnel.errors import BadConfig, BadGeneration
from funnel.types import Query

L = 1_700_000_000_000
DAYS = 400
CONFIG = Config()
NAMES = counter_names(counted(CONFIG), CONFIG.features.half_lives)

events = st.lists(
    st.tuples(
        st.integers(0, 3),  # row
        st.integers(0, 6),  # action code
        st.integers(L - DAYS * DAY_MS, L + DAYS * DAY_MS),
    ),
    max_size=40,
)


def folded(events, landmark=L, cuts=()):
    counters = ItemCounters.empty(CONFIG, 4, landmark)
    for low, high in zip((0, *cuts), (*cuts, len(events)), strict=True):
        part = np.array(events[low:high], np.int64).reshape(-1, 3)
        counters.apply(part[:, 0], part[:, 1], part[:, 2])
    return counters


def naive(events, at):
    """The definition: every event alone, with its own age."""
    table = np.zeros((4, len(NAMES)))
    for row, code, time in events:
        for c, name in enumerate(NAMES):
            _, action, rest = name.split(".", 2)
            if action == CONFIG.all_actions[code]:
                table[row, c] += 2.0 ** (-(at - time) / (float(rest[:-1]) * DAY_MS))
    return table


@given(events, st.integers(0, 40 * DAY_MS))
def test_counters_equal_the_sum_of_decayed_events(events, later):
    at = max([L, *(time for *_, time in events)]) + later
    read = folded(events).read(np.arange(4), at)
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, naive(events, at), rtol=1e-6, atol=1e-30)


@given(events, st.randoms(use_true_random=False))
def test_the_order_of_events_does_not_matter(events, random):
    shuffled = list(events)
    random.shuffle(shuffled)
    np.testing.assert_allclose(
        folded(shuffled).read(np.arange(4), L + DAY_MS),
        folded(events).read(np.arange(4), L + DAY_MS),
        rtol=1e-6,
    )


@given(events, st.integers(0, 40), st.integers(0, 40))
def test_how_events_are_cut_into_calls_does_not_matter_to_the_last_bit(events, a, b):
    cuts = sorted(min(cut, len(events)) for cut in (a, b))
    at = L + 3 * DAY_MS
    whole, parts = folded(events), folded(events, cuts=cuts)
    assert np.array_equal(whole.read(np.arange(4), at), parts.read(np.arange(4), at))


def test_moving_the_landmark_changes_no_bit():
    events = [(0, 1, L + hour * 3_600_000) for hour in range(0, 30 * 24, 7)]
    still, moved = folded(events), folded(events)
    for h in range(len(moved.spans)):
        moved._reach(h, L + (FAR + 7) * moved.spans[h])
    assert all(moved.shift)
    at = L + 31 * DAY_MS + 12345
    assert np.array_equal(still.read(np.arange(4), at), moved.read(np.arange(4), at))
    more = np.array([0, 0]), np.array([1, 2]), np.array([L + 30 * DAY_MS, L])
    still.apply(*more)
    moved.apply(*more)
    assert np.array_equal(still.read(np.arange(4), at), moved.read(np.arange(4), at))


def test_counters_live_through_decades_without_overflow():
    counters = ItemCounters.empty(CONFIG, 1, L)
    years = np.arange(60) * 365 * DAY_MS + L
    for time in years:
        counters.apply(np.array([0]), np.array([1]), np.array([time]))
    read = counters.read(np.array([0]), int(years[-1]))[0]
    assert np.all(np.isfinite(counters.state))
    assert read[NAMES.index("live.click.1d")] == pytest.approx(1)
    assert read[NAMES.index("live.click.30d")] == pytest.approx(1 / (1 - 2 ** -(365 / 30)), 1e-4)


def test_unknown_rows_and_actions_that_do_not_count_add_nothing():
    counters = ItemCounters.empty(CONFIG, 2, L)
    codes = [1, 1, -1, CONFIG.all_actions.index("rating")]
    counters.apply(np.array([-1, 2, 0, 0]), np.array(codes), np.full(4, L))
    assert not counters.state.any()


def test_a_read_before_the_landmark_is_one_at_the_landmark():
    counters = folded([(0, 1, L - DAY_MS)])
    rows = np.array([0])
    assert np.array_equal(counters.read(rows, L - 9 * DAY_MS), counters.read(rows, L))


def test_weights_count_an_event_several_times():
    counters = ItemCounters.empty(CONFIG, 1, L)
    counters.apply(np.array([0]), np.array([1]), np.array([L]), np.array([2.5]))
    assert counters.read(np.array([0]), L)[0, NAMES.index("live.click.7d")] == 2.5


def test_hydrate_gives_one_column_a_counter_as_of_the_query():
    counters = folded([(2, 1, L), (2, 0, L)])
    columns = counters.hydrate(Query(at=L + DAY_MS), np.array([2, 0], np.int32))
    assert tuple(columns) == NAMES
    assert columns["live.click.1d"].tolist() == [0.5, 0]
    assert all(column.dtype == np.float32 and column.shape == (2,) for column in columns.values())
    assert counters.hydrate(Query(at=L), np.empty(0, np.int32))["live.click.1d"].shape == (0,)


def test_a_part_is_a_copy_of_some_items():
    counters = folded([(2, 1, L)])
    part = counters.part(np.array([2, 1]))
    part.apply(np.array([0]), np.array([1]), np.array([L]))
    column = NAMES.index("live.click.1d")
    assert part.read(np.array([0, 1]), L)[:, column].tolist() == [2, 0]
    assert counters.read(np.array([2, 1]), L)[:, column].tolist() == [1, 0]


def test_counters_open_from_a_generation(generation, config):
    counters = ItemCounters.open(generation)
    state = np.load(generation.path / "counters/state.npy")
    rows = np.array([5, 0])
    np.testing.assert_allclose(
        counters.read(rows, generation.manifest.until), state[rows].astype(np.float32)
    )
    counters.apply(np.array([5]), np.array([1]), np.array([generation.manifest.until]))
    assert np.array_equal(state, np.load(generation.path / "counters/state.npy"))


def test_a_generation_without_events_has_counters_of_zero(make_generation):
    counters = ItemCounters.open(make_generation(without=("counters",)))
    assert counters.state.shape == (6, 10)
    assert not counters.state.any()


def test_counters_of_another_config_are_an_error(make_generation):
    generation = make_generation()
    (generation.path / "counters/names.json").write_text('["live.click.2d"]')
    with pytest.raises(BadGeneration, match=r"live\.click\.2d.*build the generation again"):
        ItemCounters.open(generation)


@pytest.mark.parametrize("days", [0.0, -1.0, float("nan"), float("inf")])
def test_half_lives_must_be_positive(days):
    with pytest.raises(BadConfig, match=r"features\.half_lives"):
        span_ms(days)


def test_names_of_actions_may_have_dots():
    config = parse(
        {
            "data": {"actions": ["app.open"], "positive": {"app.open": 1.0}},
            "features": {"half_lives": [0.5]},
        }
    )
    counters = ItemCounters.empty(config, 1, L)
    assert counters.names == ("live.impression.0.5d", "live.app.open.0.5d")
    counters.apply(np.array([0]), counters.codes(["app.open", "nothing"])[:1], np.array([L]))
    assert counters.read(np.array([0]), L).tolist() == [[0, 1]]
    assert counters.codes(["app.open", "nothing"]).tolist() == [7, -1]


user_events = st.lists(
    st.builds(
        Event,
        user_id=st.sampled_from(["ann", "bob"]),
        item_id=st.sampled_from(["a", "b", "c"]),
        action=st.sampled_from(["impression", "click", "dislike"]),
        timestamp=st.integers(L, L + 5),
        event_id=st.integers(0, 20).map("e{}".format),
    ),
    max_size=30,
    unique_by=lambda event: event.event_id,
)


@settings(max_examples=200)
@given(user_events, st.randoms(use_true_random=False))
def test_histories_do_not_depend_on_order_or_repeats(events, random):
    late = [*events, *events[:5]]
    random.shuffle(late)
    histories = Histories(4)
    assert sum([histories.add(event) for event in late]) == len(events)
    for user in ("ann", "bob"):
        own = [e for e in events if e.user_id == user and e.action != "impression"]
        own = sorted(own, key=lambda e: (e.timestamp, e.event_id))[-4:]
        history = histories.user(user)
        assert list(history.item_ids) == [e.item_id for e in own]
        assert list(history.actions) == [e.action for e in own]
        assert list(history.times) == [e.timestamp for e in own]


def test_a_snapshot_adds_only_what_is_older_than_all_that_is_there():
    histories = Histories(4)
    histories.add(Event("ann", "d", "click", 50))
    old = UserHistory(("a", "c", "b", "x"), ("click", "click", "cart", "click"), (10, 30, 20, 50))
    histories.seed("ann", old)
    assert histories.user("ann") == UserHistory(
        ("a", "b", "c", "d"), ("click", "cart", "click", "click"), (10, 20, 30, 50)
    )
    assert histories.before("ann", 30).item_ids == ("a", "b")
    histories.seed("ann", UserHistory(("z",), ("click",), (5,)))
    assert histories.user("ann").item_ids == ("a", "b", "c", "d")
    assert len(histories.user("nobody")) == 0


def test_windows_count_whole_buckets_the_newest_included():
    config = parse({"features": {"windows": ["7d", "1h", "24h", "30d", "1d"]}})
    windows = windows_of(config)
    assert [w.name for w in windows] == ["1h", "1d", "7d", "30d"]
    assert [w.buckets for w in windows] == [12, 24, 7, 30]
    assert [w.width_ms for w in windows] == [300_000, 3_600_000, DAY_MS, DAY_MS]
    assert window_names(config)[:5] == (
        *(f"live.impression.in{name}" for name in ("1h", "1d", "7d", "30d")),
        "live.click.in1h",
    )


@pytest.mark.parametrize("name", ["", "0h", "1m", "61d", "25h", "1.5d", "-1d", "1"])
def test_what_is_no_window_is_refused(name):
    with pytest.raises(BadConfig, match=r"features.windows: '.*' is no window; hours"):
        parse({"features": {"windows": [name]}})


def test_users_and_pairs_are_counted_by_the_longest_half_life():
    config = parse({"features": {"half_lives": [7.0, 30.0, 1.0]}})
    assert longest(config) == 30
    assert user_names(config)[:2] == ("user.impression.30d", "user.click.30d")
    assert pair_names(config)[:2] == ("pair.impression.30d", "pair.click.30d")


def test_keys_of_pairs_ignore_case_and_space_and_nothing_else():
    assert pair_key("  Red\tShoes ", "i1") == pair_key("red shoes", "i1")
    assert pair_key("red shoes", "i1") == 3277073310071237246
    keys = {pair_key(text, item) for text in ("red", "shoes", "i1", "i2") for item in ("i1", "red")}
    assert len(keys) == 8
    assert pair_key("red", "i1") != pair_key("i1", "red")
