"""Samples out of the request log: what was scored is what is trained on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from funnel.errors import BadData
from funnel.generation import Generation
from funnel.log import EVENTS, Logged, read, write
from funnel.types import Candidates, History, Query
from jobs import events, items, samples, users
from jobs.work import Work

START, MINUTE, DAY = 1_700_000_000_000, 60_000, 86_400_000
CONFIG: dict[str, Any] = {
    "data": {"positive": {"click": 1.0, "purchase": 4.0}},
    "build": {"holdout": 0.0, "sample_share": 0.5},
}


def clicks(goods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "user_id": f"u{n % 3}",
            "item_id": goods[n % len(goods)]["item_id"],
            "action": "click",
            "timestamp": START + n * DAY // 4,
            "event_id": f"e{n}",
        }
        for n in range(40)
    ]


@pytest.fixture(scope="module")
def work(
    opened: Callable[..., Work],
    data_set: Callable[..., Path],
    goods: list[dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Work:
    log = tmp_path_factory.mktemp("log")
    config = {**CONFIG, "build": {**CONFIG["build"], "from_log": str(log)}}
    work = opened(data_set(items=goods, events=clicks(goods)), config)
    for job in (items, events, users):
        job.run(work)
    published = Path(work.config.build.root) / "g1"
    shutil.copytree(work.draft, published)
    about = json.loads((published / "manifest.json").read_text())
    (published / "manifest.json").write_text(json.dumps({**about, "id": "g1"}))
    return work


def entry(work: Work, n: int, **fields: Any) -> Logged:
    draw = np.random.default_rng(n)
    rows = draw.permutation(12)[:6].astype(np.int32)
    columns = {
        name: draw.random(6).astype(np.float32)
        for name in ("recall", "recall.popular", "live.click.7d", "prerank", "user.odd")
    }
    columns["recall.popular"][2] = np.nan
    history = History(rows[:2], np.array([1, 1], np.int8), np.array([START, START + 1]))
    query = Query(
        request_id=f"r{n}",
        scene="home",
        user_id=f"u{n % 3}",
        at=work.past + n * MINUTE,
        history=history,
        user={"user.click.30d": np.asarray(1.5, np.float32)},
        excluded=rows[4:],
        generation="g1",
    )
    positions = np.array([2, 0, 1, 0, 3, 0], np.int32)
    scores = draw.random(6).astype(np.float32)
    return Logged(replace(query, **fields), Candidates(rows, scores, columns), positions=positions)


def happened(log: Path, entries: list[tuple[Logged, int, str]]) -> None:
    """An archive: (request, place of its candidate, action)."""
    rows = [
        dict.fromkeys(EVENTS.names)
        | {
            "event_id": f"a{n}",
            "user_id": one.query.user_id,
            "item_id": f"i{one.candidates.rows[place]:02d}",
            "action": action,
            "timestamp": one.query.at + MINUTE,
            "received_at": one.query.at + MINUTE,
            "request_id": one.query.request_id,
        }
        for n, (one, place, action) in enumerate(entries)
    ]
    (log / "events").mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, EVENTS), log / "events/5-0.parquet")


def test_samples_from_the_log_are_what_was_logged(work: Work) -> None:
    log = Path(work.config.build.from_log)
    logged = [entry(work, n) for n in range(8)]
    late = entry(work, 50, at=work.until + 1)
    torn = replace(entry(work, 51), degraded=("rank: late",))
    write(log, [*logged, late, torn], "part")
    done = [
        (logged[0], 0, "impression"),
        (logged[0], 2, "click"),
        (logged[0], 2, "purchase"),
        (logged[3], 5, "click"),
        (late, 1, "click"),
    ]
    happened(log, done)
    made = samples.run(work)
    assert made == {
        "home": {"requests": 8, "candidates": 48, "positives": 2},
        "left_out": {"others": 1, "degraded": 1},
    }
    found = {one.query.request_id: one for one in read(work.samples / "home", "home")}
    assert list(found) == [one.query.request_id for one in logged]
    target = Generation.open(work.past_draft, check=False).id
    for place, one in enumerate(logged):
        sample = found[one.query.request_id]
        labels = np.zeros(6, np.float32)
        if place == 0:
            labels[2] = np.log2(1 + 4.0)  # of a purchase, whose gain is its weight
        if place == 3:
            labels[5] = 1.0
        np.testing.assert_array_equal(sample.labels, labels)
        np.testing.assert_array_equal(sample.positions, one.positions)
        np.testing.assert_array_equal(sample.candidates.rows, one.candidates.rows)
        np.testing.assert_array_equal(sample.candidates.scores, one.candidates.scores)
        assert set(sample.candidates.columns) == set(one.candidates.columns)
        for name, column in one.candidates.columns.items():
            np.testing.assert_array_equal(sample.candidates.columns[name], column)
        query = replace(sample.query, history=one.query.history, user=one.query.user)
        query = replace(query, excluded=one.query.excluded, generation="g1")
        assert query == one.query or (query.at, query.text) == (one.query.at, one.query.text)
        np.testing.assert_array_equal(sample.query.history.rows, one.query.history.rows)
        np.testing.assert_array_equal(sample.query.history.times, one.query.history.times)
        np.testing.assert_array_equal(sample.query.excluded, one.query.excluded)
        assert float(sample.query.user["user.click.30d"]) == 1.5
        assert sample.query.generation == target


def test_rows_of_another_generation_become_those_that_are_built(
    work: Work,
    opened: Callable[..., Work],
    data_set: Callable[..., Path],
    goods: list[dict[str, Any]],
) -> None:
    """A catalogue with an item before all others, and one less."""
    fewer = [good for good in goods if good["item_id"] != "i05"]
    more = [{**goods[0], "item_id": "a-new-one"}, *fewer]
    log, root = Path(work.config.build.from_log), work.config.build.root
    build = {**CONFIG["build"], "from_log": str(log), "root": root}
    other = opened(data_set(items=more, events=clicks(fewer)), {**CONFIG, "build": build})
    object.__setattr__(other, "config", work.config)
    other = Work(other.data, work.config, work.until, work.past)
    for job in (items, events, users):
        job.run(other)
    one = entry(work, 1)
    write(log, [one], "part")
    happened(log, [(one, 0, "click")])
    samples.run(other)
    (sample,) = read(other.samples / "home", "home")
    ids = Generation.open(other.past_draft, check=False).items.item_ids(sample.candidates.rows)
    expected = [f"i{row:02d}" for row in one.candidates.rows.tolist() if row != 5]
    assert list(ids) == expected
    kept = one.candidates.rows != 5
    np.testing.assert_array_equal(sample.candidates.scores, one.candidates.scores[kept])
    assert sample.labels.sum() == (1.0 if one.candidates.rows[0] != 5 else 0.0)


def test_a_log_without_events_has_no_labels(work: Work, tmp_path: Path) -> None:
    write(tmp_path, [entry(work, 1)], "part")
    config = work.config.model_copy(
        update={"build": work.config.build.model_copy(update={"from_log": str(tmp_path)})}
    )
    with pytest.raises(BadData, match="requests have no labels without the archive"):
        samples.run(Work(work.data, config, work.until, work.past))
