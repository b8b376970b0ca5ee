"""The training loop: its loss, its batches, its end, and that it repeats itself."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from funnel.config import Rank
from funnel.errors import BadData
from funnel.metrics import grouped_ndcg_at_k
from rank.batch import GAPS, Encoded, Histories
from rank.checkpoint import Checkpoint
from rank.deepfm import DeepFM
from rank.fields import Shape
from rank.train import ALONE, PATIENCE, Averaged, Packed, Table, fit, log_softmax, loss, predict
from rank.value import Platt

SHAPE = Shape(vocab=(20,), shared=(0,), numbers=2, width=4, hidden=(8,))


def histories(draw, requests):
    lengths = draw.integers(0, 6, requests)
    total = int(lengths.sum())
    return Histories(
        draw.integers(0, 20, (total, 1)).astype(np.int32),
        np.ones(total, np.int32),
        draw.integers(0, GAPS, total).astype(np.int32),
        np.concatenate([[0], np.cumsum(lengths)]),
    )


def table(requests=80, seed=0, shift=0.0):
    """Requests of different lengths; the second number decides."""
    draw = np.random.default_rng(seed)
    sizes = draw.integers(3, 15, requests)
    owner, n = np.repeat(np.arange(requests), sizes), int(sizes.sum())
    numbers = draw.normal(size=(n, 2)).astype(np.float32)
    wish = numbers[:, 1] - 1 + draw.logistic(size=n) * 0.5 + shift
    labels = np.where(wish > 1, 4.0, np.where(wish > 0, 1.0, 0.0)).astype(np.float32)
    inputs = Encoded(
        draw.integers(0, 20, (n, 1)).astype(np.int32),
        numbers,
        np.empty((n, 0, 0), np.int32),
        histories(draw, requests),
        owner,
    )
    return Table(inputs, labels, np.arange(n, dtype=np.int32), np.ones(requests, np.float32))


def again(epoch):
    """The table with other ids and numbers."""
    whole = table()
    n = len(whole.labels)
    draw = np.random.default_rng(100 + epoch)
    ids = draw.integers(0, 20, (n, 1)).astype(np.int32)
    numbers = draw.normal(size=(n, 2)).astype(np.float32)
    return replace(whole, inputs=replace(whole.inputs, ids=ids, numbers=numbers))


def trained(seed=7, **settings):
    settings = Rank(**{"epochs": 4, "batch": 64, "learning_rate": 0.01, **settings})
    return fit(lambda: DeepFM(SHAPE), table(), table(30, seed=1), settings, seed)


def test_the_loss_equals_both_cross_entropies_written_request_by_request():
    logits = torch.tensor([0.5, -1.0, 2.0, 0.1, -0.3])
    labels = torch.tensor([4.0, 0.0, 1.0, 0.0, 0.0])
    owner = torch.tensor([0, 0, 0, 1, 1])
    p = torch.sigmoid(logits)
    first = -(torch.log(p[[0, 2]]).sum() + torch.log(1 - p[1]))
    alone = 1.5 * first - 0.5 * torch.log(1 - p[3:]).sum()
    softmax = torch.softmax(logits[:3], 0)
    among = -1.5 * (15 / 16 * torch.log(softmax[0]) + 1 / 16 * torch.log(softmax[2]))
    weights = torch.tensor([1.5, 0.5])
    expected = (ALONE * alone + among) / 5
    torch.testing.assert_close(loss(logits[:, None], labels, owner, weights), expected)


def test_the_loss_of_a_further_head_is_that_of_the_product_over_all_candidates():
    logits = torch.tensor([[0.5, -1.0], [-1.0, 0.3], [2.0, 1.0]])
    labels = torch.tensor([4.0, 0.0, 1.0])
    owner, weights = torch.zeros(3, dtype=torch.int64), torch.ones(1)
    both = torch.sigmoid(logits).prod(1)
    expected = -(torch.log(both[0]) + torch.log(1 - both[1:]).sum()) * ALONE / 3
    one = loss(logits[:, :1], labels, owner, weights)
    torch.testing.assert_close(loss(logits, labels, owner, weights, (0.0, 2.0)) - one, expected)


def test_candidates_that_stand_for_several_weigh_as_these_would():
    """As if each were there that many times, but for the size of the request."""
    draw = torch.Generator().manual_seed(2)
    logits, labels = torch.randn(7, 2, generator=draw), torch.tensor([4.0, 0, 1, 0, 0, 0, 1])
    owner, weights = torch.tensor([0, 0, 0, 0, 1, 1, 1]), torch.tensor([1.5, 0.5])
    many = torch.tensor([1, 3, 1, 2, 4, 2, 1])
    often = torch.repeat_interleave(torch.arange(7), many)
    levels = (0.0, 2.0)
    found = loss(logits, labels, owner, weights, levels, many.float())
    one = [logits[often][:, t] for t in range(2)]
    said = torch.sigmoid(torch.stack(one)).cumprod(0)
    expected = torch.zeros(())
    for request in range(2):
        at = owner[often] == request
        there, own = int((owner == request).sum()), labels[often][at]
        for head, level in enumerate(levels):
            p = said[head][at]
            alone = -torch.where(own > level, p.log(), (1 - p).log()).sum()
            expected += ALONE * weights[request] * alone * there / at.sum()
        wanted = labels[owner == request]
        gains = torch.exp2(wanted) - 1
        odds = logits[owner == request, 0] - torch.logsumexp(one[0][at], 0)
        expected -= weights[request] * (gains / gains.sum() * odds).sum()
    torch.testing.assert_close(found, expected / 7)


def test_the_softmax_of_each_request_is_its_own_and_does_not_overflow():
    logits = torch.tensor([1000.0, 1001.0, -1000.0, -1001.0, -1002.0])
    owner = torch.tensor([0, 0, 1, 1, 1])
    expected = torch.cat([torch.log_softmax(logits[:2], 0), torch.log_softmax(logits[2:], 0)])
    torch.testing.assert_close(log_softmax(logits, owner, 2), expected)


def test_every_batch_is_of_whole_requests_and_an_epoch_has_each_once():
    whole = table()
    packed = Packed.of(whole, torch.device("cpu"))
    batches = packed.batches(64, torch.Generator().manual_seed(1))
    assert sorted(torch.cat(batches).tolist()) == list(range(80))
    for requests in batches:
        batch, labels, _ = packed.take(requests)
        ids, numbers, owner = batch.ids, batch.numbers, batch.owner
        assert len(labels) <= 64 + 14
        for place, request in enumerate(requests.tolist()):
            own = whole.inputs.owner == request
            assert np.array_equal(ids[owner == place], whole.inputs.ids[own])
            assert np.array_equal(numbers[owner == place], whole.inputs.numbers[own])
            assert np.array_equal(labels[owner == place], whole.labels[own])
            part = slice(*whole.inputs.history.offsets[request : request + 2])
            found = slice(*batch.offsets[place : place + 2].tolist())
            assert np.array_equal(batch.codes[found], whole.inputs.history.codes[part])
            assert np.array_equal(batch.gaps[found], whole.inputs.history.gaps[part])


def test_training_twice_gives_the_same_weights():
    one, two = trained().model.state_dict(), trained().model.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = trained(seed=8).model.state_dict()
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_training_leaves_the_random_state_of_the_caller_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    trained(epochs=1)
    assert torch.equal(torch.rand(1), expected)


def test_it_learns_the_order_and_the_probability():
    fitted = trained(epochs=12)
    fresh = table(60, seed=5)
    scores = predict(fitted.model, fresh.inputs)[:, 0]

    def ndcg(scores):
        return np.nanmean(
            grouped_ndcg_at_k(fresh.labels, scores, fresh.rows, fresh.inputs.owner, 10)
        )

    assert ndcg(scores) > ndcg(fresh.inputs.numbers[:, 1]) - 0.02
    assert ndcg(scores) > ndcg(fresh.inputs.numbers[:, 0]) + 0.2
    other = table(60, seed=6)
    p = Platt.fit(predict(fitted.model, other.inputs)[:, 0], other.labels)(scores)
    assert p.mean() == pytest.approx((fresh.labels > 0).mean(), abs=0.05)


def test_it_stops_when_validation_does_and_keeps_the_best_epoch():
    settings = Rank(epochs=60, batch=64, learning_rate=0.05)
    strange = table(30, seed=1, shift=-3.0)
    fitted = fit(lambda: DeepFM(SHAPE), table(), strange, settings, 7)
    losses = [epoch.loss for epoch in fitted.epochs]
    assert len(losses) < 60
    assert len(losses) == fitted.best + 1 + PATIENCE
    assert losses[fitted.best] == min(losses)
    assert not fitted.model.training


def test_the_learning_rate_falls_after_every_epoch():
    def losses(decay):
        settings = Rank(epochs=3, batch=64, learning_rate=0.05, decay=decay)
        fitted = fit(lambda: DeepFM(SHAPE), table(), table(30, seed=1), settings, 7)
        return [epoch.loss for epoch in fitted.epochs]

    same, slower = losses(1.0), losses(1e-6)
    assert same[0] == slower[0]
    assert same[1] != slower[1]
    assert slower[2] == pytest.approx(slower[1], rel=0.05)  # what still moves is the average


def test_l2_holds_embeddings_down_and_nothing_else():
    def sizes(**settings):
        weights = trained(epochs=4, **settings).model.state_dict()
        return weights["table.embed.weight"].abs().mean(), weights[
            "ends.deep.0.weight"
        ].abs().mean()

    free, held = sizes(embedding_l2=0.0), sizes(embedding_l2=0.1)
    assert held[0] < free[0] / 3
    assert held[1] > free[1] / 2


def test_progress_ends_at_the_last_step_even_when_it_stops_early():
    heard = []
    settings = Rank(epochs=3, batch=64)
    fit(
        lambda: DeepFM(SHAPE),
        table(),
        table(30, seed=1),
        settings,
        7,
        lambda done, steps: heard.append((done, steps)),
    )
    assert heard[-1][0] == heard[-1][1]
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)


class Stopped(Exception):
    pass


def test_weights_are_averaged_over_all_steps_then_over_about_the_last_ones():
    model = torch.nn.Linear(2, 1)
    averaged, expected = Averaged(model, 4), None
    for step in range(1, 10):
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[float(step), 1.0]]))
        averaged.add(model)
        own = model.weight.detach().clone()
        expected = own if expected is None else expected + (own - expected) / min(step, 4)
        torch.testing.assert_close(averaged.model.weight.detach(), expected)
        if step <= 4:
            assert averaged.model.weight[0, 0].item() == pytest.approx((step + 1) / 2)
    assert model.weight[0, 0].item() == 9  # which goes on from where it is


def test_later_epochs_learn_from_what_is_drawn_for_them():
    asked = []

    def made(draw):
        settings = Rank(epochs=3, batch=64, learning_rate=1e-3)
        return fit(lambda: DeepFM(SHAPE), table(), table(30, seed=1), settings, 7, draw=draw)

    def others(epoch):
        asked.append(epoch)
        return again(epoch)

    plain, same, drawn = made(None), made(lambda epoch: table()), made(others)
    assert asked == [1, 2]
    assert same.epochs == plain.epochs
    assert drawn.epochs[0] == plain.epochs[0]
    assert drawn.epochs[1] != plain.epochs[1]


@pytest.mark.parametrize("draw", [None, again])
@pytest.mark.parametrize("stop", [1, 7, 20, 31])
def test_training_that_was_stopped_goes_on_to_the_same_weights(tmp_path, stop, draw):
    settings = Rank(epochs=4, batch=64, learning_rate=0.01, dropout=0.3)
    shape, checkpoint = replace(SHAPE, dropout=0.3), Checkpoint(tmp_path / "c/home.pt")

    def train(progress, kept):
        valid = table(30, seed=1)
        make = partial(DeepFM, shape)
        return fit(make, table(), valid, settings, 7, progress, kept, draw=draw)

    def stopping(done, steps):
        if done == stop:
            raise Stopped

    whole = train(lambda done, steps: None, None)
    with pytest.raises(Stopped):
        train(stopping, checkpoint)
    heard = []
    again = train(lambda done, steps: heard.append(done), checkpoint)
    expected, found = whole.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert again.epochs == whole.epochs
    assert heard[0] <= stop
    assert (heard[0] > 1) == (stop > 12)  # an epoch is 12 steps here or a little more
    assert not checkpoint.path.exists()


@pytest.mark.parametrize("broken", [b"", b"no checkpoint", None])
def test_a_checkpoint_of_another_training_or_a_broken_one_is_none(tmp_path, broken):
    checkpoint = Checkpoint(tmp_path / "home.pt")
    if broken is None:
        checkpoint.save("another", {"epochs": []})
    else:
        checkpoint.path.write_bytes(broken)
    assert checkpoint.load("mine") is None
    settings = Rank(epochs=2, batch=64)
    made = [
        fit(lambda: DeepFM(SHAPE), table(), table(30, seed=1), settings, 7, checkpoint=kept)
        for kept in (None, checkpoint)
    ]
    one, two = (fitted.model.state_dict() for fitted in made)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_divergence_is_an_error_that_says_what_to_lower():
    broken = table()
    broken.inputs.numbers[:] = np.inf
    with pytest.raises(BadData, match=r"lower rank\.learning_rate"):
        fit(lambda: DeepFM(SHAPE), broken, broken, Rank(epochs=1), 7)
