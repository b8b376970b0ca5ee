"""
The next item of every prefix of every sequence, by the encoder of rank/transformer.py alone:
SASRec with a softmax over the items in place of one negative a positive. The same network gains
much by that (Klenitskiy and Vasilev 2023, "Turning dross into gold loss: is BERT4Rec really better
than SASRec?", https://arxiv.org/abs/2309.07602).

S items of R sequences packed one after another, U width, V items of the catalogue
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from funnel.types import Array, Floats
from rank.batch import spread
from rank.pairs import places
from rank.transformer import Encoder

CHUNK = 1024  # sequences encoded at a time


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """Items in the order in which they were met."""

    items: NDArray[np.int64]  # (S,)
    offsets: NDArray[np.int64]  # (R + 1,)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        found: NDArray[np.int64] = np.diff(self.offsets)
        return found

    def newest(self, most: int, without: int = 0) -> Sequences:
        """At most so many of the newest items of each, of all but the last `without`."""
        lengths = self.lengths
        ends = np.maximum(lengths - without, 0)
        starts = np.maximum(ends - most, 0)
        within = np.arange(len(self.items)) - np.repeat(self.offsets[:-1], lengths)
        keep = (within >= np.repeat(starts, lengths)) & (within < np.repeat(ends, lengths))
        return Sequences(self.items[keep], np.concatenate([[0], np.cumsum(ends - starts)]))


@dataclass(frozen=True, slots=True)
class Training:
    unit: int = 128
    blocks: int = 2
    past: int = 50
    dropout: float = 0.5
    batch: int = 128  # sequences
    learning_rate: float = 1e-3
    epochs: int = 30
    patience: int = 4  # epochs without an improvement on validation
    negatives: int = 2048  # drawn evenly and shared by a batch; 0: all items
    temperature: float = 0.1  # of cosines between states and items; 0: plain products
    places: bool = False  # items know how many come after them, which tells the newest from others


class NextItem(nn.Module):
    def __init__(self, items: int, training: Training):
        super().__init__()
        self.embed = nn.Embedding(items, training.unit)
        nn.init.normal_(self.embed.weight, std=0.02)
        dropout, past = training.dropout, training.past
        self.encoder = Encoder(training.unit, training.blocks, past, dropout)
        self.scale = 1 / training.temperature if training.temperature else 0.0
        self.place = nn.Embedding(past, training.unit) if training.places else None
        if self.place is not None:
            nn.init.normal_(self.place.weight, std=0.02)

    def forward(self, items: Tensor, offsets: Tensor) -> Tensor:
        """items (S,), offsets (R + 1,) -> (S, U) the state after each item"""
        x = self.embed(items)
        if self.place is not None:
            x = x + self.place(places(offsets, self.place.num_embeddings))
        states: Tensor = self.encoder(x, offsets)
        return F.normalize(states, dim=1) * self.scale if self.scale else states

    def table(self) -> Tensor:
        """(V, U) what states are multiplied with."""
        table = self.embed.weight
        return F.normalize(table, dim=1) if self.scale else table

    def last(self, sequences: Sequences) -> Tensor:
        """(R, U) the state at each sequence's end; of an empty one zeros."""
        table = self.embed.weight
        items, offsets = (
            torch.from_numpy(a).to(table.device) for a in (sequences.items, sequences.offsets)
        )
        lengths = offsets.diff()
        found = table.new_zeros(len(lengths), table.shape[1])
        order = lengths.argsort(stable=True)  # those of about one length beside each other
        for chosen in torch.split(order[lengths[order] > 0], CHUNK):
            ends = lengths[chosen].cumsum(0)
            own = torch.cat([ends.new_zeros(1), ends])
            found[chosen] = self(items[spread(offsets[chosen], own)], own)[ends - 1]
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    model: NextItem  # of the best epoch, on the CPU, in evaluation mode
    judged: tuple[float, ...]  # by epoch; its place where nothing judged
    best: int


def fit(
    sequences: Sequences,
    items: int,
    training: Training,
    judge: Callable[[NextItem], float] | None,
    seed: int = 0,
    progress: Callable[[int, float], None] = lambda epoch, judged: None,
    until: int = 0,
) -> Learned:
    """Trains on every prefix of `sequences`, until `judge` (higher is better, called after every
    epoch) stops rising; without a judge for `until` epochs. The learning rate falls by a cosine
    over `training.epochs` either way. A GPU is used where there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kept = sequences.newest(training.past + 1)
    chosen = torch.from_numpy(np.flatnonzero(kept.lengths > 1))
    all_items, offsets = (torch.from_numpy(a).to(device) for a in (kept.items, kept.offsets))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = NextItem(items, training).to(device)
        optimizer = torch.optim.Adam(model.parameters(), training.learning_rate, fused=True)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.epochs)
        judged, best, weights = list[float](), 0, copy.deepcopy(model.state_dict())
        for epoch in range(training.epochs if judge else until):
            model.train()
            order = chosen[torch.randperm(len(chosen))]
            for own in torch.split(order, training.batch):
                value = _loss(model, all_items, offsets, own.to(device), training)
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(value)
                optimizer.step()
            decay.step()
            model.eval()
            with torch.inference_mode():
                judged.append(judge(model) if judge else float(epoch))
            progress(epoch, judged[-1])
            if judged[-1] > judged[best] or epoch == 0:
                best, weights = epoch, copy.deepcopy(model.state_dict())
            elif epoch - best >= training.patience:
                break
    model.load_state_dict(weights)
    return Learned(model.cpu().eval(), tuple(judged), best)


def _loss(
    model: NextItem, items: Tensor, offsets: Tensor, chosen: Tensor, training: Training
) -> Tensor:
    """The mean cross-entropy of the next items."""
    chosen = chosen[offsets.diff()[chosen].argsort()]
    lengths = offsets.diff()[chosen] - 1  # the last item is only a target
    own = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    at = spread(offsets[chosen], own)
    states = model(items[at], own)  # (S, U)
    targets = items[at + 1]
    table = model.table()
    if not training.negatives:
        return F.cross_entropy(states @ table.T, targets)
    drawn = torch.randint(len(table), (training.negatives,), device=table.device)
    # Drawn evenly, a negative stands for V / negatives items.
    behind = float(np.log(len(table) / training.negatives))
    logits = states @ table[drawn].T + behind  # (S, negatives)
    logits = logits.masked_fill(drawn == targets[:, None], -torch.inf)
    right = (states * table[targets]).sum(1)
    missed: Tensor = torch.logaddexp(right, logits.logsumexp(1)) - right
    return missed.mean()


def ranks(model: NextItem, past: Sequences, goals: Array, seen: Sequences | None) -> Floats:
    """(R,) how many items score above each goal, those of `seen` left out; ties count half."""
    states, table = model.last(past), model.table()
    found = np.empty(len(past))
    for start in range(0, len(past), CHUNK):
        scores = (states[start : start + CHUNK] @ table.T).cpu().numpy()
        own = np.arange(len(scores))
        goal = scores[own, goals[start : start + CHUNK]].copy()
        if seen is not None:
            offsets = seen.offsets[start : start + len(scores) + 1]
            part = seen.items[offsets[0] : offsets[-1]]
            scores[np.repeat(own, np.diff(offsets)), part] = -np.inf
        scores[own, goals[start : start + CHUNK]] = -np.inf
        above = (scores > goal[:, None]).sum(1) + 0.5 * (scores == goal[:, None]).sum(1)
        found[start : start + len(scores)] = above
    return found.astype(np.float32)


def ranks_among(model: NextItem, past: Sequences, goals: Array, others: Array) -> Floats:
    """(R,) how many of `others` (R, K) score above each goal; ties count half."""
    states, table = model.last(past), model.table()
    every = np.concatenate([goals[:, None], others], 1)
    scores = np.concatenate(
        [
            torch.einsum("ru,rku->rk", a, table[b]).cpu().numpy()
            for a, b in zip(
                torch.split(states, CHUNK),
                torch.split(torch.from_numpy(every), CHUNK),
                strict=True,
            )
        ]
    )
    goal, rest = scores[:, :1], scores[:, 1:]
    above = (rest > goal).sum(1) + 0.5 * (rest == goal).sum(1)
    return np.asarray(above, np.float32)
