"""
What all rankers share: a table of embeddings for every field, and the layers that end in logits.

A ranker differs from the others in one thing, what it makes of the history. Its fields, and the
vectors that it made of the history as fields more, go through the two halves of DeepFM (Guo et al.
2017, https://arxiv.org/abs/1703.04247): a factorization machine and an MLP.

N candidates of R requests, F fields, L bags, J codes of an action, S actions of all histories,
M numbers, D embedding width, T heads

What many candidates take from one place comes by `index_select`, not by x[...]: on a CPU the
gradient of x[...] is summed in whatever order its threads have, and the weights of two runs differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rank.batch import GAPS, Batch


@dataclass(frozen=True)
class Shape:
    """The sizes of a ranker."""

    vocab: tuple[int, ...]  # one size a field, then one a bag
    bags: int = 0
    shared: tuple[int, ...] = ()  # the field whose codes each code of an action has
    numbers: int = 0
    actions: int = 1  # codes of actions, 0 included
    width: int = 16
    hidden: tuple[int, ...] = (128, 64)
    dropout: float = 0.0
    unit: int = 32  # width of what attends and is attended to
    blocks: int = 1  # of the transformer
    past: int = 50  # actions of a history at most
    heads: int = 1
    vectors: int = 0  # dimensions of vectors that were trained elsewhere


class Table(nn.Module):
    """One embedding and one weight for each code of each field; row 0 is padding."""

    offsets: Tensor
    bag_offsets: Tensor
    history_offsets: Tensor

    def __init__(self, shape: Shape):
        super().__init__()
        *starts, rows = accumulate(shape.vocab, initial=1)
        fields = len(shape.vocab) - shape.bags
        self.shared = list(shape.shared)
        own, bags, past = starts[:fields], starts[fields:], [starts[field] for field in self.shared]
        self.register_buffer("offsets", indices(own))  # (F,) one table holds every field
        self.register_buffer("bag_offsets", indices(bags)[:, None])  # (L, 1)
        self.register_buffer("history_offsets", indices(past))  # (J,)
        self.embed = nn.Embedding(rows, shape.width)
        self.weight = nn.Embedding(rows, 1)
        nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.zeros_(self.weight.weight)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(N, F + L, D) embeddings of the candidates' fields and (N,) their weights' sums."""
        ids = batch.ids + self.offsets
        bags = torch.where(batch.bags > 0, batch.bags + self.bag_offsets, 0)
        v = torch.cat([rows(self.embed, ids), mean(self.embed.weight, bags)], 1)
        first = rows(self.weight, ids).sum((1, 2)) + mean(self.weight.weight, bags).sum((1, 2))
        return v, first

    def past(self, batch: Batch) -> Tensor:
        """(S, J) rows of the table for the histories; 0 for unknown codes."""
        return torch.where(batch.codes > 0, batch.codes + self.history_offsets, 0)

    def pooled(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(N, J, D) means over the known codes of each candidate's history, and (N,) their weights'
        sums."""
        codes, offsets = self.past(batch), batch.offsets
        count, n = len(offsets) - 1, len(batch.owner)
        if not len(self.shared):
            width = self.embed.embedding_dim
            return self.embed.weight.new_zeros(n, 0, width), self.weight.weight.new_zeros(n)
        flat = codes.T.reshape(-1)  # J histories of R requests, one after another
        ends = torch.arange(len(self.shared), device=flat.device)[:, None] * len(codes)
        starts = (offsets[:-1] + ends).reshape(-1)
        v, weight = (
            F.embedding_bag(flat, table.weight, starts, mode="mean", padding_idx=0)
            for table in (self.embed, self.weight)
        )
        v = v.view(len(self.shared), count, -1).transpose(0, 1)
        weight = weight.view(len(self.shared), count).sum(0)
        return v.index_select(0, batch.owner), weight.index_select(0, batch.owner)


def indices(places: Sequence[int]) -> Tensor:
    return torch.tensor(places, dtype=torch.int64)


class Ends(nn.Module):
    """Fields' embeddings, numbers and more inputs of the MLP alone, to logits."""

    def __init__(self, shape: Shape, fields: int, more: int = 0):
        super().__init__()
        inputs = fields * shape.width + shape.numbers + more
        # Absent where there are no vectors, so that models without them stay as they are.
        self.project = nn.Linear(shape.vectors, shape.unit, bias=False) if shape.vectors else None
        inputs += shape.unit if shape.vectors else 0
        self.deep = mlp(inputs, *shape.hidden, shape.heads, dropout=shape.dropout)
        self.linear = nn.Parameter(torch.zeros(shape.heads, shape.numbers))
        self.bias = nn.Parameter(torch.zeros(shape.heads))
        # The machine and the first-order weights are of the first head; the others scale them.
        self.scale = nn.Parameter(torch.ones(shape.heads))

    def forward(self, v: Tensor, first: Tensor, batch: Batch, *more: Tensor) -> Tensor:
        """v (N, A, D), first (N,), more (N, ...) -> (N, T)"""
        numbers = batch.numbers
        if self.project is not None:
            more = (*more, self.project(batch.vectors))
        deep = self.deep(torch.cat([v.flatten(1), numbers, *more], 1))  # (N, T)
        wide = (first + pairs(v))[:, None] * self.scale  # (N, T)
        logits: Tensor = wide + numbers @ self.linear.T + self.bias + deep
        return logits  # (N, T) logits, not probabilities


class Actions(nn.Module):
    """What was done in a history, and to what: one vector an action, in the space of the
    candidate's own (what the two have in common is of one table and goes through one layer)."""

    def __init__(self, shape: Shape):
        super().__init__()
        if not shape.shared:
            raise ValueError("a ranker that attends to histories needs codes of their items")
        joined = len(shape.shared) * shape.width
        self.shared = list(shape.shared)
        self.item = nn.Linear(joined, shape.unit)
        self.action = nn.Embedding(shape.actions, shape.unit)
        self.gap = nn.Embedding(GAPS, shape.unit)
        for side in (self.action, self.gap):
            nn.init.normal_(side.weight, std=0.02)

    def candidates(self, v: Tensor) -> Tensor:
        """(N, F + L, D) -> (N, U)"""
        found: Tensor = self.item(v[:, self.shared].flatten(1))
        return found

    def past(self, table: Table, batch: Batch) -> Tensor:
        """(S, U)"""
        items = rows(table.embed, table.past(batch)).flatten(1)
        done, ago = rows(self.action, batch.actions), rows(self.gap, batch.gaps)
        found: Tensor = self.item(items) + done + ago
        return found


def rows(table: nn.Embedding, codes: Tensor) -> Tensor:
    """(...) -> (..., D) what the table has for them: as calling it, but that the gradient of
    index_select takes half the time on a CPU, and of a single column a tenth."""
    found = table.weight.index_select(0, codes.reshape(-1))
    return found.view(*codes.shape, found.shape[1])


def pairs(v: Tensor) -> Tensor:
    """(N, A, D) -> (N,): the sum over i < j of v_i · v_j, in linear time (equation 2)."""
    crossed = v.sum(1).square() - v.square().sum(1)  # (N, D)  sum over i != j of v_i v_j
    return 0.5 * crossed.sum(1)


def mean(table: Tensor, codes: Tensor) -> Tensor:
    """(B, L, P) rows of the table -> (B, L, D) their means; row 0 is padding, of an empty bag 0."""
    b, bags, width = codes.shape
    if not bags:
        return table.new_zeros(b, 0, table.shape[1])
    flat = codes.reshape(b * bags, width)
    return F.embedding_bag(flat, table, mode="mean", padding_idx=0).view(b, bags, -1)


def mlp(*widths: int, dropout: float) -> nn.Sequential:
    """Linear layers with ReLU and dropout between them."""
    layers: list[nn.Module] = []
    for place, (a, b) in enumerate(pairwise(widths)):
        layers.append(nn.Linear(a, b))
        if place < len(widths) - 2:
            layers += [nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)
