"""
The next item of every prefix of every sequence, by the encoder of rank/transformer.py alone:
SASRec with a softmax over the items in place of one negative a positive. The same network gains
much by that (Klenitskiy and Vasilev 2023, "Turning dross into gold loss: is BERT4Rec really better
than SASRec?", https://arxiv.org/abs/2309.07602).

An item is a vector of its own and the sum of those of its attributes, both where it was met and
where it is asked for: of an item that was hardly met its attributes still say much. Of one that
nobody met they say all, and that nobody did is no evidence against it: it is not drawn unless
`Training.unmet`.

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


@dataclass(frozen=True, slots=True, eq=False)
class Attributes:
    """What items have in common with others, such as a category or a brand."""

    codes: NDArray[np.int64]  # of all items, one after another
    offsets: NDArray[np.int64]  # (V + 1,)


@dataclass(frozen=True, slots=True)
class Training:
    unit: int = 128
    blocks: int = 2
    past: int = 50
    dropout: float = 0.5
    batch: int = 128  # sequences
    learning_rate: float = 1.5e-3
    epochs: int = 20
    patience: int = 4  # epochs without an improvement on validation
    negatives: int = 2048  # drawn evenly and shared by a batch; 0: all items
    temperature: float = 0.1  # of cosines between states and items; 0: plain products
    unmet: bool = False  # also draw items that nobody met
    places: bool = True  # items know how many come after them: the newest are of another time


class Items(nn.Module):
    """The items' vectors."""

    codes: Tensor
    offsets: Tensor

    def __init__(self, count: int, unit: int, attributes: Attributes | None):
        super().__init__()
        self.own = nn.Embedding(count, unit)
        nn.init.normal_(self.own.weight, std=0.02)
        self.common = None
        if attributes is not None and len(attributes.codes):
            self.common = nn.Embedding(int(attributes.codes.max()) + 1, unit)
            nn.init.normal_(self.common.weight, std=0.02)
            for name in ("codes", "offsets"):
                known = torch.from_numpy(getattr(attributes, name))
                self.register_buffer(name, known, persistent=False)

    @torch.no_grad()
    def only(self, met: Tensor) -> None:
        """Others than `met` have no vector of their own."""
        own = torch.zeros_like(self.own.weight)
        own[met] = self.own.weight[met]
        self.own.weight.copy_(own)

    def forward(self, items: Tensor) -> Tensor:
        """items (K,) -> (K, U)"""
        own: Tensor = self.own(items)
        if self.common is None:
            return own
        starts = self.offsets[items]
        sizes = self.offsets[items + 1] - starts
        ends = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        codes = self.codes[spread(starts, ends)]
        return own + F.embedding_bag(codes, self.common.weight, ends[:-1], mode="sum")


class NextItem(nn.Module):
    def __init__(self, items: int, training: Training, attributes: Attributes | None = None):
        super().__init__()
        self.items = Items(items, training.unit, attributes)
        dropout, past = training.dropout, training.past
        self.encoder = Encoder(training.unit, training.blocks, past, dropout)
        self.scale = 1 / training.temperature if training.temperature else 0.0
        self.place = nn.Embedding(past, training.unit) if training.places else None
        if self.place is not None:
            nn.init.normal_(self.place.weight, std=0.02)

    def forward(self, items: Tensor, offsets: Tensor) -> Tensor:
        """items (S,), offsets (R + 1,) -> (S, U) the state after each item"""
        x = self.items(items)
        if self.place is not None:
            x = x + self.place(places(offsets, self.place.num_embeddings))
        states: Tensor = self.encoder(x, offsets)
        return F.normalize(states, dim=1) * self.scale if self.scale else states

    def sought(self, items: Tensor) -> Tensor:
        """items (K,) -> (K, U) what states are multiplied with"""
        found: Tensor = self.items(items)
        return F.normalize(found, dim=1) if self.scale else found

    def table(self) -> Tensor:
        """(V, U) `sought` of every item."""
        own = self.items.own.weight
        return self.sought(torch.arange(len(own), device=own.device))

    def last(self, sequences: Sequences) -> Tensor:
        """(R, U) the state at each sequence's end; of an empty one zeros."""
        own = self.items.own.weight
        items, offsets = (
            torch.from_numpy(a).to(own.device) for a in (sequences.items, sequences.offsets)
        )
        lengths = offsets.diff()
        found = own.new_zeros(len(lengths), own.shape[1])
        order = lengths.argsort(stable=True)  # those of about one length beside each other
        for chosen in torch.split(order[lengths[order] > 0], CHUNK):
            ends = lengths[chosen].cumsum(0)
            packed = torch.cat([ends.new_zeros(1), ends])
            found[chosen] = self(items[spread(offsets[chosen], packed)], packed)[ends - 1]
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
    attributes: Attributes | None = None,
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
        model = NextItem(items, training, attributes).to(device)
        met = torch.arange(items, device=device) if training.unmet else torch.unique(all_items)
        model.items.only(met)
        optimizer = torch.optim.Adam(model.parameters(), training.learning_rate, fused=True)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.epochs)
        judged, best, weights = list[float](), 0, copy.deepcopy(model.state_dict())
        for epoch in range(training.epochs if judge else until):
            model.train()
            order = chosen[torch.randperm(len(chosen))]
            for own in torch.split(order, training.batch):
                value = _loss(model, all_items, offsets, own.to(device), met, training)
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
    model: NextItem,
    items: Tensor,
    offsets: Tensor,
    chosen: Tensor,
    met: Tensor,
    training: Training,
) -> Tensor:
    """The mean cross-entropy of the next items of the `chosen` sequences among those ever `met`."""
    chosen = chosen[offsets.diff()[chosen].argsort()]
    lengths = offsets.diff()[chosen] - 1  # the last item is only a target
    own = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    at = spread(offsets[chosen], own)
    states = model(items[at], own)  # (S, U)
    targets = items[at + 1]
    drawn, behind = met, 0.0
    if training.negatives:
        drawn = met[torch.randint(len(met), (training.negatives,), device=met.device)]
        # Drawn evenly, a negative stands for as many items.
        behind = float(np.log(len(met) / training.negatives))
    logits = states @ model.sought(drawn).T + behind  # (S, negatives)
    logits = logits.masked_fill(drawn == targets[:, None], -torch.inf)
    right = (states * model.sought(targets)).sum(1)
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
