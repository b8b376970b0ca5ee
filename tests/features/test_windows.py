from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.fold import DAY_MS, window_names, windows_of
from features.windows import BACK_MS, ItemWindows, reached, write
from funnel.config import parse
from funnel.errors import BadGeneration

CONFIG = parse(
    {
        "features": {"windows": ["1h", "6h", "7d", "30d"]},
        "data": {"positive": {"click": 1.0, "purchase": 4.0}},
    }
)
L = 1_700_000_000_000
ACTIONS = ("impression", "click", "purchase")
ROWS = np.array([3, 0, 1, 2, 0, 9], np.int32)

event = st.tuples(
    st.integers(-1, 9),  # row
    st.integers(-1, 6),  # action code
    st.integers(0, 40 * DAY_MS) | st.integers(0, 3_600_000),  # ms after L
)


def naive(events, at, rows):
    """By the definition, event by event."""
    counts = dict.fromkeys(((r, n) for r in rows.tolist() for n in window_names(CONFIG)), 0)
    for row, action, after in events:
        name = CONFIG.all_actions[action] if action >= 0 else ""
        for window in windows_of(CONFIG):
            age = at // window.width_ms - (L + after) // window.width_ms
            key = (row, f"live.{name}.in{window.name}")
            if key in counts and 0 <= age < window.ms // window.width_ms:
                counts[key] += 1
    return np.array([[counts[r, n] for n in window_names(CONFIG)] for r in rows.tolist()])


def columns(events):
    rows, actions, after = np.array(events, np.int64).reshape(-1, 3).T
    return rows, actions, L + after


@given(
    st.lists(event, max_size=40),
    st.lists(st.integers(0, 40), max_size=4),
    st.lists(st.integers(-BACK_MS, 40 * DAY_MS), max_size=4),
    st.integers(0, 10),
)
@settings(max_examples=150, deadline=None)
def test_counts_are_those_of_the_definition_whatever_the_order(events, cuts, later, items):
    windows = ItemWindows(CONFIG, items, L)
    for low, high in zip([0, *sorted(cuts)], [*sorted(cuts), len(events)], strict=True):
        windows.apply(*columns(events[low:high]))
    newest = max([L, *(L + t for row, action, t in events if row >= 0 and action in (0, 1, 3))])
    for after in [0, *later]:
        at = newest + after
        found = windows.read(ROWS, at)
        assert found.dtype == np.float32
        assert np.array_equal(found, naive(events, at, ROWS))


@given(st.lists(event, max_size=30), st.integers(0, 30), st.integers(0, 2 * DAY_MS))
@settings(max_examples=60, deadline=None)
def test_events_beside_those_applied_add_what_they_would_add(events, cut, after):
    windows = ItemWindows(CONFIG, 10, L)
    windows.apply(*columns(events[:cut]))
    at = L + 40 * DAY_MS + after
    rows, actions, times = columns([e for e in events[cut:] if e[0] >= 0])
    added = windows.recent(rows, actions, times, at, 10)
    every = np.arange(10, dtype=np.int32)
    assert np.array_equal(windows.read(every, at) + added, naive(events, at, every))


def test_a_generation_carries_its_windows(make_generation):
    random = np.random.default_rng(4)
    events = list(
        zip(
            random.integers(0, 6, 500).tolist(),
            random.integers(0, 7, 500).tolist(),
            random.integers(-45 * DAY_MS, 0, 500).tolist(),
            strict=True,
        )
    )
    config = CONFIG
    generation = make_generation(config=config, until=L)
    (generation.path / "windows").mkdir()
    for width, oldest in reached(windows_of(config), L).items():
        found: dict[tuple[int, int, int], int] = {}
        for row, action, after in events:
            if (L + after) // width >= oldest:
                key = (L + after) // width, row, action
                found[key] = found.get(key, 0) + 1
        keys = np.array(list(found)[::-1]).reshape(-1, 3)
        counts = np.array(list(found.values())[::-1])
        write(generation.path / "windows", width, *keys.T, counts)
    windows = ItemWindows.open(generation)
    rows = np.arange(6, dtype=np.int32)
    assert np.array_equal(windows.read(rows, L), naive(events, L, rows))
    later = L + 3 * DAY_MS
    windows.apply([2], [1], [later])
    assert np.array_equal(
        windows.read(rows, later), naive([*events, (2, 1, 3 * DAY_MS)], later, rows)
    )


def test_a_generation_without_them_has_counted_nothing(make_generation):
    windows = ItemWindows.open(make_generation(config=CONFIG))
    assert not windows.read(ROWS[:3], L).any()


def test_a_file_of_another_shape_is_refused(make_generation):
    generation = make_generation(config=CONFIG)
    (generation.path / "windows").mkdir()
    np.save(generation.path / "windows/300000.npy", np.zeros((3, 2), np.int32))
    with pytest.raises(BadGeneration, match=r"300000.npy has shape \(3, 2\)"):
        ItemWindows.open(generation)


def test_memory_stays_bounded_while_time_goes_by():
    windows = ItemWindows(CONFIG, 100, L)
    random = np.random.default_rng(1)
    sizes = []
    for day in range(90):
        times = L + day * DAY_MS + np.sort(random.integers(0, DAY_MS, 300))
        windows.apply(random.integers(0, 100, 300), random.integers(0, 7, 300), times)
        sizes.append(windows.nbytes)
    assert max(sizes[60:]) < 1.1 * max(sizes[30:60])


def test_without_windows_nothing_is_counted():
    windows = ItemWindows(parse({}), 5, L)
    windows.apply([1], [1], [L])
    assert windows.names == ()
    assert windows.read(np.arange(5, dtype=np.int32), L).shape == (5, 0)
