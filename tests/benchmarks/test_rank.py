"""The benchmarks of the learned stages, on tables made up here."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks import ctr, interest, ltr, rank_memory, sequence
from benchmarks.rank_speed import (
    DEEP,
    WIDE,
    plain_deepfm,
    plain_din,
    plain_transformer,
    request,
)
from benchmarks.rates import STRENGTH, Rates, apart
from rank.deepfm import DeepFM
from rank.din import DIN
from rank.next_item import Attributes, Sequences, Training
from rank.pairs import Pairs
from rank.transformer import Transformer


def test_ltr_learns_and_sums_as_lightgbm_does(tmp_path):
    draw = np.random.default_rng(0)
    for name, queries in (("train", 60), ("test", 30)):
        n = queries * 12
        matrix = draw.random((n, 3)).astype(np.float32)
        grade = (matrix[:, 0] * 3 + draw.random(n)).astype(np.int8)
        columns = {"grade": grade, "query_id": np.repeat(np.arange(queries), 12)}
        columns |= {f"f{i}": matrix[:, i] for i in range(3)}
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    train, test = (
        ltr.read(tmp_path / f"{name}.parquet", ["f0", "f1", "f2"]) for name in ("train", "test")
    )
    assert train.sizes.tolist() == [12] * 60
    rows = ltr.measured(train, None, test)
    assert rows[0]["NDCG@10"] > 0.9
    assert {k: rows[1][k] for k in ("NDCG@1", "NDCG@10")} == pytest.approx(
        {k: rows[2][k] for k in ("NDCG@1", "NDCG@10")}
    )


def test_ctr_learns_categories_and_numbers_and_codes_what_it_never_saw_as_unknown(
    tmp_path, monkeypatch
):
    small = ctr.SETTINGS.model_copy(update={"hidden": (16,), "epochs": 5})
    names = "learning_rate", "decay", "dropout"
    one = {name: (getattr(small, name),) for name in names} | {"embedding_l2": (1e-3,)}
    for name, value in (("LADDERS", one), ("SETTINGS", small)):
        monkeypatch.setattr(ctr, name, value)
    draw = np.random.default_rng(0)
    for name, n in (("train", 800), ("test", 600)):
        kind, amount = draw.integers(0, 6, n), draw.normal(size=n)
        p = 1 / (1 + np.exp(-(2.0 * (kind % 2) - 1 + amount)))
        table = {
            "label": (draw.random(n) < p).astype(np.int8),
            "kind": [f"k{k}" if name == "train" or k else "unheard" for k in kind],
            "amount": amount,
        }
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
    train, valid, test, sizes = ctr.splits(tmp_path)
    assert (len(train.labels), len(valid.labels), sizes) == (720, 80, [7])
    assert (test.raw.ids == 0).any()
    rows = ctr.measured(train, valid, test, sizes, seeds=1)
    assert rows[0]["test AUC"] > 0.72
    assert rows[-1]["test AUC"] > 0.72


def test_strengths_are_tried_for_as_long_as_they_get_better():
    ladder, asked = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0), []

    def worth(rung, best):
        asked.append(rung)
        return abs(rung - best)

    for best, tried in ((4, {3, 2, 4, 5}), (1.2, {3, 2, 1, 4}), (9, {3, 2, 4, 5, 6})):
        asked.clear()
        found = ctr.walked(ladder, 3.0, lambda rung, best=best: worth(rung, best))
        assert found == min(ladder, key=lambda rung: abs(rung - best))
        assert len(asked) == len(set(asked))
        assert set(asked) <= tried


def test_settings_are_tried_one_after_another_until_none_gets_better():
    def worth(settings):
        # What is best of one hangs on the other: a valley that runs across.
        rate, l2 = np.log10(settings.learning_rate), np.log10(settings.embedding_l2)
        return (rate + l2 + 6.5) ** 2 + 0.1 * (rate + 2.5) ** 2 + settings.dropout - settings.decay

    start = ctr.SETTINGS.model_copy(
        update={"learning_rate": 1e-4, "embedding_l2": 0.1, "dropout": 0.5, "decay": 0.7}
    )
    found = ctr.climbed(start, worth)
    for name, ladder in ctr.LADDERS.items():
        place = ladder.index(getattr(found, name))
        for near in ladder[max(place - 1, 0) : place + 2]:
            assert worth(found.model_copy(update={name: near})) >= worth(found)
    assert worth(found) < 0 < worth(start)


def test_drawn_items_were_never_met_and_the_split_leaves_the_last_two_out():
    lists = [[0, 1, 2, 3], [4, 5], [6, 7, 8]]
    every = Sequences(np.concatenate(lists).astype(np.int64), np.array([0, 4, 6, 9]))
    others = sequence.unmet(every, 10, np.arange(3), 200, seed=0)
    for user, met in enumerate(lists):
        assert not np.isin(others[user], met).any()
    valid, test = (sequence.Split(every, k, Training(past=2), None) for k in (1, 0))
    assert test.goals.tolist() == [3, 8]
    assert valid.goals.tolist() == [2, 7]
    assert test.past.items.tolist() == [1, 2, 6, 7]
    assert test.seen.items.tolist() == [0, 1, 2, 6, 7]
    assert sequence._learned(every, 2).items.tolist() == [0, 1, 4, 5, 6]


def test_attributes_are_read_by_item_wherever_they_stand(tmp_path):
    assert sequence.attributes(tmp_path, 4) is None
    table = {"item": [2, 0, 9], "attributes": [[5, 6], [7], [8]]}  # 9 is in no sequence
    pq.write_table(pa.table(table), tmp_path / "item_attributes.parquet")
    found = sequence.attributes(tmp_path, 4)
    assert found.codes.tolist() == [7, 5, 6]
    assert found.offsets.tolist() == [0, 1, 1, 3, 3]


def test_of_the_widths_validation_chooses_one_of_each_kind():
    lists = [(np.arange(6) + start) % 12 for start in range(60)]
    every = Sequences(np.concatenate(lists).astype(np.int64), np.arange(61) * 6)
    known = Attributes(np.arange(12, dtype=np.int64) % 3, np.arange(13))
    training = Training(blocks=1, past=5, epochs=2, batch=16, negatives=0)
    rows = sequence.measured(every, training, (4, 8), 5, 1, known, again=True)
    names = [row["method"].split(",")[0].strip() for row in rows]
    kinds = [["transformer"] * 2, ["with attributes"] * 2]
    assert names == ["popular", *kinds[0], "and from validation", *kinds[1], "and from validation"]
    for start in (1, 4):
        tried = rows[start : start + 2]
        best = max(tried, key=lambda row: row["valid NDCG@10"])
        assert [row["chosen"] for row in tried] == [
            "by validation" if row is best else "" for row in tried
        ]


def test_popularity_ranks_by_counts_without_what_was_met():
    every = Sequences(np.array([0, 1, 2, 3], np.int64), np.array([0, 4]))
    test = sequence.Split(every, 0, Training(), None)
    counts = np.array([9, 8, 7, 3, 5, 1])  # above item 3: 0, 1 and 2, which were met, and 4
    assert test.popular(counts).tolist() == [1]


@pytest.mark.parametrize(
    ("kind", "shape", "plain"),
    [(DeepFM, DEEP, plain_deepfm), (DIN, WIDE, plain_din), (Transformer, WIDE, plain_transformer)],
)
def test_what_serves_equals_its_plain_peer(kind, shape, plain):
    torch.manual_seed(0)
    model = kind(shape).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
        batch = request(shape, 20, 7)
        torch.testing.assert_close(model(batch), plain(model, batch), rtol=1e-4, atol=1e-4)


def test_the_mean_in_the_units_place_is_that_of_each_requests_actions():
    k = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    offsets, owner = torch.tensor([0, 2, 2, 3]), torch.tensor([0, 1, 2, 0])
    found = interest.Mean()(torch.zeros(4, 2), k, offsets, Pairs.of(offsets, owner))
    assert found.tolist() == [[2.0, 3.0], [0.0, 0.0], [5.0, 6.0], [2.0, 3.0]]
    found = interest.Mean()(torch.zeros(1, 2), k, torch.tensor([0, 3]), None)
    assert found.tolist() == [[3.0, 4.0]]


def test_a_request_of_interest_has_what_the_user_met_before_and_the_next_item_first():
    every = Sequences(np.array([3, 1, 2, 7, 8], np.int64), np.array([0, 3, 5]))
    found = interest.table(every, np.array([2, 4]), np.array([0, 1]), np.array([[5], [6]]))
    assert found.inputs.ids[:, 0].tolist() == [3, 6, 9, 7]
    assert found.inputs.history.codes[:, 0].tolist() == [4, 2, 8]
    assert found.inputs.history.offsets.tolist() == [0, 2, 3]
    assert found.labels.tolist() == [1, 0, 1, 0]


def test_rates_are_those_of_the_rows_and_what_is_learned_from_does_not_see_its_own_label():
    draw = np.random.default_rng(0)
    ids = draw.integers(0, 5, (300, 2)).astype(np.int32)
    labels = (draw.random(300) < 0.3).astype(np.float32)
    rates = Rates.of(ids, labels, [5, 6])
    prior = (labels.sum() + 0.5) / 301
    mine = ids[:, 1] == 3
    p = (labels[mine].sum() + STRENGTH * prior) / (mine.sum() + STRENGTH)
    found = rates(np.array([[0, 3], [4, 5]], np.int32))
    assert found[0, 1] == pytest.approx(np.log(p / (1 - p)), rel=1e-5)
    assert found[1, 1] == pytest.approx(np.log(prior / (1 - prior)), rel=1e-5)  # never seen
    other = labels.copy()
    other[7] = 1 - other[7]
    own, changed = (apart(ids, some, [5, 6]) for some in (labels, other))
    assert (own[7] == changed[7]).all()
    assert (own != changed).any()


def test_an_epoch_over_samples_in_files_says_what_it_held(tmp_path):
    found = rank_memory.measured("din", 4000, tmp_path)
    assert found["samples"] == 4000
    of_candidate = 10 * 4 + 10 * 4 + 8 + 4 + 4 + 0.5 * 3 * 4  # and half an action of a history
    assert found["files MB"] == pytest.approx(4000 * of_candidate / 2**20, rel=0.02)
    assert np.isfinite(found["valid loss"])
