"""
DIN: every action of the history counts for a candidate as much as an activation unit says.
Zhou et al., 2018, https://arxiv.org/abs/1706.06978 (equation 3)

The unit's first layer over [q, k, q - k, q * k] is kept in three parts: what the candidate adds,
what the action adds, and the product. The first two are computed once a candidate and once an
action instead of once a pair; for one request the third is a single matrix product.

To what the unit says of a pair comes how near projections of the two are, the same projection at
first, and how recent the action is; the weights are the softmax of the sum. As published they are
what the unit says, alone and without a softmax: from little data that learns less than a mean of
the actions tells.

N candidates of R requests, S actions of all histories together, H of one request, U width of both,
A width of the unit's hidden layer, D embedding width, T heads
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rank.batch import Batch
from rank.fields import Actions, Ends, Shape, Table, rows
from rank.matched import Matched
from rank.pairs import Pairs, places

HIDDEN = 36  # of the activation unit, as published


class Unit(nn.Module):
    """What each candidate makes of its request's actions."""

    def __init__(self, unit: int, past: int):
        super().__init__()
        self.query = nn.Linear(unit, HIDDEN)  # of q and of q - k, together
        self.key = nn.Linear(unit, HIDDEN, bias=False)  # of k and of q - k
        self.product = nn.Linear(unit, HIDDEN, bias=False)
        self.out = nn.Linear(HIDDEN, 1, bias=False)  # a softmax does not see what all have
        self.near, self.far = nn.Linear(unit, HIDDEN), nn.Linear(unit, HIDDEN, bias=False)
        self.place = nn.Embedding(past, 1)  # from the end: 0 is the newest
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.place.weight)
        with torch.no_grad():  # likeness at first: two random projections would say nothing
            self.far.weight.copy_(self.near.weight)

    def forward(self, q: Tensor, k: Tensor, offsets: Tensor, pairs: Pairs | None) -> Tensor:
        """q (N, U), k (S, U) -> (N, U) each candidate's weighted mean of its request's actions, 0
        where there are none. `pairs` is None for one request."""
        recent = rows(self.place, places(offsets, self.place.num_embeddings))  # (S, 1)
        near, far = self.near(q) * HIDDEN**-0.5, self.far(k)
        if pairs is None:
            fit = self.of_one(q, k) + near @ far.T + recent.T  # (N, H)
            pooled: Tensor = fit.softmax(1) @ k
            return pooled
        keys = pairs.actions(k)
        hidden = self.product(pairs.candidates(q) * keys)
        hidden = hidden + pairs.candidates(self.query(q)) + pairs.actions(self.key(k))
        both = (pairs.candidates(near) * pairs.actions(far)).sum(1, keepdim=True)
        fit = self.out(F.relu(hidden)) + both + pairs.actions(recent)  # (P, 1)
        return pairs.sums(pairs.softmax(fit) * keys)

    def of_one(self, q: Tensor, k: Tensor) -> Tensor:
        """The unit for all candidates of one request: q (N, U), k (H, U) -> (N, H)"""
        n, h = len(q), len(k)
        width = self.product.weight[None] * k[:, None]  # (H, A, U)
        hidden = (q @ width.flatten(0, 1).T).view(n, h, HIDDEN)  # (N, H, A)
        hidden = hidden + self.query(q)[:, None] + self.key(k)
        said: Tensor = self.out(F.relu(hidden)).squeeze(2)
        return said


class DIN(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.table = Table(shape)
        self.actions = Actions(shape)
        self.unit = Unit(shape.unit, shape.past)
        self.matched = Matched(shape)
        more = 2 * shape.unit + Matched.width(shape)
        self.ends = Ends(shape, len(shape.vocab) + len(shape.shared), more)

    def forward(self, batch: Batch) -> Tensor:
        """(N, T) logits, not probabilities"""
        v, first = self.table(batch)  # (N, F + L, D), (N,)
        past, more = self.table.pooled(batch)  # (N, J, D), (N,)
        q = self.actions.candidates(v)  # (N, U)
        k = self.actions.past(self.table, batch)  # (S, U)
        pairs = Pairs.of(batch.offsets, batch.owner) if len(batch.lengths) > 1 else None
        own = self.unit(q, k, batch.offsets, pairs)  # (N, U)
        matched = self.matched(batch, pairs)  # (N, 2JC)
        v = torch.cat([v, past], 1)
        logits: Tensor = self.ends(v, first + more, batch, own, own * q, matched)
        return logits
