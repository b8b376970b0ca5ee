from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.fold import DAY_MS, pair_key, pair_names
from features.pairs import ItemHashes, Pairs, write
from funnel.config import parse
from funnel.errors import BadData, BadGeneration

L = 1_700_000_000_000
CONFIG = parse(
    {
        "features": {"half_lives": [1.0, 7.0], "pairs": 1000},
        "data": {"positive": {"click": 1.0, "purchase": 4.0}},
    }
)
TEXTS = ["red shoes", "scarf", "böots"]
KEYS = [pair_key(text, f"i{row}") for text in TEXTS for row in range(6)]

event = st.tuples(
    st.integers(0, len(KEYS) - 1), st.integers(-1, 6), st.integers(-9 * DAY_MS, 50 * DAY_MS)
)


def columns(events):
    keys = np.array([KEYS[key] for key, _, _ in events], np.uint64)
    actions = np.array([action for _, action, _ in events], np.int64)
    return keys, actions, np.array([L + after for _, _, after in events], np.int64)


def naive(events, at, config=CONFIG):
    found = np.zeros((len(KEYS), len(pair_names(config))))
    for key, action, after in events:
        name = f"pair.{config.all_actions[action]}.7d" if action >= 0 else ""
        if name in pair_names(config):
            found[key, pair_names(config).index(name)] += 0.5 ** ((at - L - after) / (7 * DAY_MS))
    return found


@given(st.lists(event, max_size=40), st.lists(st.integers(0, 40), max_size=3))
@settings(max_examples=100, deadline=None)
def test_counts_are_those_of_the_definition_whatever_the_order(events, cuts):
    pairs, at = Pairs(CONFIG, L), L + 50 * DAY_MS
    for low, high in zip([0, *sorted(cuts)], [*sorted(cuts), len(events)], strict=True):
        pairs.apply(*columns(events[low:high]))
    found = pairs.part(np.array(KEYS, np.uint64))
    assert found.read(np.arange(len(KEYS)), at) == pytest.approx(naive(events, at), rel=1e-6)
    exact = found.state * 2.0 ** (-50 / 7)
    if not found.shift[0]:
        assert exact == pytest.approx(naive(events, at), rel=1e-9)


@given(st.lists(event, max_size=60), st.lists(st.integers(0, 60), max_size=5))
@settings(max_examples=100, deadline=None)
def test_who_leaves_does_not_depend_on_how_the_log_was_cut(events, cuts):
    few = parse({"features": {"pairs": 4}})
    whole, parts = Pairs(few, L), Pairs(few, L)
    whole.apply(*columns(events))
    for low, high in zip([0, *sorted(cuts)], [*sorted(cuts), len(events)], strict=True):
        parts.apply(*columns(events[low:high]))
    every = np.array(KEYS, np.uint64)
    assert np.array_equal(whole.read(every, L), parts.read(every, L))
    assert len(whole) == len(parts) <= 6


def test_the_most_used_pairs_stay():
    pairs = Pairs(parse({"features": {"pairs": 4}}), L)
    keys, click = np.array(KEYS, np.uint64), CONFIG.all_actions.index("click")
    often = np.repeat(keys[:3], 5)
    pairs.apply(often, np.full(15, click), np.full(15, L))
    for key in keys[3:]:
        pairs.apply(key[None], np.array([click]), np.array([L]))
    assert (pairs.read(keys[:3], L).max(axis=1) == 5).all()
    assert len(pairs) <= 6


def test_a_generation_carries_its_pairs(make_generation):
    generation = make_generation(config=CONFIG, until=L)
    (generation.path / "pairs").mkdir()
    state = np.random.default_rng(2).random((len(KEYS), 3)) * 9
    assert write(generation.path / "pairs", np.array(KEYS, np.uint64), state, 1000) == len(KEYS)
    pairs = Pairs.open(generation)
    keys = ItemHashes(generation).keys(" RED  shoes", np.array([4, 0, 5], np.int32))
    assert keys.tolist() == [KEYS[4], KEYS[0], KEYS[5]]
    found = pairs.read(np.append(keys, np.uint64(17)), L + 7 * DAY_MS)
    assert found[:3] == pytest.approx(state[[4, 0, 5]] / 2, rel=1e-6)
    assert not found[3].any()


def test_the_largest_are_written(tmp_path):
    state = np.array([[1.0, 0.0], [0.0, 3.0], [2.0, 0.0], [1.0, 0.0]])
    assert write(tmp_path, np.array([9, 8, 7, 6], np.uint64), state, 3) == 3
    assert np.load(tmp_path / "keys.npy").tolist() == [6, 7, 8]
    assert np.load(tmp_path / "state.npy").tolist() == [[1, 0], [2, 0], [0, 3]]
    with pytest.raises(BadData, match="is there twice"):
        write(tmp_path, np.array([9, 9], np.uint64), state[:2], 3)


def test_a_state_of_another_shape_is_refused(make_generation):
    generation = make_generation(config=CONFIG)
    (generation.path / "pairs").mkdir()
    np.save(generation.path / "pairs/keys.npy", np.arange(3, dtype=np.uint64))
    np.save(generation.path / "pairs/state.npy", np.zeros((3, 9)))
    with pytest.raises(BadGeneration, match=r"state.npy has shape \(3, 9\), expected \(3, 3\)"):
        Pairs.open(generation)


def test_without_room_nothing_is_counted():
    pairs = Pairs(parse({"features": {"pairs": 0}}), L)
    pairs.apply(*columns([(0, 1, 0)]))
    assert len(pairs) == 0
    assert pairs.names == ()
