"""
DIN: every action of the history counts for a candidate as much as an activation unit says.
Zhou et al., 2018, https://arxiv.org/abs/1706.06978 (equation 3)

The unit's first layer over [q, k, q - k, q * k] is kept in three parts: what the candidate adds,
what the action adds, and the product. The first two are computed once a candidate and once an
action instead of once a pair; for one request the third is a single matrix product.

N candidates of R requests, S actions of all histories together, H of one request, U width of both,
A width of the unit's hidden layer, D embedding width, T heads
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rank.batch import Batch, spread
from rank.fields import Actions, Ends, Shape, Table

HIDDEN = 36  # of the activation unit, as published


class Unit(nn.Module):
    """The weight of an action for a candidate: what it would have in a mean and what the unit adds
    to that, 1/h + a, from a = 0 on. As published it is a alone; from little data that learns less
    than a mean tells."""

    def __init__(self, unit: int):
        super().__init__()
        self.query = nn.Linear(unit, HIDDEN)  # of q and of q - k, together
        self.key = nn.Linear(unit, HIDDEN, bias=False)  # of k and of q - k
        self.product = nn.Linear(unit, HIDDEN, bias=False)
        self.out = nn.Linear(HIDDEN, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, q: Tensor, k: Tensor, lengths: Tensor, offsets: Tensor, owner: Tensor
    ) -> Tensor:
        """q (N, U), k (S, U) -> (N, U) each candidate's weighted sum of its request's actions"""
        if len(lengths) == 1:
            return self.one(q, k)
        return self.packed(q, k, lengths, offsets, owner)

    def one(self, q: Tensor, k: Tensor) -> Tensor:
        """All candidates of one request: q (N, U), k (H, U) -> (N, U)"""
        n, h = len(q), len(k)
        width = self.product.weight[None] * k[:, None]  # (H, A, U)
        hidden = (q @ width.flatten(0, 1).T).view(n, h, HIDDEN)  # (N, H, A)
        hidden = hidden + self.query(q)[:, None] + self.key(k)
        weights = 1 / max(h, 1) + self.out(F.relu(hidden)).squeeze(2)  # (N, H)
        pooled: Tensor = weights @ k
        return pooled

    def packed(
        self, q: Tensor, k: Tensor, lengths: Tensor, offsets: Tensor, owner: Tensor
    ) -> Tensor:
        """Pairs of a candidate and an action, as many as there are."""
        counts = lengths[owner]  # (N,)
        ends = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        mine = torch.repeat_interleave(counts)  # (pairs,)
        theirs = spread(offsets[owner], ends)
        # Not q[mine] but index_select: its gradient is one sum in the order of the pairs.
        keys = k.index_select(0, theirs)
        hidden = self.product(q.index_select(0, mine) * keys)
        hidden = hidden + self.query(q).index_select(0, mine) + self.key(k).index_select(0, theirs)
        weights = 1 / counts[mine][:, None] + self.out(F.relu(hidden))  # (pairs, 1)
        return q.new_zeros(q.shape).index_add(0, mine, weights * keys)


class DIN(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.table = Table(shape)
        self.actions = Actions(shape)
        self.unit = Unit(shape.unit)
        self.ends = Ends(shape, len(shape.vocab) + len(shape.shared), 2 * shape.unit)

    def forward(self, batch: Batch) -> Tensor:
        """(N, T) logits, not probabilities"""
        v, first = self.table(batch)  # (N, F + L, D), (N,)
        past, more = self.table.pooled(batch)  # (R, J, D), (R,)
        q = self.actions.candidates(v)  # (N, U)
        k = self.actions.past(self.table, batch)  # (S, U)
        own = self.unit(q, k, batch.lengths, batch.offsets, batch.owner)  # (N, U)
        v = torch.cat([v, past[batch.owner]], 1)
        logits: Tensor = self.ends(v, first + more[batch.owner], batch, own, own * q)
        return logits
