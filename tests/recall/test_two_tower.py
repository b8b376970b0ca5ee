"""The channel of the two towers: what it is asked, and what it makes of a live catalogue."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from funnel.catalogue import write_catalogue
from funnel.config import parse
from funnel.errors import BadGeneration
from funnel.generation import Generation, Manifest
from funnel.types import History, Query
from recall.towers import Layers, Reader, Towers
from recall.two_tower import HALF_LIFE, TwoTower

N, D = 50, 64
CONFIG = parse({"data": {"categorical": ["category"], "text": {"title": 1.0}}})
CLICK = CONFIG.all_actions.index("click")


def goods(first: int, count: int) -> pa.Table:
    rows = range(first, first + count)
    return pa.table(
        {
            "item_id": [f"i{n:03}" for n in rows],
            "title": [f"name{n} lamp" for n in rows],
            "category": [f"home/kind{n % 3}" for n in rows],
        }
    )


@pytest.fixture(scope="module")
def generation(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    """Towers that are the identity: a query is near the items that have its words."""
    path, draw = tmp_path_factory.mktemp("towers"), np.random.default_rng(8)
    write_catalogue(path / "items", goods(0, N), ["category"], [], [])
    reader = Reader(1 << 16, "none", ("title",), ("category",))
    plain = Layers(*(np.zeros(s, np.float32) for s in ((D, 4), (4,), (4, D), (D,))))
    table = draw.normal(size=(1 << 16, D)).astype(np.float32)
    ids = 0.1 * draw.normal(size=(N, D)).astype(np.float32)
    towers = Towers(reader, table, ids, plain, plain, plain)
    (path / "two_tower").mkdir()
    towers.save(path / "two_tower/towers")
    vectors = towers.of_items(reader.items(goods(0, N)), np.arange(N))
    np.save(path / "two_tower/items.npy", vectors)
    shown = CONFIG.model_dump(mode="json")
    Manifest("g", until=0, past=0, actions=CONFIG.all_actions, config=shown).write(path)
    return Generation.open(path)


@pytest.fixture
def channel(generation: Generation) -> TwoTower:
    opened = TwoTower.open(generation, CONFIG)
    assert opened is not None
    return opened


def test_a_text_a_history_and_an_item_are_asked_each_in_their_way(channel: TwoTower) -> None:
    items, towers = channel.items.base.vectors, channel.towers
    rows = np.array([4, 9], np.int32)
    history = History(rows, np.full(2, CLICK, np.int8), np.array([1, 2]))
    text = Query(text="name7", item=3, history=history)
    np.testing.assert_array_equal(channel.asked(text), towers.of_text("name7"))
    np.testing.assert_array_equal(channel.asked(Query(item=3, history=history)), items[3])
    mean = (items[9] + 2 ** (-1 / HALF_LIFE) * items[4]) / (1 + 2 ** (-1 / HALF_LIFE))
    expected = mean / np.linalg.norm(mean)
    np.testing.assert_allclose(channel.asked(Query(history=history)), expected, atol=1e-6)
    assert not len(channel.find(Query(), None, 5))


def test_a_new_item_is_found_by_its_words(channel: TwoTower) -> None:
    assert channel.find(Query(text="name55"), None, 1).rows[0] != 55
    channel.upsert(np.arange(N, N + 10, dtype=np.int32), goods(N, 10))
    assert channel.find(Query(text="name55"), None, 1).rows.tolist() == [55]
    allowed = np.ones(N + 10, np.bool_)
    allowed[55] = False
    assert 55 not in channel.find(Query(text="name55"), allowed, N).rows
    assert channel.find(Query(item=55), None, 1).rows.tolist() == [55]


def test_an_item_that_changed_is_found_by_what_it_is_now(channel: TwoTower) -> None:
    channel.upsert(np.array([7], np.int32), goods(99, 1))
    assert channel.find(Query(text="name99"), None, 1).rows.tolist() == [7]
    assert channel.find(Query(text="name7"), None, 1).rows[0] != 7


def test_what_did_not_change_keeps_its_vector_when_it_is_sent_again(channel: TwoTower) -> None:
    before = channel.find(Query(text="name3 lamp"), None, N)
    channel.upsert(np.arange(N, dtype=np.int32), goods(0, N))
    after = channel.find(Query(text="name3 lamp"), None, N)
    np.testing.assert_array_equal(before.rows, after.rows)
    np.testing.assert_allclose(before.scores, after.scores, atol=1e-6)


def test_a_path_is_near_what_shares_its_beginning(channel: TwoTower) -> None:
    reader = channel.towers.reader
    one, same, other = (
        set(reader.items(goods(n, 1)).indices.tolist()) - set(reader.query(f"name{n} lamp"))
        for n in (0, 3, 1)
    )
    assert one == same
    assert len(one & other) == 1  # home


def test_towers_that_are_torn_are_an_error_of_the_generation(
    generation: Generation, tmp_path: Path
) -> None:
    towers = Towers.load(generation.file("two_tower/towers"))
    towers.save(tmp_path / "torn")
    (tmp_path / "torn/user.b.npy").unlink()
    with pytest.raises(BadGeneration, match=r"torn.*build the generation again"):
        Towers.load(tmp_path / "torn")


def test_the_channel_needs_no_torch() -> None:
    script = "import sys, recall.two_tower; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
