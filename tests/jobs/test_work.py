from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from funnel.config import parse
from funnel.errors import BadData
from jobs.cut import quantiles
from jobs.work import STATE, Work, place

START = 1_700_000_000_000


@pytest.fixture(scope="module")
def events() -> list[dict[str, object]]:
    return [
        {"user_id": "u", "item_id": "i01", "action": "click", "timestamp": START + n}
        for n in range(1000)
    ]


@pytest.fixture(scope="module")
def data(data_set: Callable[..., Path], goods: object, events: object) -> Path:
    return data_set(items=goods, events=events)


def test_the_shares_of_the_events_on_either_side_of_the_cuts_are_those_of_the_config(
    opened: Callable[..., Work], data: Path
) -> None:
    work = opened(data, {"build": {"holdout": 0.2, "sample_share": 0.25}})
    assert abs(work.until - START - 800) <= 1
    assert abs(work.past - START - 600) <= 1


def test_no_holdout_means_that_every_event_is_known(
    opened: Callable[..., Work], data: Path
) -> None:
    assert opened(data, {"build": {"holdout": 0.0}}).until == START + 1000


def test_a_cut_that_is_given_is_kept_and_the_past_lies_before_it(
    opened: Callable[..., Work], data: Path
) -> None:
    work = opened(data, {"build": {"sample_share": 0.5}}, START + 100)
    assert work.until == START + 100
    assert abs(work.past - START - 50) <= 1


def test_a_cut_before_all_events_is_an_error_that_names_it(
    opened: Callable[..., Work], data: Path
) -> None:
    with pytest.raises(BadData, match=str(START)):
        opened(data, None, START)


def test_without_events_the_cut_is_just_after_the_newest_item(
    opened: Callable[..., Work], data_set: Callable[..., Path], goods: object
) -> None:
    data = data_set(items=goods)
    work = opened(data)
    assert work.past == work.until == 1_000_000_000_012
    assert not work.has("events")
    assert opened(data, None, START).until == START


def test_the_cuts_are_worked_out_once(opened: Callable[..., Work], data: Path) -> None:
    work = opened(data)
    state = json.loads((work.root / STATE).read_text())
    state["cut"]["until"] = work.until + 7
    (work.root / STATE).write_text(json.dumps(state))
    assert Work.open(data, work.config).until == work.until + 7
    (work.root / STATE).write_text("half of a fi")
    assert Work.open(data, work.config).until == work.until


def test_a_data_set_that_was_not_validated_is_refused(tmp_path: Path) -> None:
    (tmp_path / "items").mkdir()
    (tmp_path / "items/part-0.parquet").write_bytes(b"")
    with pytest.raises(BadData, match="validate"):
        Work.open(tmp_path, parse({"build": {"root": str(tmp_path / "root")}}))


def test_two_data_sets_of_one_name_have_two_places(tmp_path: Path) -> None:
    config = parse({})
    first, second = place(tmp_path / "a/set", config), place(tmp_path / "b/set", config)
    assert first != second
    assert first == place(tmp_path / "a/../a/set", config)


def test_a_quantile_of_nothing_is_none(spark: SparkSession) -> None:
    nothing = spark.createDataFrame([], "timestamp long")
    assert quantiles(nothing, [0.5, 0.9]) == [None, None]
