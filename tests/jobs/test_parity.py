"""Stream equals batch: the same events through the live store on a real server, and Spark."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from benchmarks.features_parity import compared, run
from features.embedded import Embedded
from features.event import Event
from features.store import Store
from funnel.config import parse
from jobs import events, item_stats, items, user_stats, users
from jobs.work import Work

EXAMPLES = Path(__file__).parents[2] / "examples"
START, MINUTE, DAY = 1_700_000_000_000, 60_000, 86_400_000
CONFIG: dict[str, Any] = {
    "data": {"positive": {"click": 1.0, "cart": 3.0}},
    "features": {
        "history": 6,
        "half_lives": [0.25, 7.0],
        "users": True,
        "windows": ["1h", "6h", "2d"],
        "pairs": 1000,
        "settle_ms": 0,
    },
    "build": {"day_events": 1},
    "store": {"timeout_ms": 5000},
}

happened = st.tuples(
    st.integers(0, 3),  # user
    st.integers(0, 5),  # item
    st.sampled_from(["impression", "click", "cart", "dislike"]),
    st.one_of(
        st.integers(0, 6 * DAY),
        st.integers(0, 20).map(lambda n: n * MINUTE * 60),  # many at once, on edges of buckets
    ),
    st.sampled_from(["", "red tea", " Red  TEA", "\u7ea2\u8336"]),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Embedded(tmp_path_factory.mktemp("valkey")) as url, Store(url, parse(CONFIG)) as store:
        yield store


@settings(
    max_examples=4,
    phases=[Phase.generate],  # each example is a build: too slow to look for a smaller one
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    log=st.lists(happened, min_size=30, max_size=150),
    again=st.lists(st.integers(0, 1000), max_size=20),
    seed=st.integers(0, 1000),
)
def test_any_events_come_to_the_same_state(
    store: Store,
    opened: Callable[..., Work],
    data_set: Callable[..., Path],
    goods: object,
    log: list[tuple[int, int, str, int, str]],
    again: list[int],
    seed: int,
) -> None:
    store.ask(lambda client: client.flushall(), patient=True)
    told = [
        Event(f"u{user}", f"i{item:02d}", action, START + at, f"e{n:03d}", query=query)
        for n, (user, item, action, at, query) in enumerate(log)
    ]
    sent = [*told, *(told[place % len(told)] for place in again)]
    sent = [sent[place] for place in np.random.default_rng(seed).permutation(len(sent))]
    cuts = np.linspace(0, len(sent), 5).astype(int)
    for first, last in pairwise(cuts.tolist()):
        assert not store.track(sent[first:last]).refused
    rows = [
        {name: getattr(event, name) for name in ("event_id", "user_id", "item_id", "action")}
        | {"timestamp": event.timestamp, "query": event.query}
        for event in sent
    ]
    until = max(event.timestamp for event in told) + 1
    work = opened(data_set(items=goods, events=rows), CONFIG, until)
    for job in (items, events, users, item_stats, user_stats):
        job.run(work)
    found = compared(store, work)
    assert found["users"] == len({event.user_id for event in told})
    assert (found["histories differ"], found["counts differ"], found["pairs differ"]) == (0, 0, 0)
    assert found["worst"] <= 1e-9
    assert found["counts"] == 12 * 9


def test_a_part_of_a_real_data_set_comes_to_the_same_state(
    spark: SparkSession, shared_data: Callable[[str], Path], tmp_path: Path
) -> None:
    """All of it, and retrotech: python -m benchmarks.features_parity."""
    source = shared_data("ml-100k")
    found = run(source, EXAMPLES / "ml-100k/map.toml", 4000, tmp_path, lambda text: None)
    assert found["events"] == 4000
    assert (found["histories differ"], found["counts differ"], found["pairs differ"]) == (0, 0, 0)
    assert found["worst"] <= 1e-9
