"""Items of a file, over a real socket into the log of a real Valkey."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.embedded import Embedded
from features.store import Store
from funnel.config import parse
from funnel.errors import BadData
from funnel.feed import items, sent
from funnel.intake import Intake
from funnel.live import CatalogueLog
from funnel.remote import RemoteCatalog
from funnel.service import CatalogService, Server

SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("price", pa.float64()),
        ("tags", pa.list_(pa.string())),
        ("created_at", pa.int64()),
    ]
)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CatalogueLog]:
    config = parse({"store": {"timeout_ms": 5000}})
    with Embedded(tmp_path_factory.mktemp("valkey")) as url, Store(url, config) as store:
        yield CatalogueLog(store, 1000)


@pytest.fixture(scope="module")
def remote(log: CatalogueLog) -> Iterator[RemoteCatalog]:
    server = Server("127.0.0.1:0", [CatalogService(log, lambda: Intake(SCHEMA))], 2).start()
    with RemoteCatalog(server.address) as remote:
        yield remote
    server.drain(0)


def test_json_lines_are_items_without_what_is_null(tmp_path: Path) -> None:
    file = tmp_path / "new.jsonl"
    file.write_text('{"item_id": "ä", "title": "T", "price": null}\n\n{"item_id": "b"}\n')
    assert list(items(file)) == [{"item_id": "ä", "title": "T"}, {"item_id": "b"}]


def test_a_parquet_file_and_a_folder_of_them_are_items_too(tmp_path: Path) -> None:
    made = datetime(2026, 1, 2, tzinfo=UTC)
    rows = [
        {"item_id": "a", "title": "A", "tags": ["x", "y"], "created_at": made},
        {"item_id": "b", "title": "B", "tags": None, "created_at": None},
    ]
    (tmp_path / "items").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "items/part-0.parquet")
    expected = [
        {**rows[0], "created_at": 1000 * int(made.timestamp())},
        {"item_id": "b", "title": "B"},
    ]
    assert list(items(tmp_path / "items")) == expected
    assert list(items(tmp_path / "items/part-0.parquet")) == expected


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", '{"item_id": "a"}\n{oops', "a.jsonl, line 2 is not JSON"),
        ("a.jsonl", "[1]", "line 1 must be one item, a JSON object, not list"),
        ("a.parquet", "no", "a.parquet is not a readable Parquet file"),
        ("a.csv", "a,b", "neither JSON lines"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BadData, match=said):
        list(items(tmp_path / name))


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.parquet"):
        with pytest.raises(BadData, match="cannot read"):
            list(items(tmp_path / name))


def test_all_arrive_in_order_and_refusals_have_their_place_in_the_file(
    log: CatalogueLog, remote: RemoteCatalog
) -> None:
    before, done = log.position(), []
    all = [{"item_id": f"i{n}", "title": "T", "price": float(n)} for n in range(25)]
    all[3] = {"item_id": "i3"}  # cannot be sent
    all[12] |= {"price": -1.0}
    all[13] |= {"price": "dear"}
    all[24] |= {"colour": "red"}
    told = sent(remote, all, done.append, batch=10)
    assert done == [10, 20, 25]
    assert (told.accepted, told.refusals) == (21, 4)
    assert [one.index for one in told.refused] == [3, 12, 13, 24]
    assert [one.item_id for one in told.refused] == ["i3", "i12", "i13", "i24"]
    assert "needs title" in told.refused[0].reason
    assert "no column 'colour'" in told.refused[3].reason
    found = [entry.change.items for entry in log.read(before, 100)]
    ids = pa.concat_tables(found).column("item_id").to_pylist()
    assert ids == [f"i{n}" for n in range(25) if n not in (3, 12, 13, 24)]
