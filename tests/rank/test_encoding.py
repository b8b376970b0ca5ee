"""What the assembler gives, as codes and numbers for the network."""

import numpy as np
import pytest

from features.assemble import Fields
from rank.batch import GAPS, classes
from rank.encoding import BAG, BINS, RARE, Encoding, Raw


def fields(ids, numbers, tags=(), items=(), actions=None):
    offsets = np.cumsum([0, *map(len, tags)])
    actions = [1] * len(items) if actions is None else actions
    return Fields(
        np.asarray(ids, np.int32),
        np.asarray(numbers, np.float32),
        {"item.tags": (offsets, np.array([c for tag in tags for c in tag], np.int32))},
        np.arange(len(items), dtype=np.int32),
        np.asarray(actions, np.int8),
        np.zeros(len(items), np.float32),
        np.asarray(items, np.int32).reshape(-1, 2),
    )


LIKED = np.array([False, True, False])


def raw(*requests, keep=4):
    return Raw.of(requests, ["item.tags"], keep, LIKED)


def fitted(ids, numbers, **rest):
    n = len(ids)
    one = fields(ids, numbers, [[1]] * n, **rest)
    joined = raw(one)
    return Encoding.fit(joined, [50, 9, 9], [0, 1]), joined


def test_histories_are_the_newest_liked_actions_one_after_another():
    one = fields([[1, 1]], [[0]], [[]], [[5, 1], [6, 2], [7, 3]], [1, 0, 1])
    two = fields([[1, 1]], [[0]], [[]], [[n, 1] for n in range(1, 9)])
    history = raw(one, two).history
    assert history.offsets.tolist() == [0, 2, 6]
    assert history.codes[:, 0].tolist() == [5, 7, 5, 6, 7, 8]
    assert history.codes[:, 1].tolist() == [1, 3, 1, 1, 1, 1]
    assert history.actions.tolist() == [2] * 6


def test_an_action_that_nobody_knows_is_not_liked():
    one = fields([[1, 1]], [[0]], [[]], [[5, 1]], [-1])
    assert not len(raw(one).history.codes)


def test_gaps_double_from_an_hour_and_the_last_is_open():
    hours = np.array([0.0, 0.9, 1.0, 1.9, 2.0, 4.0, 24.0, 512.0, 1e9], np.float32)
    assert classes(hours).tolist() == [1, 1, 2, 2, 3, 4, 6, GAPS - 1, GAPS - 1]


def test_bags_keep_the_first_values_of_each_item():
    one = fields([[1, 1]] * 3, [[0]] * 3, [[3, 4], [], list(range(1, 20))])
    bags = raw(one).bags
    assert bags.shape == (3, 1, BAG)
    assert bags[0, 0].tolist() == [3, 4] + [0] * (BAG - 2)
    assert not bags[1].any()
    assert bags[2, 0].tolist() == list(range(1, BAG + 1))


def test_rare_and_unheard_codes_are_code_zero_and_the_others_stay_apart():
    ids = [[7, 1]] * RARE + [[8, 1]] * (RARE - 1) + [[9, 2]] * RARE
    encoding, joined = fitted(ids, [[0]] * len(ids))
    codes = encoding(joined).ids[:, 0]
    assert codes.tolist() == [1] * RARE + [0] * (RARE - 1) + [2] * RARE
    unheard = raw(fields([[49, 1], [50, 99], [-1, -5]], [[0]] * 3, [[]] * 3))
    assert encoding(unheard).ids[:, 0].tolist() == [0, 0, 0]


def test_an_item_that_only_histories_know_has_a_code_of_its_own():
    ids = [[7, 1]] * RARE
    encoding, joined = fitted(ids, [[0]] * RARE, items=[[3, 4]] * RARE)
    found = encoding(joined)
    assert found.history.codes[:, 0].tolist() == [1] * RARE
    assert found.ids[:, 0].tolist() == [2] * RARE
    assert encoding.vocab[:2] == (3, 3)


def test_numbers_are_standardised_clipped_and_zero_where_missing():
    values = np.random.default_rng(0).normal(5, 3, 2000)
    values[0], values[1] = 1e9, np.nan
    encoding, joined = fitted([[1, 1]] * 2000, values[:, None])
    numbers = encoding(joined).numbers[:, 0]
    assert numbers[1] == 0
    assert numbers[0] < 5
    assert numbers.mean() == pytest.approx(0, abs=0.02)
    assert numbers.std() == pytest.approx(1, abs=0.02)


def test_quantiles_hold_equal_shares_and_zero_is_missing():
    values = np.random.default_rng(0).exponential(size=BINS * 100)
    encoding, joined = fitted([[1, 1]] * len(values), values[:, None])
    codes = encoding(joined).ids[:, 2]
    counts = np.bincount(codes, minlength=BINS + 1)
    assert counts[0] == 0
    assert counts[1:] == pytest.approx(100, abs=2)
    order = np.argsort(values)
    assert (np.diff(codes[order]) >= 0).all()
    assert encoding(raw(fields([[1, 1]], [[np.nan]], [[]]))).ids[0, 2] == 0


def test_a_number_with_few_values_or_none_has_few_quantiles():
    numbers = np.stack([np.tile([0.0, 0.0, 0.0, 1.0], 25), np.full(100, np.nan)], 1)
    encoding, joined = fitted([[1, 1]] * 100, numbers)
    found = encoding(joined)
    assert len(np.unique(found.ids[:, 2])) == 2
    assert not found.ids[:, 3].any()
    assert not found.numbers[:, 1].any()
    assert np.isfinite(found.numbers).all()
