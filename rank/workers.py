"""
Several processes that train one model: each takes its share of every batch, and the sum of their
gradients is that of the whole batch, so that the loss is that of one process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from funnel.config import Rank
from rank.checkpoint import Checkpoint
from rank.fields import Shape


@dataclass(frozen=True, slots=True)
class Group:
    """This process among those that train together; by itself it is all of them."""

    rank: int = 0
    size: int = 1

    @staticmethod
    def joined() -> Group:
        """What the launcher of this process said."""
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return Group(dist.get_rank(), dist.get_world_size())

    def share(self, requests: Tensor) -> Tensor:
        return requests[self.rank :: self.size]

    def total(self, count: int, device: torch.device) -> int:
        """The sum of all processes' counts."""
        if self.size == 1:
            return count
        found = torch.tensor(count, device=device)
        dist.all_reduce(found)
        return int(found)

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Every process gets the sum; one without a gradient adds nothing."""
        if self.size == 1:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        parts = torch.split(flat, [p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)


def train_stored(
    network: str,
    shape: Shape,
    train: str,
    valid: str,
    settings: Rank,
    seed: int,
    checkpoint: str = "",
    start: str = "",
) -> dict[str, Any]:
    """What each process runs (pyspark's TorchDistributor calls it): tables out of their directories
    (rank/stored.py), `start` a file of weights to begin with; the fitted weights and epochs as
    plain values."""
    from rank.models import MODELS
    from rank.stored import opened
    from rank.train import fit

    group = Group.joined()
    try:
        fitted = fit(
            lambda: MODELS[network](shape),
            opened(Path(train)),
            opened(Path(valid)),
            settings,
            seed,
            checkpoint=Checkpoint(Path(checkpoint)) if checkpoint else None,
            group=group,
            start=torch.load(start, weights_only=True) if start else None,
        )
        dist.barrier()  # who leaves first would take the store away from the others
    finally:
        dist.destroy_process_group()
    return {
        "weights": {name: tensor.numpy() for name, tensor in fitted.model.state_dict().items()},
        "epochs": [(epoch.loss, epoch.ndcg) for epoch in fitted.epochs],
        "best": fitted.best,
    }
