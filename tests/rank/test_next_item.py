"""The next item by the encoder: sequences, ranks, and that it learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rank.next_item import (
    Attributes,
    NextItem,
    Sequences,
    Training,
    fit,
    ranks,
    ranks_among,
)

SMALL = Training(
    unit=16,
    blocks=1,
    past=8,
    dropout=0.0,
    batch=16,
    learning_rate=0.01,
    epochs=20,
    negatives=0,
    places=False,
)


def sequences(*lists):
    items = np.array([item for one in lists for item in one], np.int64)
    return Sequences(items, np.cumsum([0, *map(len, lists)]))


def test_the_newest_are_kept_after_the_last_are_left_out():
    every = sequences([1, 2, 3, 4], [5], [], [6, 7])
    found = every.newest(2, without=1)
    assert found.items.tolist() == [2, 3, 6]
    assert found.offsets.tolist() == [0, 2, 2, 2, 3]


def test_a_state_sees_what_came_before_and_nothing_after():
    torch.manual_seed(0)
    model = NextItem(9, SMALL).eval()
    with torch.no_grad():
        model.encoder.blocks[0].apart.normal_()
    ends = model.last(sequences([1, 2, 3], [1, 2]))
    states = model(torch.tensor([1, 2, 3]), torch.tensor([0, 3]))
    assert torch.allclose(states[2], ends[0], atol=1e-6)
    # What training sees of a prefix is what serving sees where the sequence ends there.
    assert torch.allclose(states[1], ends[1], atol=1e-6)
    other = model(torch.tensor([1, 2, 5]), torch.tensor([0, 3]))
    assert torch.allclose(states[:2], other[:2], atol=1e-6)
    assert not torch.allclose(states[2], other[2], atol=1e-3)


@pytest.mark.parametrize("places", [False, True])
def test_packed_sequences_have_the_states_of_each_alone(places):
    torch.manual_seed(0)
    model, lists = (
        NextItem(9, replace(SMALL, places=places)).eval(),
        ([1, 2, 3], [], [4], [5, 6, 7, 8, 1, 2]),
    )
    together = model.last(sequences(*lists))
    alone = torch.cat([model.last(sequences(one)) for one in lists])
    assert torch.allclose(together, alone, atol=1e-5)
    assert not together[1].any()


@pytest.mark.parametrize("temperature", [0.0, 0.1])
def test_ranks_equal_counting_by_hand(temperature):
    torch.manual_seed(0)
    model = NextItem(30, Training(unit=8, past=8, temperature=temperature)).eval()
    past, goals = sequences([1, 2, 3], [4, 5]), np.array([7, 8])
    with torch.inference_mode():
        scores = (model.last(past) @ model.table().T).numpy()
        whole = ranks(model, past, goals, past)
        among = ranks_among(model, past, goals, np.array([[9, 10, 11], [1, 2, 3]]))
    for user, met in enumerate(([1, 2, 3], [4, 5])):
        others = [item for item in range(30) if item not in (*met, goals[user])]
        assert whole[user] == (scores[user, others] > scores[user, goals[user]]).sum()
    assert among[0] == (scores[0, [9, 10, 11]] > scores[0, 7]).sum()
    assert among[1] == (scores[1, [1, 2, 3]] > scores[1, 8]).sum()


@pytest.mark.parametrize("negatives", [0, 12])
def test_it_learns_what_follows_what(negatives):
    draw = np.random.default_rng(0)
    lists = [(np.arange(7) + start) % 20 for start in draw.integers(0, 20, 120)]
    past = sequences(*(one[:-1] for one in lists))
    goals = np.array([one[-1] for one in lists])

    def judge(model):
        return float((ranks(model, past, goals, None) == 0).mean())

    training = Training(**{**vars_of(SMALL), "negatives": negatives})
    found = fit(past, 20, training, judge, seed=1)
    with torch.inference_mode():
        assert judge(found.model) > 0.9
    assert found.judged[found.best] == max(found.judged)


def test_training_twice_gives_the_same_weights():
    past = sequences(*([1, 2, 3, 4] for _ in range(20)))
    training = Training(**{**vars_of(SMALL), "epochs": 2, "dropout": 0.3})
    one, two = (
        fit(past, 9, training, lambda model: 0.0, seed=3).model.state_dict() for _ in range(2)
    )
    assert all(torch.equal(one[name], two[name]) for name in one)


ATTRIBUTES = Attributes(np.array([3, 0, 1, 1], np.int64), np.array([0, 2, 2, 3, 4]))


def test_an_item_is_its_own_vector_and_those_of_its_attributes():
    torch.manual_seed(0)
    model = NextItem(4, replace(SMALL, temperature=0.0), ATTRIBUTES).eval()
    own, common = model.items.own.weight, model.items.common.weight
    expected = torch.stack([own[0] + common[3] + common[0], own[1], own[2] + common[1]])
    found = model.items(torch.tensor([2, 0, 1]))
    assert torch.allclose(found, expected[[2, 0, 1]], atol=1e-6)
    assert torch.allclose(model.table()[:3], expected, atol=1e-6)
    model.table().sum().backward()
    assert all(p.grad is not None for p in model.items.parameters())


def test_of_an_item_that_nobody_met_its_attributes_tell_what_it_follows():
    """Kinds alternate; of either kind one item was never met."""
    draw = np.random.default_rng(0)
    kinds = np.arange(20) % 2
    met = [np.flatnonzero((kinds == kind) & (np.arange(20) < 18)) for kind in (0, 1)]
    lists = [[draw.choice(met[n % 2]) for n in range(6)] for _ in range(200)]
    known = Attributes(kinds.astype(np.int64), np.arange(21))
    training = replace(SMALL, negatives=12, epochs=5)
    found = fit(sequences(*lists), 20, training, None, 1, until=5, attributes=known)
    with torch.inference_mode():  # every list ends with the second kind: 18 is the first's
        scores = found.model.last(sequences(*lists[:50])) @ found.model.table().T
    assert (scores[:, 18] > scores[:, 19]).float().mean() > 0.9
    assert not found.model.items.own.weight[18:].any()  # nothing of their own
    assert found.model.items.own.weight[:18].any(1).all()
    drawn = fit(
        sequences(*lists), 20, replace(training, unmet=True), None, 1, until=5, attributes=known
    )
    assert drawn.model.items.own.weight[18:].any(1).all()
    with torch.inference_mode():  # learned from as never wanted
        others = drawn.model.last(sequences(*lists[:50])) @ drawn.model.table().T
    first = torch.from_numpy(met[0])
    assert (others[:, 18] - others[:, first].mean(1)).mean() < (
        scores[:, 18] - scores[:, first].mean(1)
    ).mean()


def vars_of(training):
    return {name: getattr(training, name) for name in training.__slots__}
