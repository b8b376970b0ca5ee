"""
A transformer over the history, to which every candidate attends.
The blocks are those of SASRec (Kang and McAuley 2018, https://arxiv.org/abs/1808.09781), normalised
before instead of after, and told how far apart two actions are instead of where they are (Shaw et
al. 2018, https://arxiv.org/abs/1803.02155): in training most states are of actions that are not the
last, in serving the last one decides. A candidate as a query is BST (Chen et al. 2019,
https://arxiv.org/abs/1905.06874), but that candidates see the history and never each other.

The history is encoded once a request. All but the attention itself runs on packed histories; the
attention pads to the longest of `GROUP` histories beside each other, which costs little where they
lie sorted by length.

N candidates of R requests, S actions of all histories together, L of the longest of a group of G
requests, U width
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rank.batch import Batch
from rank.fields import Actions, Ends, Shape, Table
from rank.matched import Matched
from rank.pairs import Pairs

HEADS = 2
WIDER = 2  # times U: the width between a block's two layers
GROUP = 32  # histories that attention pads to one length


class Padded(NamedTuple):
    """Some histories beside each other, as attention wants them."""

    part: slice  # their actions among S
    cells: Tensor  # the place of each of these among G x L
    shape: tuple[int, int]  # G, L


def padded(offsets: Tensor) -> list[Padded]:
    """offsets (R + 1,) -> the histories that have actions, in groups"""
    ends, found = offsets.tolist(), list[Padded]()
    for first in range(0, len(ends) - 1, GROUP):
        own = ends[first : first + GROUP + 1]
        part, length = slice(own[0], own[-1]), max(b - a for a, b in pairwise(own))
        if length:
            at = offsets[first : first + len(own)]
            owner = torch.repeat_interleave(at.diff())
            within = torch.arange(own[0], own[-1], device=offsets.device) - at[owner]
            found.append(Padded(part, owner * length + within, (len(own) - 1, length)))
    return found


class Block(nn.Module):
    """Causal attention and two layers, each added to what came in."""

    def __init__(self, unit: int, past: int, dropout: float):
        super().__init__()
        self.apart = nn.Parameter(torch.zeros(HEADS, past))  # by the distance between two actions
        self.before, self.between = nn.LayerNorm(unit), nn.LayerNorm(unit)
        self.qkv, self.out = nn.Linear(unit, 3 * unit), nn.Linear(unit, unit)
        self.up, self.down = nn.Linear(unit, WIDER * unit), nn.Linear(WIDER * unit, unit)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, groups: Sequence[Padded]) -> Tensor:
        """x (S, U) -> (S, U)"""
        qkv = self.qkv(self.before(x))  # (S, 3U)
        seen = torch.cat([self.heard(qkv[own.part], own.cells, own.shape) for own in groups])
        x = x + self.dropout(self.out(seen))
        inner = self.dropout(F.gelu(self.up(self.between(x))))
        found: Tensor = x + self.dropout(self.down(inner))
        return found

    def heard(self, qkv: Tensor, cells: Tensor, shape: tuple[int, int]) -> Tensor:
        """What each action of a group finds in itself and in those before it: (P, 3U) -> (P, U)"""
        g, length = shape
        wide = qkv.new_zeros(g * length, qkv.shape[1]).index_copy(0, cells, qkv)
        q, k, v = wide.view(g, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)  # (G, heads, L, U/h)
        at = torch.arange(length, device=qkv.device)
        apart = at[:, None] - at  # (L, L)
        bins = apart.clamp(0, self.apart.shape[1] - 1).view(-1)
        near = self.apart.index_select(1, bins).view(HEADS, length, length)
        # Padding stands behind, so no action sees it: the causal mask is enough.
        near = near.masked_fill(apart < 0, -torch.inf).to(q.dtype)
        seen = F.scaled_dot_product_attention(q, k, v, near)
        return seen.transpose(1, 2).reshape(g * length, -1).index_select(0, cells)


class Encoder(nn.Module):
    """Packed histories to states: each action with what came before it."""

    def __init__(self, unit: int, blocks: int, past: int, dropout: float):
        super().__init__()
        if unit % HEADS:
            raise ValueError(f"unit is {unit}: it must be a multiple of {HEADS}")
        self.blocks = nn.ModuleList(Block(unit, past, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(unit)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        """x (S, U), offsets (R + 1,) -> (S, U)"""
        groups = padded(offsets)
        x = self.dropout(x)
        for block in self.blocks if groups else ():
            x = block(x, groups)
        found: Tensor = self.norm(x)
        return found


class Attend(nn.Module):
    """What each candidate finds in the states of its request's history."""

    def __init__(self, unit: int):
        super().__init__()
        self.query = nn.Linear(unit, unit, bias=False)
        self.key, self.value = (nn.Linear(unit, unit, bias=False) for _ in range(2))
        self.scale = (unit // HEADS) ** -0.5

    def forward(self, q: Tensor, states: Tensor, pairs: Pairs | None) -> Tensor:
        """q (N, U), states (S, U) -> (N, U), 0 where the history is empty. `pairs` is None for one
        request."""
        n, unit = q.shape
        heads = HEADS, unit // HEADS
        q = (self.query(q) * self.scale).view(n, *heads)
        k, v = (layer(states).view(len(states), *heads) for layer in (self.key, self.value))
        if pairs is None:
            shares = (q.transpose(0, 1) @ k.permute(1, 2, 0)).softmax(2)  # (heads, N, H)
            heard: Tensor = (shares @ v.transpose(0, 1)).transpose(0, 1)  # (N, heads, U/h)
        else:
            fit = (pairs.candidates(q) * pairs.actions(k)).sum(2)  # (P, heads)
            heard = pairs.sums(pairs.softmax(fit)[:, :, None] * pairs.actions(v))
        return heard.reshape(n, unit)


class Transformer(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.table = Table(shape)
        self.actions = Actions(shape)
        self.encoder = Encoder(shape.unit, shape.blocks, shape.past, shape.dropout)
        self.attend = Attend(shape.unit)
        self.matched = Matched(shape)
        more = 2 * shape.unit + Matched.width(shape)
        self.ends = Ends(shape, len(shape.vocab) + len(shape.shared), more)

    def forward(self, batch: Batch) -> Tensor:
        """(N, T) logits, not probabilities"""
        v, first = self.table(batch)  # (N, F + L, D), (N,)
        past, more = self.table.pooled(batch)  # (N, J, D), (N,)
        q = self.actions.candidates(v)  # (N, U)
        states = self.encoder(self.actions.past(self.table, batch), batch.offsets)  # (S, U)
        pairs = Pairs.of(batch.offsets, batch.owner) if len(batch.lengths) > 1 else None
        own = self.attend(q, states, pairs)  # (N, U)
        matched = self.matched(batch, pairs)  # (N, 2JC)
        v = torch.cat([v, past], 1)
        logits: Tensor = self.ends(v, first + more, batch, own, own * q, matched)
        return logits
