"""A feature that would know the future, if the samples let it, is of no use to a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import functions as F

from funnel.log import read
from funnel.metrics import auc
from jobs import events, item_stats, items, requests, samples, users
from jobs.counters_at import counters_at
from jobs.work import Work
from prerank.gbdt import Table, fit, predict

START, DAY, ITEMS = 1_700_000_000_000, 86_400_000, 60
# Half a minute: a click that had just happened would be all that such a counter says.
CONFIG: dict[str, Any] = {
    "features": {"half_lives": [30 / 86_400, 7.0], "settle_ms": 2000, "windows": ["1h"]},
    "data": {"positive": {"click": 1.0}},
    "build": {"holdout": 0.0, "sample_share": 0.6, "negatives": 1, "requests": 5000},
    "prerank": {"trees": 30},
}


def chance() -> list[dict[str, Any]]:
    """Pages by chance, clicks by chance, seconds later: nothing before a page tells what will be
    clicked on it, but everything after it does."""
    draw, log = np.random.default_rng(8), []
    for n in range(1500):
        at = START + n * DAY // 100
        for place, item in enumerate(draw.permutation(ITEMS)[:5], 1):
            entry = {
                "user_id": f"u{draw.integers(40)}",
                "item_id": f"i{item:02d}",
                "request_id": f"r{n:04d}",
                "scene": "home",
            }
            log.append({**entry, "action": "impression", "timestamp": at, "position": place})
            if draw.random() < 0.4:
                log.append({**entry, "action": "click", "timestamp": at + 3000 + 1000 * place})
    return [{**event, "event_id": f"e{number:05d}"} for number, event in enumerate(log)]


@pytest.fixture(scope="module")
def work(opened: Callable[..., Work], data_set: Callable[..., Path]) -> Work:
    goods = [{"item_id": f"i{n:02d}", "title": f"lamp {n}"} for n in range(ITEMS)]
    work = opened(data_set(items=goods, events=chance()), CONFIG)
    for job in (items, events, users, item_stats, requests, samples):
        job.run(work)
    return work


def learned(work: Work, columns: dict[str, np.ndarray], owners: Any, labels: Any) -> float:
    """The AUC of trees over the columns on the last third, trained on what comes before."""
    matrix = np.stack([*columns.values()], axis=1).astype(np.float32)
    cut = len(np.unique(owners)) * 2 // 3
    parts = []
    for part in (owners < cut, owners >= cut):
        sizes = np.bincount(owners[part] - owners[part].min())
        weights = np.ones(len(sizes), np.float32)
        parts.append(Table(matrix[part], labels[part], sizes[sizes > 0], weights[sizes > 0]))
    booster = fit(parts[0], None, work.config.prerank, 1)
    return float(auc(parts[1].labels, predict(booster, parts[1].matrix)))


def test_counters_of_the_samples_do_not_know_what_will_be_clicked(work: Work) -> None:
    found = list(read(work.samples / "home", "home"))
    shown = [np.flatnonzero(one.positions > 0) for one in found]
    owners = np.repeat(np.arange(len(found)), [len(places) for places in shown])
    labels = np.concatenate([one.labels[at] for one, at in zip(found, shown, strict=True)])
    names = [name for name in found[0].candidates.columns if name.startswith("live.")]
    assert len(names) == 6
    asked = [
        {"n": n, "row": int(one.candidates.rows[place]), "at": one.query.at}
        for one, at in zip(found, shown, strict=True)
        for n, place in enumerate(at.tolist())
    ]
    honest = {
        name: np.concatenate(
            [one.candidates.columns[name][at] for one, at in zip(found, shown, strict=True)]
        )
        for name in names
    }
    # The same counters half a minute later, with the request's own clicks: what a leak would be.
    for number, row in enumerate(asked):
        row["n"] = number
    frame = work.spark.createDataFrame(asked, "n int, row int, at long")
    frame = frame.withColumn("at", F.col("at") + 30_000)
    planted = counters_at(frame, events.read(work), work.config, work.past).toPandas()
    planted = planted.sort_values("n")
    leaked = {name: planted[name].to_numpy() for name in names}

    assert 0.46 < learned(work, honest, owners, labels) < 0.54
    assert learned(work, leaked, owners, labels) > 0.9
