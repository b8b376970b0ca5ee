from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from funnel.errors import BadData
from funnel.generation import Generation
from jobs.items import run
from jobs.work import Work


@pytest.fixture(scope="module")
def work(
    opened: Callable[..., Work], data_set: Callable[..., Path], goods: list[dict[str, Any]]
) -> Work:
    work = opened(data_set(items=goods))
    assert run(work) == {"items": len(goods)}
    return work


def test_rows_are_the_order_of_the_ids(work: Work, goods: list[dict[str, Any]]) -> None:
    catalogue = Generation.open(work.draft, check=False).items
    ids = sorted(item["item_id"] for item in goods)
    assert catalogue.ids.to_pylist() == ids
    assert catalogue.rows(ids).tolist() == list(range(len(ids)))


def test_attributes_become_codes_and_numbers(work: Work, goods: list[dict[str, Any]]) -> None:
    catalogue = Generation.open(work.draft, check=False).items
    by_id = sorted(goods, key=lambda item: item["item_id"])
    words, codes = catalogue.values("category"), catalogue.codes("category")
    assert [words[code] for code in codes] == [item["category"] for item in by_id]
    price = [np.nan if item["price"] is None else item["price"] for item in by_id]
    np.testing.assert_array_equal(catalogue.numbers("price"), price)
    np.testing.assert_array_equal(catalogue.numbers("available"), [n != 3 for n in range(12)])
    assert catalogue.numbers("created_at")[0] == 1_000_000_000_000
    assert not catalogue.has("codes", "brand")  # the contract knows it, this data set does not


def test_other_jobs_find_the_rows_as_a_table(work: Work) -> None:
    rows = pq.read_table(work.tables / "item_rows").to_pydict()
    assert rows["row"] == list(range(12))
    assert rows["item_id"] == sorted(rows["item_id"])


def test_the_drafts_open_as_generations_with_their_cuts(work: Work) -> None:
    for draft, cut in work.drafts:
        generation = Generation.open(draft, check=False)
        assert generation.manifest.until == cut
        assert generation.manifest.actions == work.config.all_actions
        assert generation.config == work.config
        assert len(generation.items) == 12


def test_what_was_published_before_does_not_change_when_the_job_runs_again(
    work: Work, tmp_path: Path
) -> None:
    file = work.draft / "items/price.number.npy"
    published = tmp_path / "price.npy"
    published.hardlink_to(file)
    before = published.read_bytes()
    assert file.stat().st_nlink >= 2
    run(work)
    assert published.read_bytes() == before
    assert not published.samefile(file)


def test_an_attribute_that_the_items_lack_is_an_error_that_names_those_they_have(
    opened: Callable[..., Work], data_set: Callable[..., Path], goods: object
) -> None:
    work = opened(data_set(items=goods), {"data": {"categorical": ["colour"], "filterable": []}})
    with pytest.raises(BadData, match=r"colour.*it has: .*title"):
        run(work)
