"""The two towers: their loss and their vectors beside independent ones, and what they learn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from funnel.config import TwoTower, parse
from funnel.generation import Generation, Manifest
from funnel.types import Array, Query
from jobs import events, items, two_tower
from jobs.build import STEPS
from jobs.towers import Batch, loss
from jobs.two_tower import HALF_LIFE, Pairs, Trainer, pairs
from jobs.wants import Wants, of
from jobs.work import Work
from recall import OPENERS
from recall.towers import Bags, Reader, Towers

ITEMS, GROUPS = 120, 6
READER = Reader(1 << 10, "none", ("title",), ("category",))
SETTINGS = TwoTower(width=16, hidden=16, buckets=1 << 10, batch=256, epochs=8, history=5)
WORDS = ["zorp", "quux", "blick", "fnord", "grault", "plugh"]  # one a group, in no title


def titles() -> pa.Table:
    """Titles that do not tell the groups apart: item n is in group n % 6."""
    draw = np.random.default_rng(1)
    listed = [f"thing{draw.integers(40)} part{draw.integers(40)}" for _ in range(ITEMS)]
    codes = [f"all/kind{n % 7}" for n in range(ITEMS)]
    return pa.table({"title": listed, "category": codes})


def wants() -> Wants:
    """400 users who want items of one group each."""
    draw = np.random.default_rng(2)
    users = np.repeat(np.arange(400), 8)
    rows = users % GROUPS + GROUPS * draw.integers(0, ITEMS // GROUPS, len(users))
    return of(users, rows, draw.permutation(len(users)), ITEMS)


@pytest.fixture(scope="module")
def planted() -> Pairs:
    """Each group's word leads to its items, and users stay in a group."""
    draw = np.random.default_rng(3)
    rows = draw.integers(0, ITEMS, 2000)
    searches = pa.table(
        {
            "query": [WORDS[row % GROUPS] for row in rows.tolist()],
            "row": pa.array(rows, pa.int32()),
            "timestamp": draw.permutation(2000),
        }
    )
    return pairs(searches, wants(), READER, 10_000)


@pytest.fixture(scope="module")
def trainer(planted: Pairs) -> Trainer:
    told: list[str] = []
    return Trainer(planted, READER.items(titles()), READER, SETTINGS, 7, told.append)


@pytest.fixture(scope="module")
def towers(trainer: Trainer) -> Towers:
    return trainer.fit(4)


def test_the_softmax_is_corrected_by_how_often_items_are_in_a_batch() -> None:
    draw = np.random.default_rng(5)
    wanted, chance = np.array([3, 1, 3, 7]), np.log(np.array([0.4, 0.1, 0.4, 0.05]))
    products = draw.normal(size=(4, 4))
    total = 0.0
    for i in range(4):
        terms = {
            j: math.exp(products[i, j]) / math.exp(chance[j])
            for j in range(4)
            if j == i or wanted[j] != wanted[i]
        }
        total -= math.log(terms[i] / sum(terms.values()))
    found = loss(*(torch.from_numpy(a) for a in (products, wanted, chance)))
    assert float(found) == pytest.approx(total / 4, rel=1e-9)


def test_a_history_has_the_newest_items_before_the_wanted_one_and_newer_ones_count_more(
    planted: Pairs,
) -> None:
    found, searches = planted.wants, len(planted.query)
    chosen = np.arange(searches, len(planted))[::37]
    texts, histories, wanted = planted.batch(chosen, 5)
    assert len(texts) == 0
    bounds = list(pairwise(histories.indptr.tolist()))
    for pair, row, (start, end) in zip(chosen - searches, wanted, bounds, strict=True):
        place = planted.place[pair]
        own = [n for n in range(place) if found.users[n] == found.users[place]][::-1][:5]
        assert row == found.rows[place]
        assert histories.indices[start:end].tolist() == found.rows[own].tolist()
        votes = [2 ** (-ago / HALF_LIFE) for ago in range(len(own))]
        expected = np.array(votes) / sum(votes)
        np.testing.assert_allclose(histories.weights[start:end], expected, rtol=1e-6)


def test_what_is_served_equals_what_was_trained(trainer: Trainer) -> None:
    (_, net), *_ = trainer.trained(np.arange(len(trainer.pairs)), 1)
    served, draw = net.served(READER), np.random.default_rng(1)
    rows = np.arange(ITEMS)
    items = served.of_items(trainer.contents, rows)
    chosen = np.array([3, 8, 2500, 4000])
    texts, histories, wanted = trainer.pairs.batch(chosen, 5)
    whole = Batch(
        torch.from_numpy(rows),
        torch.ones(ITEMS, 1),
        trainer.contents,
        texts,
        histories,
        torch.from_numpy(wanted.astype(np.int64)),
        torch.zeros(4),
    )
    with torch.no_grad():
        torch_items = net.items(whole.contents, whole.rows, whole.ids).numpy()
        products = net(whole).numpy() * SETTINGS.temperature
    np.testing.assert_allclose(items, torch_items, atol=1e-5)
    names = [trainer.pairs.query[n] for n in chosen[:2]]
    spelt = sorted(WORDS)
    asked: list[Array] = [served.of_text(spelt[name]) for name in names]
    for start, end in pairwise(histories.indptr.tolist()):
        weights = histories.weights[start:end] * draw.uniform(1, 9)  # a factor changes nothing
        asked.append(served.of_history(items[histories.indices[start:end]], weights))
    np.testing.assert_allclose(np.array(asked) @ items[wanted].T, products, atol=1e-5)


def test_a_word_that_no_title_has_finds_the_items_it_led_to(towers: Towers) -> None:
    items = towers.of_items(READER.items(titles()), np.arange(ITEMS))
    for group, word in enumerate(WORDS):
        first = np.argsort(-(items @ towers.of_text(word)))[: ITEMS // GROUPS]
        assert np.mean(first % GROUPS == group) >= 0.9


def test_a_history_finds_items_that_the_same_users_want(towers: Towers) -> None:
    items = towers.of_items(READER.items(titles()), np.arange(ITEMS))
    for group in range(GROUPS):
        history = items[[group, group + GROUPS]]
        first = np.argsort(-(items @ towers.of_history(history, np.array([1.0, 0.5]))))[:15]
        assert np.mean(first % GROUPS == group) >= 0.9


def test_an_item_nobody_ever_saw_is_found_by_a_word_of_its_title(planted: Pairs) -> None:
    """Titles tell the groups here; one item of each is new."""
    table = titles()
    told = [f"{t} colour{n % GROUPS}" for n, t in enumerate(table["title"].to_pylist())]
    contents = READER.items(table.set_column(0, "title", pa.array(told)))
    served = Trainer(planted, contents, READER, SETTINGS, 7, lambda text: None).fit(4)
    fresh = READER.items(
        pa.table({"title": [f"colour{n}" for n in range(GROUPS)], "category": ["all"] * GROUPS})
    )
    new = served.of_items(fresh, np.arange(ITEMS, ITEMS + GROUPS))
    for group, word in enumerate(WORDS):
        assert np.argmax(new @ served.of_text(word)) == group


def test_the_same_pairs_give_the_same_towers(trainer: Trainer, tmp_path: Path) -> None:
    few = replace(trainer, settings=SETTINGS.model_copy(update={"epochs": 1}))
    for name in ("a", "b"):
        few.fit(1).save(tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_training_stops_where_later_pairs_are_found_no_better(trainer: Trainer) -> None:
    assert 1 <= trainer.epochs() <= SETTINGS.epochs


def test_saved_towers_answer_as_before(towers: Towers, tmp_path: Path) -> None:
    towers.save(tmp_path / "towers")
    again = Towers.load(tmp_path / "towers")
    np.testing.assert_array_equal(again.of_text("zorp"), towers.of_text("zorp"))
    rows = np.array([0, 5, ITEMS + 3])
    bags = READER.items(titles()).take(np.array([0, 5, 7]))
    np.testing.assert_array_equal(again.of_items(bags, rows), towers.of_items(bags, rows))
    assert again.reader == towers.reader


def test_a_text_without_words_has_no_vector(towers: Towers) -> None:
    assert not towers.of_text("🎉").any()


def test_bags_sum_as_written_naively() -> None:
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    bags = Bags.of([{1: 2.0, 3: 0.5}, {}, {0: 1.0}])
    expected = np.array([2 * table[1] + 0.5 * table[3], np.zeros(3), table[0]])
    np.testing.assert_allclose(bags.sums(table), expected)
    np.testing.assert_allclose(bags.take(np.array([2, 0, 1])).sums(table), expected[[2, 0, 1]])


def test_the_job_makes_a_channel_that_searches_what_users_meant(
    opened: Callable[..., Work], data_set: Callable[..., Path], goods: object
) -> None:
    """`zorp` leads to the even items of the shop, `quux` to the odd ones; no title has them."""
    draw = np.random.default_rng(6)
    log = [
        {
            "event_id": f"e{n:04}",
            "user_id": f"u{n % 40}",
            "item_id": f"i{2 * int(draw.integers(5)) + n % 2:02}",
            "action": "click",
            "timestamp": 1_700_000_000_000 + 3_600_000 * n,
            "query": ("Zorp", "quux")[n % 2],
        }
        for n in range(600)
    ]
    channels = {"two_tower": {"limit": 10}}
    settings = {
        "scenes": {"search": {"recall": {"channels": channels}}},
        "two_tower": {"width": 8, "hidden": 8, "buckets": 512, "learning_rate": 0.005},
    }
    work = opened(data_set(items=goods, events=log), settings)
    items.run(work)
    events.run(work)
    metrics = two_tower.run(work)
    assert metrics["searches"] > 500
    shown = work.config.model_dump(mode="json")
    for draft, _ in work.drafts:
        Manifest("g", until=0, past=0, actions=work.config.all_actions, config=shown).write(draft)
        channel = OPENERS["two_tower"](Generation.open(draft), work.config)
        assert channel is not None
        for odd, text in enumerate(["zorp", "quux"]):
            found = channel.find(Query(text=text), None, 5)
            assert (found.rows % 2).tolist() == [odd] * 5
        first = (draft / "two_tower/items.npy").read_bytes()
    two_tower.run(work)
    assert (work.draft / "two_tower/items.npy").read_bytes() == first


def test_the_step_runs_where_a_scene_or_the_vector_channel_asks_for_it() -> None:
    step = next(step for step in STEPS if step.name == "two_tower")
    scene = {"home": {"recall": {"channels": {"two_tower": {"limit": 9}}}}}
    assert not step.asked(parse({}))
    assert step.asked(parse({"scenes": scene}))
    assert step.asked(parse({"vectors": {"behaviour": "two_tower"}}))
