"""
DeepFM: a factorization machine and an MLP over the same embeddings.
Guo et al., 2017, https://arxiv.org/abs/1703.04247 (equations 1-4)

Three kinds of field share one table: plain ones; bags, which are the mean of their values'
embeddings; and the user's history, bags of the items' own embeddings, made once a request.

N candidates of R requests, F fields, L bags of P values, J history fields of H actions,
M numbers, D embedding width, A = F + L + J all fields
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class DeepFMConfig:
    vocab: tuple[int, ...]  # one size a field, then one a bag
    bags: int = 0
    shared: tuple[int, ...] = ()  # the field whose codes each history field has
    numbers: int = 0
    width: int = 16
    hidden: tuple[int, ...] = (128, 64)
    dropout: float = 0.0


class DeepFM(nn.Module):
    offsets: Tensor
    bag_offsets: Tensor
    history_offsets: Tensor

    def __init__(self, config: DeepFMConfig):
        super().__init__()
        self.config = config
        starts = 1 + torch.tensor((0, *config.vocab)).cumsum(0)  # row 0 is padding
        fields = len(config.vocab) - config.bags
        self.register_buffer("offsets", starts[:fields])  # (F,) one table holds every field
        self.register_buffer("bag_offsets", starts[fields:-1, None])  # (L, 1)
        self.register_buffer("history_offsets", starts[list(config.shared), None])  # (J, 1)
        self.embed = nn.Embedding(int(starts[-1]), config.width)
        self.weight = nn.Embedding(int(starts[-1]), 1)
        nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.zeros_(self.weight.weight)
        every = len(config.vocab) + len(config.shared)
        self.deep = mlp(
            every * config.width + config.numbers, *config.hidden, 1, dropout=config.dropout
        )
        self.linear = nn.Parameter(torch.zeros(config.numbers))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(
        self, ids: Tensor, numbers: Tensor, bags: Tensor, history: Tensor, owner: Tensor
    ) -> Tensor:
        """ids (N, F), numbers (N, M), bags (N, L, P), history (R, J, H), owner (N,) -> (N,)"""
        ids = ids + self.offsets
        bags = torch.where(bags > 0, bags + self.bag_offsets, 0)
        history = torch.where(history > 0, history + self.history_offsets, 0)
        v = torch.cat(
            [
                self.embed(ids),  # (N, F, D)
                mean(self.embed.weight, bags),  # (N, L, D)
                mean(self.embed.weight, history)[owner],  # (N, J, D)
            ],
            dim=1,
        )  # (N, A, D)
        first = (
            self.weight(ids).sum((1, 2))
            + mean(self.weight.weight, bags).sum((1, 2))
            + mean(self.weight.weight, history).sum((1, 2))[owner]
            + numbers @ self.linear
        )  # (N,)
        deep = self.deep(torch.cat([v.flatten(1), numbers], 1)).squeeze(1)  # (N,)
        logits: Tensor = self.bias + first + pairs(v) + deep
        return logits  # (N,) logits, not probabilities


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
