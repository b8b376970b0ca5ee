"""The cross-encoder's slot: what changes places, for how long, how one is trained, and a real one
where it can be."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from features.fold import ItemCounters
from funnel.config import parse
from funnel.errors import BadConfig, BadData
from funnel.generation import Generation
from funnel.log import read, write
from funnel.types import Array, Candidates, Query
from jobs import train_cross
from jobs.judged import Parted, streamed
from jobs.train_rank import write_order
from jobs.work import Work
from rank import build
from rank.cross import AT_ONCE, COLUMN, TRAINED, Cross, loaded, texts_of
from rank.cross_fit import FEWEST, SHOWN, Lists, draw, fit, scale
from tests.rank.shop import shop

TEXTS = [f"text {row}" for row in range(30)]


def length(query: str, texts: Sequence[str]) -> Array:
    """A reader of its own: how many letters a text shares with the query."""
    return np.array([sum(letter in query for letter in text) for text in texts], np.float32)


def chosen(rows: Array) -> Sequence[str]:
    return [TEXTS[row] for row in rows]


def candidates(n: int = 8) -> Candidates:
    scores = np.linspace(1, 0, n).astype(np.float32)
    return Candidates(np.arange(n, dtype=np.int32), scores)


def by_row(query: str, texts: Sequence[str]) -> Array:
    return np.array([float(text.split()[1]) for text in texts], np.float32)


def test_the_best_change_places_and_the_others_do_not() -> None:
    stage = Cross(by_row, chosen, top=3, weight=10.0)
    found = stage.run(Query(text="q"), candidates())
    assert found.rows.tolist() == [2, 1, 0, 3, 4, 5, 6, 7]
    np.testing.assert_array_equal(found.scores, candidates().scores)
    assert found.columns[COLUMN][:3].tolist() == [2, 1, 0]
    assert np.isnan(found.columns[COLUMN][3:]).all()


def test_both_count_by_how_far_they_stand_above_the_rest() -> None:
    n, weight = 6, 0.7
    found = Cross(by_row, chosen, top=n, weight=weight).run(Query(text="q"), candidates(n))
    rank, cross = candidates(n).scores, np.arange(n)
    value = (rank - rank.mean()) / rank.std() + weight * (cross - cross.mean()) / cross.std()
    assert found.rows.tolist() == np.argsort(-value, kind="stable").tolist()


@pytest.mark.parametrize("query", [Query(), Query(text="q", sort="price")])
def test_without_words_or_in_another_order_nothing_is_read(query: Query) -> None:
    found = Cross(by_row, chosen, 5, 9.0).run(query, candidates())
    assert found.rows.tolist() == candidates().rows.tolist()
    assert np.isnan(found.columns[COLUMN]).all()


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_candidates_are_no_trouble(n: int) -> None:
    found = Cross(by_row, chosen, 5, 9.0).run(Query(text="q"), candidates(n))
    assert sorted(found.rows.tolist()) == list(range(n))


def test_broken_scores_stay_last() -> None:
    came = Candidates(np.arange(3, dtype=np.int32), np.array([0.1, np.nan, 0.5], np.float32))
    found = Cross(by_row, chosen, 5, 9.0).run(Query(text="q"), came)
    assert found.rows.tolist()[-1] == 1


def test_it_reads_no_longer_than_there_is_time() -> None:
    calls = []

    def slow(query: str, texts: Sequence[str]) -> Array:
        calls.append(len(texts))
        time.sleep(0.03)
        return by_row(query, texts)

    query = Query(text="q", deadline=time.monotonic() + 0.1)
    found = Cross(slow, chosen, 20, 9.0).run(query, candidates(20))
    assert calls[0] == AT_ONCE
    assert 1 <= len(calls) <= 3
    assert np.isfinite(found.columns[COLUMN]).sum() == sum(calls)
    gone = Query(text="q", deadline=time.monotonic() - 1)
    assert Cross(slow, chosen, 20, 9.0).run(gone, candidates(20)).rows.tolist() == list(range(20))


def test_a_cross_encoder_that_cannot_be_loaded_is_the_configs_fault(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"scenes\.search\.rank\.cross\.model = '.*nothing'"):
        loaded(str(tmp_path / "nothing"), "scenes.search.rank.cross.model")


def made(path: Path, labels: int, more: Sequence[str] = ()) -> Path:
    """A tiny BERT of random weights, in the form that a trained one has."""
    transformers = pytest.importorskip("transformers", reason="the extra `encoder` is not there")
    path.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"{n}" for n in range(30)), "text"]
    words += [word for word in more if word not in words]
    (path / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(vocab_file=str(path / "vocab.txt")).save_pretrained(path)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=labels,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(path)
    return path


@pytest.mark.filterwarnings("ignore")
def test_a_real_cross_encoder_reads(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="the extra `encoder` is not there")
    reads = loaded(str(made(tmp_path / "one", 1)), "cross")
    whole = reads("text 3", TEXTS[:7])
    assert whole.shape == (7,)
    np.testing.assert_allclose(
        np.concatenate([reads("text 3", [t]) for t in TEXTS[:7]]), whole, atol=1e-5
    )
    found = Cross(reads, chosen, 7, 5.0).run(Query(text="text 3"), candidates(7))
    assert sorted(found.rows.tolist()) == list(range(7))
    with pytest.raises(BadConfig, match="gives 3 numbers a pair"):
        loaded(str(made(tmp_path / "three", 3)), "cross")


class Words:
    """A reader of its own: how near the mean vectors of two texts' words are."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.EmbeddingBag(64, 8)

    def logits(self, queries: Sequence[str], texts: Sequence[str]) -> Tensor:
        one, other = (
            torch.cat([self.model(self.codes(text)) for text in side]) for side in (queries, texts)
        )
        return (one * other).sum(1)

    @staticmethod
    def codes(text: str) -> Tensor:
        return torch.tensor([[zlib.crc32(word.encode()) % 64 for word in text.split()]])


def lists(requests: int = 40, n: int = 20) -> Lists:
    """Wanted is what has the query's number in its text, by `TEXTS`."""
    draw = np.random.default_rng(0)
    rows = np.concatenate([draw.permutation(30)[:n] for _ in range(requests)]).astype(np.int32)
    asked = rows.reshape(requests, n)[:, 0]
    labels = (rows == np.repeat(asked, n)).astype(np.float32)
    texts = [f"number {row}" for row in asked]
    return Lists(texts, rows, labels, np.full(requests, n), np.ones(requests, np.float32))


def test_every_list_has_something_wanted_and_others_of_its_request() -> None:
    table = lists()
    drawn = list(draw(table, np.random.default_rng(1)))
    assert sum(len(requests) for requests, _ in drawn) == FEWEST  # few requests, drawn from again
    for requests, places in drawn:
        for request, own in zip(requests, places, strict=True):
            assert len(set(own)) == len(own) == SHOWN
            assert (own // 20 == request).all()
            assert table.labels[own[0]] > 0


def test_the_rate_rises_and_falls() -> None:
    rates = [scale(done, 100) for done in range(101)]
    assert rates[0] == 0.1
    assert max(rates) == rates[9] > 0.9
    assert rates[100] == 0
    assert np.diff(rates[10:]).max() < 0


def test_a_reader_learns_what_was_wanted_the_same_way_twice() -> None:
    table, found = lists(), []
    for _ in range(2):
        reader = Words()
        fit(reader, table, chosen, 3, 7, rate=0.05)
        found.append(reader.model.weight.detach().numpy())
    np.testing.assert_array_equal(*found)
    with torch.no_grad():
        said = reader.logits([table.texts[k // 20] for k in range(800)], chosen(table.rows))
    first = said.numpy().reshape(40, 20).argmax(1)
    assert np.mean(first == table.labels.reshape(40, 20).argmax(1)) > 0.8


@pytest.fixture
def searching(tmp_path: Path) -> Work:
    """The shop's requests as searches for a kind of thing, ordered by chance."""
    pytest.importorskip("transformers", reason="the extra `encoder` is not there")
    work = shop(tmp_path, requests=120)
    words = ["thing", "of", "kind", *(str(n) for n in range(150))]
    cross = {"model": TRAINED, "start": str(made(tmp_path / "start", 1, words)), "epochs": 12}
    table = work.config.model_dump(mode="json")
    table["scenes"]["search"]["rank"]["cross"] = cross | {"top": 24, "layers": 1}
    asked = [
        replace(
            one,
            query=replace(one.query, scene="search", text=f"kind {one.query.history.rows[0] % 5}"),
        )
        for one in read(work.samples / "home")
    ]
    write(work.samples / "search", asked, "part-0")
    return replace(work, config=parse(table))


@pytest.mark.filterwarnings("ignore")
def test_the_build_trains_one_that_serves(searching: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    # Random weights need to go further than pretrained ones.
    monkeypatch.setattr(train_cross, "fit", partial(fit, rate=5e-3))
    with pytest.raises(BadData, match=r"ordered/search\.npy is missing: run .*train_rank"):
        train_cross.run(searching)
    parts = streamed(searching, "search", Parted.of(searching, "search"))
    valid = [one for _, some in parts for one in some]
    count = sum(len(one.candidates) for one in valid)
    write_order(searching, "search", np.random.default_rng(0).random(count))
    metrics = train_cross.run(searching)["search"]
    assert metrics["on"]
    assert metrics["gain"]["low"] > 0
    assert metrics["requests"] == {"train": 96, "valid": 24}
    generation = Generation.open(searching.draft, check=False)
    stage = build(generation, searching.config, "search", ItemCounters.open(generation))
    one = valid[0]
    found = stage.run(one.query, one.candidates)
    assert np.isfinite(found.columns[COLUMN]).sum() == min(len(found), 24)
    meta = searching.draft / "cross/search/meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"on": False}))
    again = build(generation, searching.config, "search", ItemCounters.open(generation))
    assert COLUMN not in again.run(one.query, one.candidates).columns


def test_items_are_read_by_what_they_have(work) -> None:  # type: ignore[no-untyped-def]
    items = Generation.open(work.past_draft, check=False).items
    assert texts_of(items)(np.array([7, 8])) == ["thing 7 of kind 2", "thing 8 of kind 3. b8"]
