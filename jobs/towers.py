"""
The two towers in torch, and how they are trained; what they compute is said in recall/towers.py.

The loss of a batch of B pairs of request and wanted item is a softmax over the batch's own items,

    −1/B Σ_i ln [ exp(s_ii − ln p_i) / Σ_j exp(s_ij − ln p_j) ]        s = cosine / temperature

where p_j is the share of item j among all pairs: popular items are in more batches, and would be
pushed down for it (Yi et al. 2019, "Sampling-bias-corrected neural modeling for large corpus item
recommendations", https://doi.org/10.1145/3298689.3346996). Where j ≠ i is the same item, it is
left out.

B batch, U different items of a batch, D width, H hidden
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from funnel.config import TwoTower
from recall.towers import Bags, Layers, Reader, Towers

ALONE = 0.2  # share of the items that are judged without their id, so that what they are suffices


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """B pairs of request and wanted item: first those with a text, then those with a history."""

    rows: Tensor  # (U,) the different items of the batch
    ids: Tensor  # (U, 1) 0 where an item's id is left out
    contents: Bags  # of these items
    texts: Bags  # of buckets
    histories: Bags  # of places in `rows`; texts and histories are B together
    wanted: Tensor  # (B,) places in `rows`
    chance: Tensor  # (B,) ln p of the wanted items


class Tower(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.wide = nn.Linear(width, hidden)
        self.back = nn.Linear(hidden, width)
        nn.init.zeros_(self.back.weight)  # the identity at first
        nn.init.zeros_(self.back.bias)

    def forward(self, x: Tensor) -> Tensor:  # (k, D)
        return F.normalize(x + self.back(F.relu(self.wide(x))), dim=1)

    def layers(self) -> Layers:
        wide, back = self.wide, self.back
        parts = (wide.weight.T, wide.bias, back.weight.T, back.bias)
        return Layers(*(part.detach().cpu().contiguous().numpy().copy() for part in parts))


class Net(nn.Module):
    def __init__(self, items: int, settings: TwoTower) -> None:
        super().__init__()
        d = settings.width
        self.table = nn.EmbeddingBag(settings.buckets, d, mode="sum", sparse=True)
        self.ids = nn.Embedding(items, d, sparse=True)
        nn.init.normal_(self.table.weight, std=d**-0.5)
        nn.init.zeros_(self.ids.weight)
        self.query, self.user, self.item = (Tower(d, settings.hidden) for _ in range(3))
        self.temperature = settings.temperature

    def bag(self, bags: Bags) -> Tensor:  # (k, D)
        device = self.table.weight.device
        indices, offsets, weights = tensors(bags, device)
        found: Tensor = self.table(indices, offsets, weights)
        return found

    def items(self, contents: Bags, rows: Tensor, ids: Tensor) -> Tensor:  # (U, D)
        found: Tensor = self.item(self.bag(contents) + ids * self.ids(rows))
        return found

    def users(self, histories: Bags, items: Tensor) -> Tensor:  # (B, D)
        indices, offsets, weights = tensors(histories, items.device)
        mean = F.embedding_bag(indices, items, offsets, mode="sum", per_sample_weights=weights)
        found: Tensor = self.user(mean)
        return found

    def forward(self, batch: Batch) -> Tensor:
        """(B, B) products of the requests with the wanted items, over the temperature."""
        items = self.items(batch.contents, batch.rows, batch.ids)  # (U, D)
        asked = torch.cat([self.query(self.bag(batch.texts)), self.users(batch.histories, items)])
        return asked @ items.index_select(0, batch.wanted).T / self.temperature

    def served(self, reader: Reader) -> Towers:
        """The same in NumPy."""
        table, ids = (part.weight.detach().cpu().numpy().copy() for part in (self.table, self.ids))
        return Towers(
            reader, table, ids, self.query.layers(), self.user.layers(), self.item.layers()
        )


def tensors(bags: Bags, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    indices, offsets = torch.from_numpy(bags.indices), torch.from_numpy(bags.indptr[:-1])
    return indices.to(device), offsets.to(device), torch.from_numpy(bags.weights).to(device)


def loss(products: Tensor, wanted: Tensor, chance: Tensor) -> Tensor:
    """The mean over the batch; `products` (B, B), `wanted` (B,) the items, `chance` (B,) ln p."""
    count = len(wanted)
    twice = wanted[:, None] == wanted[None, :]
    twice = twice & ~torch.eye(count, dtype=torch.bool, device=wanted.device)
    logits = (products - chance[None, :]).masked_fill(twice, -torch.inf)
    return F.cross_entropy(logits, torch.arange(count, device=wanted.device))


class Optimizer:
    """Adam; for the tables only the rows that a batch has, as most are in none."""

    def __init__(self, net: Net, rate: float) -> None:
        sparse = [net.table.weight, net.ids.weight]
        known = {id(table) for table in sparse}
        dense = [part for part in net.parameters() if id(part) not in known]
        self.parts = (
            torch.optim.SparseAdam(sparse, lr=rate),
            torch.optim.Adam(dense, lr=rate / 5),
        )

    def step(self, value: Tensor) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)
        torch.autograd.backward(value)
        for part in self.parts:
            part.step()  # type: ignore[no-untyped-call]
