"""
The one training loop of all rankers.

A ranker is a module that takes a `Batch` and returns logits (N, T), one column a head. The first
head orders; its loss is a sum of two: cross-entropy of every candidate, which makes sigmoid(logit)
a probability, and of the softmax over each request's candidates (Cao et al. 2007, "Learning to
rank: from pairwise approach to listwise approach", ListNet's top-one loss), with the gains of nDCG
as its target, which makes the order right. The first is weighted down: a candidate's share in it
says little about the order. Where candidates are a sample of what there was, both sums are those of
all there was: each candidate is as many as it stands for, in the first and in the softmax.

What is judged and kept is not where the last step ended but the exponential moving average of the
weights over about the last `SPAN` steps, which steps of a large learning rate scatter around
(Polyak and Juditsky 1992, "Acceleration of stochastic approximation by averaging").

Actions nest: who buys has clicked. A further head says how likely its action is where that of the
head before it happened, and learns over all candidates from the product of the two (Ma et al. 2018,
"Entire space multi-task model", https://arxiv.org/abs/1804.07931).

N candidates of R requests, T heads
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from funnel.config import Rank
from funnel.errors import BadData
from funnel.metrics import grouped_ndcg_at_k
from funnel.types import Array, Floats
from rank.batch import Batch, Encoded, spread
from rank.checkpoint import Checkpoint, fingerprint
from rank.workers import Group

PATIENCE = 3  # epochs without an improvement on validation
CHUNK = 1 << 14  # candidates scored at a time
STEPS = 50  # of an epoch at least: small data gets smaller batches
LEAST = 64  # candidates of a batch
SPAN = 200  # steps that weights are averaged over, an epoch at most
ALONE = 0.1  # weight of the first loss; 1 cost 0.01 nDCG@10 on simulated searches, 0 calibration


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Requests with their labels, each request's candidates beside each other."""

    inputs: Encoded
    labels: Floats  # (N,) 0 for nothing, higher for more
    rows: NDArray[np.int32]  # (N,) the items, to break ties
    weights: Floats  # (R,) how much a request counts
    levels: tuple[float, ...] = (0.0,)  # (T,) rising: a head's action has a label above its level
    stands_for: Floats | None = None  # (N,) how many candidates each is a sample of


@dataclass(frozen=True, slots=True)
class Epoch:
    """What validation said after an epoch."""

    loss: float
    ndcg: float  # at 10, NaN without positives


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    model: nn.Module  # of the best epoch, on the CPU, in evaluation mode
    epochs: tuple[Epoch, ...]
    best: int  # its place among the epochs


def fit(
    make: Callable[[], nn.Module],
    train: Table,
    valid: Table,
    settings: Rank,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, steps: None,
    checkpoint: Checkpoint | None = None,
    group: Group | None = None,
    start: Mapping[str, Tensor] | None = None,
    draw: Callable[[int], Table] | None = None,
) -> Fitted:
    """Trains `make()` on `train` until `valid` stops improving; an NVIDIA GPU is used if there is
    one. The same tables, settings and seed give the same weights on a CPU, also where training was
    stopped and goes on at its `checkpoint`, which is written after every epoch. Processes of one
    `group` each call this with the same arguments. `start` are the weights to begin with.

    `progress(done, steps)` is called after every step. Raises `BadData` if training diverges.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    group = group or Group()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make().to(device)
        if start is not None:
            model.load_state_dict(start)
        optimizer = adam(model, settings)
        data = Packed.of(train, device)
        rows = min(settings.batch, max(len(data.labels) // STEPS, LEAST))
        each = len(data.batches(rows))
        steps, done = settings.epochs * each, 0
        averaged = Averaged(model, min(SPAN, each))
        parameters = list(model.parameters())
        epochs: list[Epoch] = []
        best, weights = 0, copy.deepcopy(model.state_dict())
        key = checkpoint and fingerprint(
            f"{settings!r} {seed} {SPAN} {model}", _arrays(train, valid)
        )
        if checkpoint and key and (state := checkpoint.load(key)):
            model.load_state_dict(state["model"])
            averaged.load(state["averaged"], state["steps"])
            optimizer.load_state_dict(state["optimizer"])
            epochs, best, weights = (
                [Epoch(*e) for e in state["epochs"]],
                state["best"],
                state["kept"],
            )
            done = len(epochs) * each
        while len(epochs) < settings.epochs and len(epochs) - best <= PATIENCE:
            model.train()
            # Every epoch has seeds of its own, so one that goes on draws what it would have drawn.
            epoch = seed * 1_000_003 + len(epochs)
            torch.manual_seed(epoch * 1009 + group.rank)
            if draw and epochs:
                data = Packed.of(draw(len(epochs)), device)
            for requests in data.batches(rows, torch.Generator().manual_seed(epoch)):
                optimizer.zero_grad(set_to_none=True)
                own = group.share(requests)
                count = int(data.sizes[own].sum())
                whole = group.total(count, device)
                if count:
                    batch, labels, many = data.take(own)
                    with autocast(device):
                        logits = model(batch)
                    counts = data.weights[own]
                    value = loss(logits.float(), labels, batch.owner, counts, train.levels, many)
                    torch.autograd.backward(value * (count / whole))
                group.sum_gradients(parameters)
                optimizer.step()
                averaged.add(model)
                done += 1
                progress(done, steps)
            epochs.append(judge(averaged.model, valid, device))
            if epochs[-1].loss < epochs[best].loss or len(epochs) == 1:
                best, weights = len(epochs) - 1, copy.deepcopy(averaged.model.state_dict())
            # Not only where validation says so: one epoch's loss is noisier than what it learned.
            for some in optimizer.param_groups:
                some["lr"] *= settings.decay
            if checkpoint and key and not group.rank:
                state = {
                    "model": model.state_dict(),
                    "averaged": averaged.model.state_dict(),
                    "steps": averaged.steps,
                    "optimizer": optimizer.state_dict(),
                    "epochs": [(epoch.loss, epoch.ndcg) for epoch in epochs],
                    "best": best,
                    "kept": weights,
                }
                checkpoint.save(key, state)
    if not np.isfinite(epochs[best].loss):
        raise BadData(
            f"training diverged (validation loss {epochs[best].loss}): "
            f"lower rank.learning_rate, which is {settings.learning_rate:g}"
        )
    progress(steps, steps)
    if checkpoint and not group.rank:
        checkpoint.drop()
    model.load_state_dict(weights)
    return Fitted(model.cpu().eval(), tuple(epochs), best)


class Averaged:
    """A model of another's weights, averaged over about the last `span` steps; over all of them
    while there were few."""

    def __init__(self, model: nn.Module, span: int):
        self.model, self.span, self.steps = copy.deepcopy(model), span, 0

    def load(self, state: Mapping[str, Tensor], steps: int) -> None:
        self.model.load_state_dict(state)
        self.steps = steps

    def add(self, model: nn.Module) -> None:
        """Counts the weights after another step."""
        self.steps += 1
        own, new = (list[Tensor](one.parameters()) for one in (self.model, model))
        with torch.no_grad():
            torch._foreach_lerp_(own, new, 1 / min(self.steps, self.span))


def _arrays(*tables: Table) -> Iterator[Array]:
    """What weights follow from."""
    for table in tables:
        past = table.inputs.history
        yield from (table.labels, table.weights, np.asarray(table.levels))
        yield from () if table.stands_for is None else (table.stands_for,)
        yield from (table.inputs.ids, table.inputs.numbers, table.inputs.bags, table.inputs.owner)
        yield from (past.codes, past.actions, past.gaps, past.offsets)


def adam(model: nn.Module, settings: Rank) -> torch.optim.Optimizer:
    """Adam, with L2 on the embeddings alone: there the parameters outnumber the data."""
    tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    known = {id(table) for table in tables}
    others = [p for p in model.parameters() if id(p) not in known]
    groups = [
        {"params": tables, "weight_decay": settings.embedding_l2},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.Adam(groups, lr=settings.learning_rate, fused=True)


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where the GPU has it; it needs no loss scaling."""
    half = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=half)


def loss(
    logits: Tensor,
    labels: Tensor,
    owner: Tensor,
    weights: Tensor,
    levels: Sequence[float] = (0.0,),
    stands_for: Tensor | None = None,
) -> Tensor:
    """logits (N, T): all cross-entropies, a candidate; requests without a positive count in those
    of single candidates alone. What candidates stand for moves weight between those of a request,
    not between requests."""
    counts, requests = weights[owner], len(weights)
    each, among_all = counts, logits[:, 0]
    if stands_for is not None:
        whole, sizes = (
            logits.new_zeros(requests).index_add(0, owner, many)
            for many in (stands_for, torch.ones_like(stands_for))
        )
        each = counts * stands_for * (sizes / whole.clamp(min=1e-12))[owner]
        among_all = among_all + stands_for.log()
    happened = labels[:, None] > labels.new_tensor(levels)  # (N, T)
    likely = F.logsigmoid(logits).cumsum(1)  # (N, T)
    # log(1 - p) out of log p, without a loss where p is close to 0 or to 1
    first = F.logsigmoid(-logits[:, :1])
    others = torch.log(-torch.expm1(likely[:, 1:].clamp(max=-1e-6)))
    missed = torch.cat([first, others], 1)
    alone = -(each[:, None] * torch.where(happened, likely, missed)).sum()
    gains = torch.exp2(labels) - 1
    totals = gains.new_zeros(requests).index_add(0, owner, gains)
    share = gains / totals.clamp(min=1e-12)[owner]
    among = -(counts * share * log_softmax(among_all, owner, requests)).sum()
    return (ALONE * alone + among) / len(logits)


def log_softmax(logits: Tensor, owner: Tensor, requests: int) -> Tensor:
    """(N,) log-probabilities of each candidate among those with the same owner."""
    top = logits.detach().new_full((requests,), -torch.inf)
    top = top.scatter_reduce(0, owner, logits.detach(), "amax")
    moved = logits - top[owner]
    sums = logits.new_zeros(requests).index_add(0, owner, moved.exp())
    return moved - sums.log().index_select(0, owner)  # see rank/fields.py


def judge(model: nn.Module, valid: Table, device: torch.device) -> Epoch:
    logits = predict(model, valid.inputs, device)
    owner = valid.inputs.owner
    with torch.inference_mode():
        value = loss(
            torch.from_numpy(logits),
            torch.from_numpy(valid.labels),
            torch.from_numpy(owner),
            torch.from_numpy(valid.weights),
            valid.levels,
            None if valid.stands_for is None else torch.from_numpy(valid.stands_for),
        )
    ndcg = grouped_ndcg_at_k(valid.labels, logits[:, 0], valid.rows, owner, 10)
    known = ~np.isnan(ndcg)
    mean = np.average(ndcg[known], weights=valid.weights[known]) if known.any() else np.nan
    return Epoch(float(value), float(mean))


def predict(model: nn.Module, encoded: Encoded, device: torch.device | None = None) -> Floats:
    """(N, T) logits."""
    model.eval()
    whole = Batch.of(encoded, device or torch.device("cpu"))
    rows = torch.arange(len(encoded.owner), device=whole.owner.device)
    parts = []
    with torch.inference_mode():
        for part in torch.split(rows, CHUNK):
            # Owners rise, so a chunk needs the histories from its first owner to its last.
            owner = whole.owner[part]
            first = int(owner[0]) if len(owner) else 0
            last = int(owner[-1]) + 1 if len(owner) else 0
            chosen = torch.arange(first, last, device=rows.device)
            batch = whole.candidates(part, owner - first).requests(chosen)
            parts.append(model(batch).float().cpu().numpy())
    logits: Array = np.concatenate(parts)
    return logits


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A table on the device that trains, from which batches of whole requests are taken."""

    inputs: Batch
    labels: Tensor  # (N,)
    sizes: Tensor  # (R,) candidates of a request
    starts: Tensor  # (R,)
    weights: Tensor  # (R,)
    stands_for: Tensor | None  # (N,)

    @staticmethod
    def of(table: Table, device: torch.device) -> Packed:
        inputs = Batch.of(table.inputs, device)
        sizes = torch.bincount(inputs.owner, minlength=len(inputs.offsets) - 1)
        labels, weights = (torch.from_numpy(a).to(device) for a in (table.labels, table.weights))
        many = None if table.stands_for is None else torch.from_numpy(table.stands_for).to(device)
        return Packed(inputs, labels, sizes, sizes.cumsum(0) - sizes, weights, many)

    def batches(self, rows: int, random: torch.Generator | None = None) -> list[Tensor]:
        """The requests, in parts of about that many candidates, shuffled by `random`; none is torn
        apart."""
        count = len(self.sizes)
        order = torch.arange(count) if random is None else torch.randperm(count, generator=random)
        order = order.to(self.sizes.device)
        batch = (self.sizes[order].cumsum(0) - 1).div(rows, rounding_mode="floor")
        counts = torch.unique_consecutive(batch, return_counts=True)[1]
        return list(torch.split(order, counts.tolist()))

    def take(self, requests: Tensor) -> tuple[Batch, Tensor, Tensor | None]:
        """The inputs and labels of these requests, owners counted from 0, and what each candidate
        stands for."""
        sizes = self.sizes[requests]
        offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        rows = spread(self.starts[requests], offsets)
        owner = torch.repeat_interleave(sizes)
        many = None if self.stands_for is None else self.stands_for[rows]
        return self.inputs.candidates(rows, owner).requests(requests), self.labels[rows], many
