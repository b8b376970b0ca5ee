import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnel.catalogue import Catalogue, write_catalogue
from funnel.config import Config
from funnel.errors import BadData, BadGeneration
from funnel.generation import (
    Generation,
    Manifest,
    current,
    generations,
    publish,
    rollback,
)

ITEMS = pa.table(
    {
        "item_id": ["a", "b", "c"],
        "title": ["Ann", "Bob", "Cid"],
        "brand": ["y", None, "x"],
        "tags": pa.array([["p", "q"], None, ["q"]], pa.list_(pa.string())),
        "price": [1.5, None, 3.0],
    }
)


def draft(path: Path, created_at: int = 1) -> Manifest:
    write_catalogue(path / "items", ITEMS, ["brand"], ["tags"], ["price"])
    np.save(path / "scores.npy", np.arange(3))
    config = Config()
    return Manifest(
        id=f"g{created_at}",
        until=10,
        past=5,
        actions=config.all_actions,
        config=config.model_dump(mode="json"),
        created_at=created_at,
    )


def test_a_published_generation_reads_as_it_was_written(tmp_path: Path) -> None:
    path = publish(tmp_path / "d", tmp_path / "root", draft(tmp_path / "d"))
    found = Generation.open(path)
    assert current(tmp_path / "root") == found.id == "g1"
    assert found.config == Config()
    items = found.items
    assert len(items) == 3
    assert items.rows(["c", "zz", "a"]).tolist() == [2, -1, 0]
    assert items.item_ids(np.array([2, 0])) == ["c", "a"]
    assert items.values("brand") == ["x", "y"]
    assert items.codes("brand").tolist() == [1, -1, 0]
    assert items.offsets("tags").tolist() == [0, 2, 2, 3]
    assert [items.values("tags")[code] for code in items.codes("tags")] == ["p", "q", "q"]
    np.testing.assert_array_equal(items.numbers("price"), [1.5, np.nan, 3.0])
    assert found.array("scores").tolist() == [0, 1, 2]


def test_a_changed_cut_or_missing_file_is_named(tmp_path: Path) -> None:
    for name, spoil, message in [
        ("flip", lambda file: file.write_bytes(file.read_bytes()[:-1] + b"?"), "checksum differs"),
        ("cut", lambda file: file.write_bytes(file.read_bytes()[:-9]), "bytes, its manifest says"),
        ("gone", lambda file: file.unlink(), "is missing"),
    ]:
        path = publish(tmp_path / f"{name}-d", tmp_path / name, draft(tmp_path / f"{name}-d"))
        spoil(path / "scores.npy")
        with pytest.raises(BadGeneration, match=message):
            Generation.open(path)


def test_another_format_and_a_broken_manifest_are_named(tmp_path: Path) -> None:
    path = publish(tmp_path / "d", tmp_path / "root", draft(tmp_path / "d"))
    table = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**table, "format": 99}))
    with pytest.raises(BadGeneration, match="has format 99"):
        Generation.open(path)
    (path / "manifest.json").write_text("{")
    with pytest.raises(BadGeneration, match="is not a manifest"):
        Generation.open(path)
    with pytest.raises(BadGeneration, match="no generation in"):
        Generation.open(tmp_path / "nothing")


def test_rollback_points_at_the_generation_before(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with pytest.raises(BadGeneration, match="no generation is published"):
        current(root)
    for created in (3, 2, 4):
        publish(tmp_path / f"d{created}", root, draft(tmp_path / f"d{created}", created))
    assert generations(root) == ["g2", "g3", "g4"]
    assert rollback(root) == "g3" == current(root)
    assert rollback(root) == "g2"
    with pytest.raises(BadGeneration, match="no generation before g2"):
        rollback(root)


def test_a_catalogue_that_is_not_sorted_or_lacks_a_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="not sorted by item_id"):
        write_catalogue(tmp_path, ITEMS.take([1, 0, 2]), [], [], [])
    with pytest.raises(BadData, match="the column 'colour'; the data set has: item_id, title"):
        write_catalogue(tmp_path, ITEMS, ["colour"], [], [])


@given(st.sets(st.text(min_size=1, max_size=8), min_size=1, max_size=40))
def test_every_id_finds_its_row(tmp_path_factory: pytest.TempPathFactory, ids: set[str]) -> None:
    names = sorted(ids)
    path = tmp_path_factory.mktemp("items")
    write_catalogue(path, pa.table({"item_id": names, "title": names}), [], [], [])
    assert Catalogue(path).rows(names).tolist() == list(range(len(names)))
