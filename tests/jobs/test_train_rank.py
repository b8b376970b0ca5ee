"""Training that reads its samples in parts, and that Spark spreads over processes."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from features.assemble import Assembler
from funnel.config import parse
from funnel.errors import BadData
from funnel.generation import Generation
from funnel.log import Logged, read, stream
from jobs import judged, train_prerank, train_rank
from jobs.judged import Parted, streamed
from jobs.train_rank import Before, Samples
from jobs.work import Work
from prerank.gbdt import Table, fit
from rank.scorer import Reader, positive
from rank.stored import opened
from tests.rank.shop import shop, split


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return shop(tmp_path_factory.mktemp("shop"), requests=100)


@pytest.mark.parametrize("rows", [1, 30, 1000, 10_000])
def test_a_stream_is_what_is_read_in_parts(work: Work, rows: int) -> None:
    path = work.samples / "home"
    parts = list(stream(path, rows))
    whole = {entry.query.request_id: entry for entry in read(path)}
    found = [entry for part in parts for entry in part]
    assert sorted(entry.query.request_id for entry in found) == sorted(whole)
    assert all(sum(len(e.candidates) for e in part) <= rows + 24 for part in parts)
    for entry in found:
        same = whole[entry.query.request_id]
        np.testing.assert_array_equal(entry.candidates.rows, same.candidates.rows)
        np.testing.assert_array_equal(entry.labels, same.labels)
        np.testing.assert_array_equal(entry.query.history.rows, same.query.history.rows)
        for name, column in same.candidates.columns.items():
            np.testing.assert_array_equal(entry.candidates.columns[name], column)


def test_candidates_that_are_not_beside_each_other_are_refused(work: Work, tmp_path: Path) -> None:
    for name in ("requests", "candidates"):
        (tmp_path / name).mkdir()
        table = pq.read_table(work.samples / "home" / name / "part-0.parquet")
        if name == "candidates":
            table = table.take(np.random.default_rng(1).permutation(len(table)))
        pq.write_table(table, tmp_path / name / "part-0.parquet")
    with pytest.raises(BadData, match="are not beside each other"):
        list(stream(tmp_path, 50))


def test_the_latest_requests_with_a_positive_candidate_validate(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    useful = [entry for entry in read(work.samples / "home") if (entry.labels > 0).any()]
    names = [entry.query.request_id for entry in useful]  # the oldest first
    cut = round(len(names) * (1 - work.config.build.valid_share))
    parted = Parted.of(work, "home")
    assert parted.train == set(names[:cut])
    assert parted.valid == set(names[cut:])
    early = [e.query.request_id for some, _ in streamed(work, "home", parted) for e in some]
    assert sorted(early) == sorted(names[:cut])
    monkeypatch.setattr(judged, "MOST_VALID", 7 * work.config.scene("home").recall.keep)
    monkeypatch.setattr(judged, "FEW_VALID", 1)
    assert len(Parted.of(work, "home").valid) == 7


def test_prerank_reads_its_samples_in_parts(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation = Generation.open(work.past_draft, check=False)
    assembler = Assembler(generation, work.config, "home")
    parted = Parted.of(work, "home")
    train, valid = split(work)
    sizes: list[int] = []

    def some(path: Path) -> Iterator[list[Logged]]:
        for entries in stream(path, 200):
            sizes.append(sum(len(one.candidates) for one in entries))
            yield entries

    monkeypatch.setattr(judged, "stream", some)
    table, positions, late = train_prerank.stored(work, "home", parted, assembler, tmp_path / "t")
    assert max(sizes) < len(table.labels) / 5
    assert isinstance(table.matrix.base, np.memmap)
    expected = np.concatenate([assembler.matrix(one.query, one.candidates) for one in train])
    np.testing.assert_array_equal(table.matrix, expected)
    np.testing.assert_array_equal(table.labels, np.concatenate([one.labels for one in train]))
    np.testing.assert_array_equal(positions, np.concatenate([one.positions for one in train]))
    np.testing.assert_array_equal(table.sizes, [len(one.candidates) for one in train])
    np.testing.assert_array_equal(table.weights, np.ones(len(train)))
    assert [e.query.request_id for e in late.requests] == [e.query.request_id for e in valid]
    # What is in files trains the same trees as what is in memory.
    held = Table(
        expected,
        *(np.array(a) for a in (table.labels, table.sizes)),
        np.ones(len(train), np.float32),
    )
    made = [fit(one, None, work.config.prerank, 1).model_to_string() for one in (table, held)]
    assert made[0] == made[1]


def test_a_table_of_parts_holds_few_at_a_time(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation = Generation.open(work.past_draft, check=False)
    reader = Reader(Assembler(generation, work.config, "home"), 6, positive(generation))
    parted = Parted.of(work, "home")
    before = Before.of(work, "home", reader.assembler)
    samples = Samples(work, "home", parted, before, reader)
    samples.stored(tmp_path / "whole")
    whole = opened(tmp_path / "whole")
    monkeypatch.setattr(judged, "stream", partial(stream, rows=200))
    monkeypatch.setattr(train_rank, "FIT", 500)
    samples.stored(tmp_path / "parts")
    parts = opened(tmp_path / "parts")
    np.testing.assert_array_equal(parts.labels, whole.labels)
    np.testing.assert_array_equal(parts.inputs.owner, whole.inputs.owner)
    np.testing.assert_array_equal(parts.inputs.history.offsets, whole.inputs.history.offsets)
    np.testing.assert_array_equal(parts.weights, whole.weights)
    held = [len(one.labels) for one in samples.early()]
    assert max(held) < len(whole.labels) / 5


def test_another_seed_is_another_network_of_the_same_samples(work: Work) -> None:
    def weights(seed: int) -> bytes:
        table = work.config.model_dump(mode="json")
        table["rank"] |= {"epochs": 1, "seed": seed}
        train_rank.run(replace(work, config=parse(table)))
        return (work.draft / "rank/home/model.safetensors").read_bytes()

    first, again, other = weights(0), weights(0), weights(1)
    assert first == again
    assert len(first) == len(other)
    assert first != other


# pyspark leaves the pipe of the processes it launched to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_two_workers_on_spark_train_what_one_does(spark: SparkSession, tmp_path: Path) -> None:
    work = shop(tmp_path, requests=100)
    table = work.config.model_dump(mode="json")
    table["rank"]["dropout"] = 0.0
    alone = train_rank.run(replace(work, config=parse(table)))["home"]
    table["rank"]["workers"] = 2
    together = train_rank.run(replace(work, config=parse(table)))["home"]
    assert together["epochs"] == alone["epochs"]
    for name in ("recall", "prerank", "rank"):
        assert together["nDCG@10"][name] == pytest.approx(alone["nDCG@10"][name], abs=0.01)
    click = [found["heads"]["click"]["log loss"] for found in (alone, together)]
    assert click[0] == pytest.approx(click[1], abs=2e-3)
    gc.collect()
