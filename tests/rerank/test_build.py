"""The stage that the selectors make, over a generation written by hand."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from funnel.catalogue import write_catalogue
from funnel.config import Config, parse
from funnel.errors import BadConfig, BadQuery
from funnel.generation import Generation, Manifest
from funnel.types import Candidates, Query
from rerank import build
from rerank.signatures import signatures

ITEMS = 200
TITLES = [f"nice thing number {n}" for n in range(ITEMS)]


def unit(n: int, width: int = 8, seed: int = 5) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)
    vectors[::7] = 0  # items without a text
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def candidates(n: int, seed: int = 3) -> Candidates:
    random = np.random.default_rng(seed)
    scores = np.sort(random.random(n).astype(np.float32))[::-1].copy()
    return Candidates(random.permutation(ITEMS)[:n].astype(np.int32), scores)


def generation(path: Path, parts: tuple[str, ...], config: Config) -> Generation:
    items = pa.table(
        {
            "item_id": [f"i{n:03d}" for n in range(ITEMS)],
            "title": TITLES,
            "model": [f"m{n // 2}" for n in range(ITEMS)],
        }
    )
    write_catalogue(path / "items", items, ["model"], [], [])
    if "vector" in parts:
        (path / "vector").mkdir()
        np.save(path / "vector/text.npy", unit(ITEMS))
    if "dedup" in parts:
        (path / "dedup").mkdir()
        np.save(path / "dedup/signatures.npy", signatures(TITLES))
    manifest = Manifest("g1", 0, 0, config.all_actions, config.model_dump(mode="json"))
    manifest.write(path)
    return Generation.open(path)


@pytest.mark.parametrize("parts", [(), ("vector",), ("dedup",), ("vector", "dedup")])
@pytest.mark.parametrize("n", [0, 1, 5, 50])
def test_the_stage_fills_the_page_with_whatever_the_generation_has(
    tmp_path: Path, parts: tuple[str, ...], n: int
) -> None:
    config = parse({"data": {"product_key": "model"}})
    stage = build(generation(tmp_path, parts, config), config, "home")
    seen = candidates(n)
    page = stage.run(Query(limit=20), seen)
    assert len(page) == min(len(set((seen.rows // 2).tolist())), 20)
    assert len(set(page.rows.tolist())) == len(page)
    scores = dict(zip(seen.rows.tolist(), seen.scores.tolist(), strict=True))
    assert page.scores.tolist() == [scores[row] for row in page.rows.tolist()]


def test_one_of_a_product_is_on_the_page_where_enough_others_are_there(tmp_path: Path) -> None:
    config = parse({"data": {"product_key": "model"}})
    stage = build(generation(tmp_path, ("vector",), config), config, "home")
    page = stage.run(Query(limit=20), candidates(50))
    assert len(page) == 20
    assert len(set((page.rows // 2).tolist())) == 20


def test_a_scene_may_show_near_duplicates_and_keep_the_order(tmp_path: Path) -> None:
    rerank = {"near_duplicates": False, "diversity": 0.0}
    config = parse({"data": {"product_key": "model"}, "scenes": {"home": {"rerank": rerank}}})
    stage = build(generation(tmp_path, ("vector", "dedup"), config), config, "home")
    seen = candidates(50)
    assert stage.run(Query(limit=20), seen).rows.tolist() == seen.rows[:20].tolist()


def test_rows_below_0_are_the_callers_fault(tmp_path: Path) -> None:
    config = parse({})
    stage = build(generation(tmp_path, (), config), config, "home")
    seen = Candidates(np.array([0, -1], np.int32), np.ones(2, np.float32))
    with pytest.raises(BadQuery, match="the row -1; rows begin at 0"):
        stage.run(Query(), seen)


def test_items_that_came_after_the_generation_are_like_no_others(tmp_path: Path) -> None:
    config = parse({"data": {"product_key": "model"}})
    stage = build(generation(tmp_path, ("vector", "dedup"), config), config, "home")
    new = np.arange(ITEMS, ITEMS + 30, dtype=np.int32)
    page = stage.run(Query(limit=20), Candidates(new, np.arange(30, 0, -1, dtype=np.float32)))
    assert page.rows.tolist() == new[:20].tolist()


def test_an_unknown_scene_is_named(tmp_path: Path) -> None:
    config = parse({})
    with pytest.raises(BadConfig, match="unknown scene 'attic'"):
        build(generation(tmp_path, (), config), config, "attic")
