"""The live store before the first start: what a generation knows of its users."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.embedded import Embedded
from features.event import Event
from features.fold import counted, span_ms
from features.store import Store
from funnel.catalogue import write_catalogue
from funnel.config import Config, parse
from funnel.generation import Generation, Manifest
from funnel.snapshot import snapshot

UNTIL, DAY = 1_700_000_000_000, 86_400_000


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return parse(
        {
            "features": {"users": True, "half_lives": [1.0, 7.0], "history": 5},
            "store": {"dir": str(tmp_path / "valkey"), "timeout_ms": 5000},
            "build": {"root": str(tmp_path / "generations")},
        }
    )


@pytest.fixture
def generation(config: Config, tmp_path: Path) -> Generation:
    path = tmp_path / "generations/g1"
    items = pa.table({"item_id": ["a", "b"], "title": ["A", "B"]})
    write_catalogue(path / "items", items, [], [], [])
    click = config.all_actions.index("click")
    width = len(counted(config))
    users = pa.table(
        {
            "user_id": ["ann", "bob", "eve", "looks"],
            "item_rows": pa.array([[0, 1], [1], [], []], pa.list_(pa.int32())),
            "actions": pa.array([[click, click], [click], [], []], pa.list_(pa.int8())),
            "times": pa.array([[UNTIL - 9, UNTIL - 5], [UNTIL - 7], [], []], pa.list_(pa.int64())),
            "counts": pa.array(
                [[1.5] * width, [3.0] * width, [], [7.0] * width], pa.list_(pa.float64())
            ),
        }
    )
    write_catalogue(path / "users", users, [], [], [], key="user_id")
    actions, settings = config.all_actions, config.model_dump(mode="json")
    Manifest(id="g1", until=UNTIL, past=0, actions=actions, config=settings).write(path)
    return Generation.open(path)


@pytest.fixture
def store(config: Config, tmp_path: Path) -> Iterator[Store]:
    with Embedded(tmp_path / "valkey") as url, Store(url, config) as store:
        yield store


def counts(store: Store, user: str) -> np.ndarray:
    """As of the cut."""
    table = store.ask(lambda client: client.get(f"{{u:{user}}}:counts"))
    found = store._decayed([table], store._own_layout, (store._own_span,), UNTIL)
    return np.asarray(found[0])


def test_users_come_with_histories_and_counters(store: Store, generation: Generation) -> None:
    assert snapshot(store, generation) == 2
    assert store.seeded() == "g1"
    assert store.user("ann").item_ids == ("a", "b")
    assert store.user("ann").times == (UNTIL - 9, UNTIL - 5)
    np.testing.assert_allclose(counts(store, "ann"), 1.5, rtol=1e-12)
    np.testing.assert_allclose(counts(store, "looks"), 7.0, rtol=1e-12)
    assert len(store.user("looks")) == 0
    assert not counts(store, "eve").any()


def test_loading_it_twice_changes_nothing_and_live_state_wins(
    store: Store, generation: Generation, config: Config
) -> None:
    snapshot(store, generation)
    store.delete_user("bob")
    store.track([Event("ann", "b", "click", UNTIL + DAY)])
    assert snapshot(store, generation) == 0
    assert len(store.user("bob")) == 0
    assert not counts(store, "bob").any()
    fallen = 2.0 ** (DAY / span_ms(7.0))
    place = counted(config).index("click")
    found = counts(store, "ann")
    np.testing.assert_allclose(found[place], 1.5 + fallen, rtol=1e-12)
    np.testing.assert_allclose(np.delete(found, place), 1.5, rtol=1e-12)


def test_the_command_loads_a_generation_by_its_name(
    generation: Generation, config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from funnel.cli import features_snapshot

    file = tmp_path / "funnel.toml"
    where = {"store": {"dir": config.store.dir}, "build": {"root": config.build.root}}
    file.write_text(
        "\n".join(
            f"[{name}]\n{k} = {json.dumps(v)}" for name, t in where.items() for k, v in t.items()
        )
    )
    features_snapshot("g1", file, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"generation": "g1", "users": 2}
