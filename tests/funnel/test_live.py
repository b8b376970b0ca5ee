"""The catalogue's log and who follows it, against a real Valkey."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.embedded import Embedded
from features.store import Store
from features.tokens import write_tokens
from funnel.catalogue import write_catalogue
from funnel.config import parse
from funnel.errors import Unavailable
from funnel.live import CatalogueLog, Follower
from funnel.overlay import Change, LiveCatalogue


def items(*ids: str, price: float = 1.0) -> Change:
    return Change(
        pa.table(
            {"item_id": list(ids), "title": [f"the {i}" for i in ids], "price": [price] * len(ids)}
        )
    )


def gone(*ids: str) -> Change:
    return Change(None, ids)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("items")
    change = items("a", "b", "c")
    assert change.items is not None
    write_catalogue(path, change.items, [], [], ["price"])
    write_tokens(path, ["the a", "the b", "the c"])
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    config = parse({"store": {"timeout_ms": 5000}})
    with Embedded(tmp_path_factory.mktemp("valkey")) as url, Store(url, config) as store:
        yield store


@pytest.fixture
def log(store: Store) -> CatalogueLog:
    store.ask(lambda client: client.delete("catalogue"), patient=True)
    return CatalogueLog(store, 1000)


def until(true: Callable[[], bool], seconds: float = 5.0) -> None:
    due = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < due
        time.sleep(0.01)


def state(catalogue: LiveCatalogue) -> list[object]:
    rows = np.arange(len(catalogue))
    alive = None if catalogue.alive is None else catalogue.alive.tolist()
    return [alive, catalogue.take(rows).to_pylist(), catalogue.numbers("price").tolist()]


def test_what_is_appended_is_read_in_order(log: CatalogueLog) -> None:
    positions = [log.append(change) for change in (items("x"), gone("x", "ü"), items("y", "z"))]
    entries = log.read("0", 10)
    assert [entry.position for entry in entries] == positions
    assert [entry.change.deleted for entry in entries] == [(), ("x", "ü"), ()]
    assert entries[2].change.items is not None
    assert entries[2].change.items.column("item_id").to_pylist() == ["y", "z"]
    assert [entry.position for entry in log.read(positions[1])] == positions[2:]
    assert log.position() == positions[2]
    assert abs(entries[0].at - time.time() * 1000) < 60_000


def test_a_follower_sees_changes_and_tells_them(log: CatalogueLog, place: Path) -> None:
    told: list[tuple[list[int], list[str]]] = []
    catalogue = LiveCatalogue(place)

    def tell(rows: np.ndarray, table: pa.Table) -> None:
        told.append((rows.tolist(), table.column("item_id").to_pylist()))

    follower = Follower(log, catalogue, "0", tell).start()
    try:
        log.append(items("b", "n", price=2.0))
        until(lambda: len(catalogue) == 4)
        log.append(gone("a"))
        until(lambda: catalogue.alive is not None)
        assert told == [([1, 3], ["b", "n"])]
        assert catalogue.numbers("price").tolist() == [1, 2, 1, 2]
    finally:
        follower.close()


def test_a_process_that_starts_anew_ends_in_the_same_state(log: CatalogueLog, place: Path) -> None:
    draw = np.random.default_rng(2)
    first = LiveCatalogue(place)
    follower = Follower(log, first, "0").start()
    for turn in range(40):
        ids = [f"n{n}" for n in draw.integers(0, 30, 4)]
        log.append(gone(*ids[:2]) if turn % 3 == 0 else items(*ids, price=turn))
    end = log.position()
    until(lambda: follower.position == end)
    follower.close()
    second = LiveCatalogue(place)
    Follower(log, second, "0").start().close()
    assert state(second) == state(first)
    assert len(first) > 10


def test_what_the_generation_has_already_is_not_applied_again(
    log: CatalogueLog, place: Path
) -> None:
    position = log.append(items("a", price=9.0))
    catalogue = LiveCatalogue(place)
    Follower(log, catalogue, position).start().close()
    assert catalogue.version == 0


def test_one_that_catches_up_need_not_wait(log: CatalogueLog, place: Path) -> None:
    catalogue = LiveCatalogue(place)
    follower = Follower(log, catalogue, "0")
    log.append(items("n"))
    assert follower.catch_up() == 1
    assert len(catalogue) == 4
    assert follower.catch_up() == 0


def test_a_log_that_lost_changes_is_told(
    store: Store, place: Path, caplog: pytest.LogCaptureFixture, log: CatalogueLog
) -> None:
    for _ in range(300):
        CatalogueLog(store, 1).append(items("n"))
    assert log.trimmed("1-0")
    Follower(log, LiveCatalogue(place), "1-0").start().close()
    assert "raise store.catalogue_length" in caplog.text


def test_without_a_store_the_generation_serves_and_nothing_is_acknowledged(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Store(Embedded(tmp_path, start=False), parse({})) as nobody:
        dead = CatalogueLog(nobody, 10)
        with pytest.raises(Unavailable):
            dead.append(items("n"))
        catalogue = LiveCatalogue(place)
        Follower(dead, catalogue, "0").start(1.0).close()
        assert len(catalogue) == 3
        assert "the catalogue is the generation's" in caplog.text
