"""Shapes, weights and inputs that the tests of all rankers share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from rank.batch import GAPS, Encoded, Histories
from rank.fields import Shape
from rank.models import MODELS

SHAPE = Shape(
    vocab=(9, 5, 4, 7),
    bags=1,
    shared=(0, 1),
    numbers=3,
    actions=4,
    width=6,
    hidden=(16, 8),
    unit=8,
    past=10,
    vectors=5,
)


def model(name, shape=SHAPE, seed=0):
    """With weights large enough that a wrong one shows."""
    torch.manual_seed(seed)
    model = MODELS[name](shape).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    return model


def encoded(n=12, lengths=(4, 0, 3), seed=0):
    draw = np.random.default_rng(seed)
    total = sum(lengths)
    return Encoded(
        np.stack([draw.integers(0, size, n) for size in SHAPE.vocab[:3]], 1).astype(np.int32),
        draw.normal(size=(n, 3)).astype(np.float32),
        draw.integers(0, 7, (n, 1, 5)).astype(np.int32),
        Histories(
            np.stack([draw.integers(0, size, total) for size in (9, 5)], 1).astype(np.int32),
            draw.integers(0, 4, total).astype(np.int32),
            draw.integers(0, GAPS, total).astype(np.int32),
            np.cumsum([0, *lengths]),
        ),
        np.sort(draw.integers(0, len(lengths), n)),
        draw.normal(size=(n, 5)).astype(np.float32),
    )


def own(history, request):
    """The history of one request."""
    part = slice(*history.offsets[request : request + 2])
    codes, actions, gaps = history.codes[part], history.actions[part], history.gaps[part]
    return Histories(codes, actions, gaps, np.array([0, len(codes)]))


def taken(inputs, index):
    """Some candidates in another order, each as a request of its own."""
    parts = [own(inputs.history, request) for request in inputs.owner[index]]
    return replace(
        inputs,
        ids=inputs.ids[index],
        numbers=inputs.numbers[index],
        bags=inputs.bags[index],
        vectors=inputs.vectors[index],
        history=Histories(
            np.concatenate([part.codes for part in parts]),
            np.concatenate([part.actions for part in parts]),
            np.concatenate([part.gaps for part in parts]),
            np.cumsum([0, *(len(part.codes) for part in parts)]),
        ),
        owner=np.arange(len(index)),
    )
