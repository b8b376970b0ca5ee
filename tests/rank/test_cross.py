"""The cross-encoder's slot: what changes places, for how long, and a real one where it can be."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from funnel.config import Cross as Settings
from funnel.errors import BadConfig
from funnel.types import Array, Candidates, Query
from rank.cross import AT_ONCE, COLUMN, Cross, loaded, texts_of

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
        loaded(Settings(model=str(tmp_path / "nothing")), "scenes.search.rank.cross.model")


def made(path: Path, labels: int) -> Path:
    """A tiny BERT of random weights, in the form that a trained one has."""
    transformers = pytest.importorskip("transformers", reason="the extra `encoder` is not there")
    path.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"{n}" for n in range(30)), "text"]
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
    reads = loaded(Settings(model=str(made(tmp_path / "one", 1))), "cross")
    whole = reads("text 3", TEXTS[:7])
    assert whole.shape == (7,)
    np.testing.assert_allclose(
        np.concatenate([reads("text 3", [t]) for t in TEXTS[:7]]), whole, atol=1e-5
    )
    found = Cross(reads, chosen, 7, 5.0).run(Query(text="text 3"), candidates(7))
    assert sorted(found.rows.tolist()) == list(range(7))
    with pytest.raises(BadConfig, match="gives 3 numbers a pair"):
        loaded(Settings(model=str(made(tmp_path / "three", 3))), "cross")


def test_items_are_read_by_what_they_have(work) -> None:  # type: ignore[no-untyped-def]
    from funnel.generation import Generation

    items = Generation.open(work.past_draft, check=False).items
    assert texts_of(items)(np.array([7, 8])) == ["thing 7 of kind 2", "thing 8 of kind 3. b8"]
