"""A generation that is built after changes has what the live catalogue before it had."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.embedded import Embedded
from features.store import Store
from funnel.changes import FOLDER, ChangeArchive, archived, end, folded
from funnel.config import parse
from funnel.errors import BadData
from funnel.generation import Generation
from funnel.live import CatalogueLog
from funnel.overlay import Change, LiveCatalogue
from funnel.types import Query
from jobs import events, index_bm25, items
from jobs.work import Work
from recall.bm25 import BM25

SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("category", pa.string()),
        ("price", pa.float64()),
        ("available", pa.bool_()),
        ("created_at", pa.int64()),
    ]
)


def upsert(*rows: dict[str, Any]) -> Change:
    return Change(pa.Table.from_pylist(list(rows), SCHEMA))


def gone(*ids: str) -> Change:
    return Change(None, ids)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    config = parse({"store": {"timeout_ms": 5000}})
    with Embedded(tmp_path_factory.mktemp("valkey")) as url, Store(url, config) as store:
        yield store


@pytest.fixture
def log(store: Store) -> CatalogueLog:
    store.ask(lambda client: client.delete("catalogue"), patient=True)
    return CatalogueLog(store, 10_000)


def archive(path: Path, log: CatalogueLog) -> None:
    ChangeArchive(path, log, 60.0).close()


def plain(table: pa.Table) -> dict[str, dict[str, Any]]:
    return {row["item_id"]: row for row in table.to_pylist()}


def test_a_fold_is_the_changes_one_after_the_other(tmp_path: Path, log: CatalogueLog) -> None:
    draw = random.Random(3)
    first = [{"item_id": f"i{n:02}", "title": f"lamp {n}", "price": float(n)} for n in range(20)]
    oracle = {row["item_id"]: row for row in first}
    for turn in range(120):
        ids = [f"i{draw.randrange(40):02}" for _ in range(3)]
        if draw.random() < 0.4:
            log.append(gone(*ids))
            for id in ids:
                oracle.pop(id, None)
        else:
            rows = [{"item_id": id, "title": f"{turn} {place}"} for place, id in enumerate(ids)]
            log.append(upsert(*rows))
            oracle |= {row["item_id"]: row for row in rows}
        if turn % 30 == 0:
            archive(tmp_path, log)  # a restart goes on where the last file ends
    archive(tmp_path, log)
    assert len(list((tmp_path / FOLDER).glob("*.parquet"))) == 5
    found = folded(pa.Table.from_pylist(first, SCHEMA), tmp_path)
    assert found.position == end(tmp_path) == log.position()
    assert found.items.column("item_id").to_pylist() == sorted(oracle)
    assert found.items.schema == SCHEMA
    empty = dict.fromkeys(SCHEMA.names)
    assert plain(found.items) == {id: {**empty, **row} for id, row in oracle.items()}


def test_what_the_data_set_has_already_is_not_folded(tmp_path: Path, log: CatalogueLog) -> None:
    rows = pa.Table.from_pylist([{"item_id": "a", "title": "of the data set"}], SCHEMA)
    log.append(upsert({"item_id": "a", "title": "old"}))
    archive(tmp_path, log)
    arrived = int(log.position().split("-")[0])
    assert plain(folded(rows, tmp_path, arrived).items)["a"]["title"] == "old"
    later = folded(rows, tmp_path, arrived + 1)
    assert plain(later.items)["a"]["title"] == "of the data set"
    assert [entry.position for entry in log.read(later.position)] == []
    assert folded(rows, "").items is rows
    assert folded(rows, "").position == "0"


def test_a_file_that_is_no_archive_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    pq.write_table(pa.table({"x": [1]}), tmp_path / FOLDER / "5-0.parquet")
    with pytest.raises(BadData, match=r"5-0\.parquet is not a file of the catalogue's archive"):
        folded(SCHEMA.empty_table(), tmp_path)


def scores(generation: Generation, channel: BM25, text: str) -> dict[str, float]:
    found = channel.find(Query(scene="search", text=text), generation.items.alive, 1000)
    ids = generation.items.item_ids(found.rows)
    return dict(zip(ids, found.scores.tolist(), strict=True))


def attributes(catalogue: Any) -> dict[str, list[Any]]:
    alive = catalogue.alive
    rows = np.arange(len(catalogue)) if alive is None else np.flatnonzero(alive)
    values = [*catalogue.values("category"), None]
    return {
        item["item_id"]: [
            item,
            values[catalogue.codes("category")[row]],
            np.nan_to_num(catalogue.numbers("price")[row], nan=-1),
            np.nan_to_num(catalogue.numbers("available")[row], nan=-1),
        ]
        for row, item in zip(rows, catalogue.take(rows).to_pylist(), strict=True)
    }


def test_a_build_folds_what_the_live_catalogue_had(
    opened: Callable[..., Work],
    data_set: Callable[..., Path],
    goods: list[dict[str, Any]],
    tmp_path: Path,
    log: CatalogueLog,
) -> None:
    clicks = [
        {"user_id": "u", "item_id": good["item_id"], "action": "click", "timestamp": 10**12 + 10**9}
        for good in goods
    ]
    data, settings = data_set(items=goods, events=clicks), {"log": {"dir": str(tmp_path)}}
    work = opened(data, settings)
    for job in (items, events, index_bm25):
        job.run(work)
    assert items.position(work) == "0"
    before = Generation.open(work.draft, check=False, live=True)
    channel = BM25.open(before, work.config)
    assert channel is not None
    lamp = {"category": "Home/Shades", "price": 3.5, "available": True, "created_at": 10**12}
    changes = [
        upsert({"item_id": "i03", "title": "Lamp lamp chandelier", **lamp}),
        gone("i00", "i01", "no such"),
        upsert({"item_id": "n1", "title": "New lamp"}, {"item_id": "n2", "title": "Gone lamp"}),
        gone("n2"),
        upsert({"item_id": "i01", "title": "Back again, a lamp", **lamp}),
    ]
    entries = [log.append(change) for change in changes]
    assert isinstance(before.items, LiveCatalogue)
    applied = before.items.apply(changes)
    channel.upsert(applied.rows, applied.items)
    archive(tmp_path, log)
    # Who reads the archive instead of the log comes to the same rows.
    again = Generation.open(work.draft, check=False, live=True).items
    assert isinstance(again, LiveCatalogue)
    again.apply(list(archived(tmp_path)))
    every = np.arange(len(before.items))
    assert again.item_ids(every) == before.items.item_ids(every)
    assert attributes(again) == attributes(before.items)
    assert [len(change) for change in archived(tmp_path, entries[1])] == [2, 1, 1]

    assert items.run(work) == {"items": 12, "upserted": 3, "deleted": 1}
    assert events.run(work) == {"events": 12, "unknown_actions": 0, "unknown_items": 1}
    index_bm25.run(work)
    assert items.position(work) == log.position()
    after = Generation.open(work.draft, check=False)
    assert attributes(after.items) == attributes(before.items)
    live = channel
    folded_channel = BM25.open(after, work.config)
    assert folded_channel is not None
    # The same items as a data set of their own.
    fresh = opened(data_set(items=list(plain(after.items.table).values())))
    for job in (items, index_bm25):
        job.run(fresh)
    rebuilt = Generation.open(fresh.draft, check=False)
    rebuilt_channel = BM25.open(rebuilt, fresh.config)
    assert rebuilt_channel is not None
    for text in ("lamp", "chandelier", "new lamp"):
        found = scores(after, folded_channel, text)
        assert found == pytest.approx(scores(rebuilt, rebuilt_channel, text), abs=1e-6)
        assert set(scores(before, live, text)) == set(found) != set()
