"""DeepFM: what must be true of the network, whatever its weights are."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from funnel.config import Rank
from rank.deepfm import DeepFM, DeepFMConfig, mean, pairs
from rank.encoding import Encoded
from rank.train import Table, fit, predict

CONFIG = DeepFMConfig(vocab=(9, 5, 4, 7), bags=1, shared=(0, 1), numbers=3, width=6, hidden=(16, 8))


def model(config=CONFIG, seed=0):
    """With weights large enough that a wrong one shows."""
    torch.manual_seed(seed)
    model = DeepFM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model


def encoded(n=12, requests=3, seed=0):
    draw = np.random.default_rng(seed)
    ids = np.stack([draw.integers(0, size, n) for size in CONFIG.vocab[:3]], 1)
    history = np.stack([draw.integers(0, size, (requests, 4)) for size in (9, 5)], 1)
    return Encoded(
        ids.astype(np.int32),
        draw.normal(size=(n, 3)).astype(np.float32),
        draw.integers(0, 7, (n, 1, 5)).astype(np.int32),
        history.astype(np.int32),
        np.sort(draw.integers(0, requests, n)),
    )


def taken(inputs, index):
    """Some candidates in another order, each with its request."""
    return replace(
        inputs,
        ids=inputs.ids[index],
        numbers=inputs.numbers[index],
        bags=inputs.bags[index],
        history=inputs.history[inputs.owner[index]],
        owner=np.arange(len(index)),
    )


def naive(model, inputs, i):
    """The logit of candidate i, written with loops over the paper's equations."""
    table, weight = (t.detach().double().numpy() for t in (model.embed.weight, model.weight.weight))
    starts = np.cumsum([1, *CONFIG.vocab])
    rows = [[starts[f] + inputs.ids[i, f]] for f in range(3)]
    rows.append([starts[3] + code for code in inputs.bags[i, 0] if code])
    past = inputs.history[inputs.owner[i]]
    rows += [[starts[f] + code for code in past[f] if code] for f in range(2)]
    zero = np.zeros(CONFIG.width)
    v = [table[own].mean(0) if own else zero for own in rows]
    first = sum(weight[own].mean() if own else 0.0 for own in rows)
    first += inputs.numbers[i] @ model.linear.detach().double().numpy()
    second = sum(v[a] @ v[b] for a in range(len(v)) for b in range(a + 1, len(v)))
    x = np.concatenate([*v, inputs.numbers[i]])
    layers = [layer for layer in model.deep if isinstance(layer, torch.nn.Linear)]
    for place, layer in enumerate(layers):
        x = layer.weight.detach().double().numpy() @ x + layer.bias.detach().double().numpy()
        x = np.maximum(x, 0) if place < len(layers) - 1 else x
    return model.bias.item() + first + second + x[0]


def test_logits_equal_the_equations_written_with_loops():
    inputs, deepfm = encoded(), model()
    expected = [naive(deepfm, inputs, i) for i in range(len(inputs.ids))]
    assert predict(deepfm, inputs) == pytest.approx(expected, rel=1e-4, abs=1e-4)


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


def test_a_score_depends_neither_on_the_other_candidates_nor_on_their_order():
    inputs, deepfm = encoded(200, 5), model()
    scores = predict(deepfm, inputs)
    order = np.random.default_rng(1).permutation(200)
    assert predict(deepfm, taken(inputs, order)) == pytest.approx(scores[order], abs=1e-5, rel=1e-6)
    for i in (0, 17, 199):
        alone = predict(deepfm, taken(inputs, np.array([i])))
        assert alone == pytest.approx(scores[i : i + 1], abs=1e-5, rel=1e-6)


def test_padding_the_history_changes_nothing():
    inputs, deepfm = encoded(), model()
    history = np.pad(inputs.history, ((0, 0), (0, 0), (30, 0)))
    longer = replace(inputs, history=history.astype(np.int32))
    assert predict(deepfm, longer) == pytest.approx(predict(deepfm, inputs), abs=1e-6)


def test_the_gradient_reaches_every_parameter():
    deepfm = model()
    inputs = [torch.from_numpy(getattr(encoded(), name)) for name in Encoded.__slots__]
    deepfm(*inputs).square().sum().backward()
    for name, parameter in deepfm.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_it_overfits_32_rows():
    inputs = encoded(32, 4, seed=3)
    labels = (np.arange(32) % 4 == 0).astype(np.float32)
    table = Table(
        inputs, labels, np.arange(32, dtype=np.int32), np.ones(len(inputs.history), np.float32)
    )
    settings = Rank(epochs=300, batch=16, learning_rate=0.02, embedding_l2=0.0)
    fitted = fit(lambda: DeepFM(CONFIG), table, table, settings, seed=1)
    assert fitted.epochs[fitted.best].ndcg == 1.0
    p = 1 / (1 + np.exp(-predict(fitted.model, inputs)))
    assert p[labels > 0].min() > 0.8
    assert p[labels == 0].max() < 0.2


def test_a_model_without_bags_history_or_numbers_scores_too():
    config = DeepFMConfig(vocab=(9, 5, 4))
    inputs = encoded()
    bare = Encoded(
        inputs.ids,
        np.empty((12, 0), np.float32),
        np.empty((12, 0, 0), np.int32),
        np.empty((3, 0, 0), np.int32),
        inputs.owner,
    )
    assert np.isfinite(predict(model(config), bare)).all()
