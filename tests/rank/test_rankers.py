"""What must be true of every ranker, whatever its weights are."""

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from funnel.config import Rank
from rank.batch import GAPS, Batch, Encoded, Histories
from rank.fields import Shape, mean, pairs
from rank.models import MODELS
from rank.pairs import Pairs
from rank.train import Table, fit, loss, predict
from tests.rank.rankers import SHAPE, encoded, model, own, taken


@pytest.fixture(params=sorted(MODELS))
def name(request):
    return request.param


def linear(layer, x):
    bias = 0 if layer.bias is None else layer.bias.detach().double().numpy()
    return layer.weight.detach().double().numpy() @ x + bias


def normed(layer, x):
    weight, bias = (t.detach().double().numpy() for t in (layer.weight, layer.bias))
    return (x - x.mean()) / np.sqrt(x.var() + layer.eps) * weight + bias


def relu(x):
    return np.maximum(x, 0)


def gelu(x):
    return torch.nn.functional.gelu(torch.from_numpy(x)).numpy()


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


class Naive:
    """A ranker's logits, written with loops over the papers' equations in float64."""

    def __init__(self, name, model, inputs):
        self.name, self.model, self.inputs = name, model, inputs
        self.table = model.table.embed.weight.detach().double().numpy()
        self.weight = model.table.weight.weight.detach().double().numpy()
        self.starts = np.cumsum([1, *SHAPE.vocab])

    def logits(self, i):
        inputs = self.inputs
        rows = [[self.starts[f] + inputs.ids[i, f]] for f in range(3)]
        rows.append([self.starts[3] + code for code in inputs.bags[i, 0] if code])
        past = own(inputs.history, inputs.owner[i])
        rows += [[self.starts[f] + code for code in past.codes[:, f] if code] for f in range(2)]
        zero = np.zeros(SHAPE.width)
        v = [self.table[each].mean(0) if each else zero for each in rows]
        first = sum(self.weight[each].mean() if each else 0.0 for each in rows)
        crossed = sum(v[a] @ v[b] for a in range(len(v)) for b in range(a + 1, len(v)))
        more = []
        if self.name != "deepfm":
            more = [*self.heard(v, past), self.matched(inputs.ids[i, :2], past)]
        ends = self.model.ends
        project = ends.project.weight.detach().double().numpy()
        x = np.concatenate([*v, inputs.numbers[i], *more, project @ inputs.vectors[i]])
        layers = [layer for layer in ends.deep if isinstance(layer, torch.nn.Linear)]
        for place, layer in enumerate(layers):
            x = linear(layer, x)
            x = relu(x) if place < len(layers) - 1 else x
        line, bias = (t.detach().double().numpy() for t in (ends.linear, ends.bias))
        scale = ends.scale.detach().double().numpy()
        return (first + crossed) * scale + line @ inputs.numbers[i] + bias + x

    def heard(self, v, past):
        actions = self.model.actions
        q = linear(actions.item, np.concatenate([v[0], v[1]]))
        k = []
        for codes, action, gap in zip(past.codes, past.actions, past.gaps, strict=True):
            rows = [self.starts[f] + code if code else 0 for f, code in enumerate(codes)]
            item = linear(actions.item, np.concatenate([self.table[row] for row in rows]))
            side = actions.action.weight[action] + actions.gap.weight[gap]
            k.append(item + side.detach().double().numpy())
        found = self.activated(q, k) if self.name == "din" else self.attended(q, k)
        return [found, found * q]

    def matched(self, ids, past):
        """Weighted counts of the actions on the same code, and their shares."""
        matched = self.model.matched
        gap, action = (e.weight.detach().double().numpy() for e in (matched.gap, matched.action))
        counts, whole = np.zeros((2, 2)), np.zeros((2, 2))  # by code and pace
        for codes, done, ago in zip(past.codes, past.actions, past.gaps, strict=True):
            weight = np.exp(gap[ago] + action[done]).reshape(2, 2)
            whole += weight
            for j in range(2):
                if codes[j] == ids[j] > 0:
                    counts[j] += weight[j]
        logs, shares = np.log1p(counts), counts / np.maximum(whole, 1e-6)
        return np.concatenate([logs, shares]).ravel()

    def activated(self, q, k):
        """The activation unit over [q, k, q - k, q * k] as one layer (Zhou et al. 2018), with what
        projections have in common and with how recent an action is."""
        if not k:
            return np.zeros(SHAPE.unit)
        unit, fit = self.model.unit, []
        of_q, of_k = (t.weight.detach().double().numpy() for t in (unit.query, unit.key))
        rest = np.zeros_like(of_q)  # whatever the third part is, the first two hold it
        layer = np.concatenate(
            [of_q - rest, of_k + rest, rest, unit.product.weight.detach().double().numpy()], 1
        )
        bias = unit.query.bias.detach().double().numpy()
        place = unit.place.weight.detach().double().numpy()[:, 0]
        for t, key in enumerate(k):
            hidden = relu(layer @ np.concatenate([q, key, q - key, q * key]) + bias)
            near = linear(unit.near, q) @ linear(unit.far, key) / np.sqrt(len(bias))
            recent = place[min(len(k) - 1 - t, SHAPE.past - 1)]
            fit.append(linear(unit.out, hidden)[0] + near + recent)
        return softmax(np.array(fit)) @ np.array(k)

    def attended(self, q, k):
        if not k:
            return np.zeros(SHAPE.unit)
        encoder, h, half = self.model.encoder, len(k), SHAPE.unit // 2
        x = k
        for block in encoder.blocks:
            qkv = [linear(block.qkv, normed(block.before, each)) for each in x]
            after = []
            for t in range(h):
                heads = []
                for place in range(2):
                    cut = slice(place * half, (place + 1) * half)
                    queries, keys, values = (
                        [each[part * SHAPE.unit :][: SHAPE.unit][cut] for each in qkv[: t + 1]]
                        for part in range(3)
                    )
                    apart = [block.apart[place, t - at].item() for at in range(t + 1)]
                    fit = np.array([queries[-1] @ key for key in keys]) / half**0.5 + apart
                    shares = softmax(fit)
                    heads.append(sum(s * value for s, value in zip(shares, values, strict=True)))
                y = x[t] + linear(block.out, np.concatenate(heads))
                after.append(
                    y + linear(block.down, gelu(linear(block.up, normed(block.between, y))))
                )
            x = after
        states = [normed(encoder.norm, each) for each in x]
        attend, heads = self.model.attend, []
        for place in range(2):
            cut = slice(place * half, (place + 1) * half)
            query = linear(attend.query, q)[cut]
            keys = [linear(attend.key, state)[cut] for state in states]
            values = [linear(attend.value, state)[cut] for state in states]
            shares = softmax(np.array([query @ key for key in keys]) / half**0.5)
            heads.append(sum(s * value for s, value in zip(shares, values, strict=True)))
        return np.concatenate(heads)


def test_logits_equal_the_equations_written_with_loops(name):
    inputs, ranker = encoded(), model(name)
    naive = Naive(name, ranker, inputs)
    expected = np.stack([naive.logits(i) for i in range(12)])
    assert predict(ranker, inputs) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_one_request_alone_scores_as_among_others(name):
    inputs, ranker = encoded(30, (10, 0, 3, 1)), model(name)
    scores = predict(ranker, inputs)
    for request in range(4):
        mine = np.flatnonzero(inputs.owner == request)
        alone = Encoded(
            inputs.ids[mine],
            inputs.numbers[mine],
            inputs.bags[mine],
            own(inputs.history, request),
            np.zeros(len(mine), np.int64),
            inputs.vectors[mine],
        )
        assert predict(ranker, alone) == pytest.approx(scores[mine], abs=1e-5, rel=1e-5)


def test_a_score_depends_neither_on_the_other_candidates_nor_on_their_order(name):
    inputs, ranker = encoded(200, (5, 9, 0, 1, 2)), model(name)
    scores = predict(ranker, inputs)
    order = np.random.default_rng(1).permutation(200)
    found = predict(ranker, taken(inputs, order))
    assert found == pytest.approx(scores[order], abs=2e-5, rel=1e-5)
    for i in (0, 17, 199):
        alone = predict(ranker, taken(inputs, np.array([i])))
        assert alone == pytest.approx(scores[i : i + 1], abs=2e-5, rel=1e-5)


def test_how_long_the_histories_of_others_are_changes_nothing(name):
    inputs, ranker = encoded(12, (4, 0, 3)), model(name)
    past = inputs.history
    longer = Histories(
        np.pad(past.codes, ((0, 30), (0, 0)), mode="wrap"),
        np.pad(past.actions, (0, 30), mode="wrap"),
        np.pad(past.gaps, (0, 30), mode="wrap"),
        np.append(past.offsets, past.offsets[-1] + 30),
    )
    found = predict(ranker, replace(inputs, history=longer))
    assert found == pytest.approx(predict(ranker, inputs), abs=1e-5)


def test_the_gradient_reaches_every_parameter(name):
    ranker = model(name, replace(SHAPE, heads=2))
    ranker(Batch.of(encoded())).square().sum().backward()
    for parameter_name, parameter in ranker.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


def test_gradients_of_the_same_batch_are_the_same_to_the_last_bit(name):
    """On two threads beside other work, which changes who of them comes first."""
    threads, rows, requests = torch.get_num_threads(), 21_000, 3
    inputs = replace(
        encoded(rows, (3,) * requests), owner=np.repeat(np.arange(requests), rows // requests)
    )
    batch, labels = Batch.of(inputs), torch.arange(float(rows)) % 3
    start = model(name)

    def gradients(_):
        ranker = deepcopy(start)
        torch.autograd.backward(loss(ranker(batch), labels, batch.owner, torch.ones(requests)))
        return [parameter.grad for parameter in ranker.parameters()]

    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(4) as pool:
            first, *others = pool.map(gradients, range(60))
    finally:
        torch.set_num_threads(threads)
    assert all(all(map(torch.equal, one, first)) for one in others)


def test_it_overfits_32_rows(name):
    inputs = encoded(32, (4, 5, 3, 6), seed=3)
    labels = (np.arange(32) % 4 == 0).astype(np.float32)
    table = Table(inputs, labels, np.arange(32, dtype=np.int32), np.ones(4, np.float32))
    settings = Rank(epochs=300, batch=16, learning_rate=0.02, embedding_l2=0.0, decay=1.0)
    fitted = fit(lambda: MODELS[name](SHAPE), table, table, settings, seed=1)
    assert fitted.epochs[fitted.best].ndcg == 1.0
    p = 1 / (1 + np.exp(-predict(fitted.model, inputs)[:, 0]))
    assert p[labels > 0].min() > 0.5
    assert p[labels == 0].max() < 0.4


def test_only_what_attends_sees_which_action_it_was(name):
    inputs, ranker = encoded(), model(name)
    changed = replace(inputs.history, actions=(inputs.history.actions + 1) % 4)
    found = predict(ranker, replace(inputs, history=changed))
    same = np.isclose(found, predict(ranker, inputs), atol=1e-6)[:, 0]
    assert same.all() == (name == "deepfm")


def test_recent_actions_on_the_same_category_may_count_more():
    ranker = model("din")
    matched = ranker.matched
    with torch.no_grad():
        matched.action.weight.zero_()
        matched.gap.weight.copy_(-torch.arange(GAPS)[:, None] * torch.ones(1, 4))
    past = Histories(
        np.array([[1, 3], [2, 3], [1, 4]], np.int32),
        np.ones(3, np.int32),
        np.array([5, 2, 1], np.int32),
        np.array([0, 3]),
    )
    ids = np.array([[1, 3, 0], [7, 4, 0], [0, 0, 0]], np.int32)
    numbers, bags = np.zeros((3, 3), np.float32), np.zeros((3, 1, 1), np.int32)
    batch = Batch.of(Encoded(ids, numbers, bags, past, np.zeros(3, np.int64)))
    for met in (None, Pairs.of(batch.offsets, batch.owner)):
        found = matched(batch, met).detach()[:, :4:2].expm1()  # the first pace
        e = np.exp(-np.arange(GAPS, dtype=np.float32))
        expected = [[e[5] + e[1], e[5] + e[2]], [0, e[1]], [0, 0]]  # by item, by category
        torch.testing.assert_close(found, torch.tensor(np.array(expected, np.float32)))


def test_deepfm_scores_without_bags_history_or_numbers():
    inputs = encoded()
    empty = np.empty((12, 0), np.float32), np.empty((12, 0, 0), np.int32)
    bare = Encoded(inputs.ids, *empty, Histories.none(3), inputs.owner)
    assert np.isfinite(predict(model("deepfm", Shape(vocab=(9, 5, 4))), bare)).all()


def test_what_attends_needs_items_to_attend_to():
    with pytest.raises(ValueError, match="codes of their items"):
        MODELS["din"](Shape(vocab=(9,)))


def test_the_fm_term_equals_the_double_sum_over_pairs():
    v = torch.randn(5, 7, 3, dtype=torch.float64)
    double = sum((v[:, i] * v[:, j]).sum(1) for i in range(7) for j in range(i + 1, 7))
    torch.testing.assert_close(pairs(v), double)


def test_an_empty_bag_is_zero_and_padding_does_not_count():
    table = torch.randn(6, 2)
    codes = torch.tensor([[[0, 0, 0]], [[0, 3, 5]], [[3, 5, 0]]])
    found = mean(table, codes)[:, 0]
    torch.testing.assert_close(found[0], torch.zeros(2))
    torch.testing.assert_close(found[1], (table[3] + table[5]) / 2)
    torch.testing.assert_close(found[2], found[1])
