"""What rank orders by: the blend with prerank, its weight, and a probability out of a logit."""

import numpy as np
import pytest
from scipy.optimize import minimize

from funnel.choice import likeliest, log_likelihood
from funnel.log import Logged
from funnel.types import Candidates, Query
from jobs.judged import Judged
from rank.value import (
    LOGIT,
    WEIGHTS,
    Blend,
    Platt,
    likelier,
    sigmoid,
    weighed,
)

DRAW = np.random.default_rng(4)


def test_platt_is_the_likeliest_sigmoid_near_where_it_starts():
    logits = DRAW.normal(size=500) * 3
    labels = DRAW.random(500) < sigmoid(0.4 * logits - 1)
    found = Platt.fit(logits, labels.astype(np.float32))

    def loss(at):
        p = np.clip(sigmoid(at[0] * logits + at[1]), 1e-12, 1 - 1e-12)
        likely = np.where(labels, np.log(p), np.log(1 - p)).sum()
        return -likely + 0.5 * ((at[0] - 1) ** 2 + at[1] ** 2)

    best = minimize(loss, [1.0, 0.0], tol=1e-9).x
    assert (found.scale, found.offset) == pytest.approx(tuple(best), abs=1e-3)
    assert found(logits).mean() == pytest.approx(labels.mean(), abs=0.01)


@pytest.mark.parametrize("labels", [np.zeros(5), np.ones(5)])
def test_platt_of_one_kind_of_label_is_finite(labels):
    found = Platt.fit(np.arange(5) - 2.0, labels)
    assert np.isfinite(found(np.array([-1e6, 0, 1e6]))).all()


def test_the_blend_adds_prerank_and_what_is_usual_where_there_is_none():
    before = np.array([1.0, np.nan, -2.0], np.float32)
    logits = np.array([0.5, 0.5, 0.5], np.float32)
    found = Candidates(np.arange(3, dtype=np.int32), logits, {LOGIT: logits, "prerank": before})
    blend = Blend(weight=2.0, usual=0.25)
    assert blend.score(Query(), found) == pytest.approx([2.5, 1.0, -3.5])
    without = Candidates(found.rows, logits, {LOGIT: logits})
    assert blend.score(Query(), without) == pytest.approx([1.0, 1.0, 1.0])


def chosen(values, counts):
    """The rule, one weight at a time: nearest to 1 within a standard error of the best."""
    own = values * counts
    best = max(range(len(WEIGHTS)), key=lambda place: own[place].sum())

    def near(place):
        below = own[best] - own[place]
        return below.mean() <= below.std(ddof=1) / len(counts) ** 0.5

    def far(place):
        return abs(np.log2(WEIGHTS[place])) if WEIGHTS[place] else np.inf, -WEIGHTS[place]

    return min(filter(near, range(len(WEIGHTS))), key=far)


@pytest.mark.parametrize("spread", [0.0, 0.05, 1.0])
def test_the_weight_is_the_one_nearest_to_1_that_is_not_surely_worse(spread):
    counts = DRAW.random(20) + 0.5
    for peak in range(len(WEIGHTS)):
        values = spread * DRAW.random((len(WEIGHTS), 20))
        values -= 0.1 * np.abs(np.arange(len(WEIGHTS)) - peak)[:, None]
        weight, honest = weighed(lambda weight, v=values: v[WEIGHTS.index(weight)], counts)
        assert weight == WEIGHTS[chosen(values, counts)]
        assert spread or weight == WEIGHTS[peak]
        for own in (np.arange(20) % 2 == 0, np.arange(20) % 2 == 1):  # each by the other's choice
            by_others = chosen(values[:, ~own], counts[~own])
            assert np.array_equal(honest[own], values[by_others, own])


def test_of_equals_and_of_one_request_the_weight_is_1():
    same = DRAW.random(200)
    assert weighed(lambda _: same, np.ones(200))[0] == 1.0
    weight, honest = weighed(lambda weight: np.array([weight]), np.ones(1))
    assert (weight, honest.tolist()) == (1.0, [1.0])


def test_a_network_that_knows_more_is_likelier_and_one_of_noise_is_not():
    sizes, counts = np.full(300, 10), np.ones(300)
    logits, before, noise = DRAW.normal(size=(3, 3000))
    wish = (logits + before + DRAW.gumbel(size=3000)).reshape(300, 10)
    labels = (wish == wish.max(1, keepdims=True)).ravel().astype(np.float32)
    more = likelier(logits, before, labels, sizes, counts)
    assert more.mean() > 3 * more.std() / np.sqrt(300)
    none = likelier(noise, before, labels, sizes, counts)
    assert none.mean() < 2 * none.std() / np.sqrt(300)
    # By hand: the first half's requests, with what fits the second.
    odd = np.repeat(np.arange(300) % 2 == 1, 10)
    half = np.full(150, 10)
    x = np.stack([before, logits], 1)
    both = x @ likeliest(x[odd], labels[odd], half, np.ones(150))
    alone = before * likeliest(before[odd, None], labels[odd], half, np.ones(150))
    expected = log_likelihood(both, labels, sizes) - log_likelihood(alone, labels, sizes)
    assert more[::2] == pytest.approx(expected[::2])


def test_graded_queries_together_count_as_much_as_the_requests_of_users():
    def asked(user):
        one = np.zeros(1, np.float32)
        return Logged(Query(user_id=user), Candidates(np.zeros(1, np.int32), one), one, one)

    few = Judged.of([asked(""), *(asked("u1") for _ in range(4))]).weights
    assert few.tolist() == [2.5, 0.625, 0.625, 0.625, 0.625]
    assert Judged.of([asked("u1")] * 3).weights.tolist() == [1, 1, 1]
