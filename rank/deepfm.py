"""
DeepFM: a factorization machine and an MLP over the same embeddings.
Guo et al., 2017, https://arxiv.org/abs/1703.04247 (equations 1-4)

The history is one field for each code of an action: the mean of its embeddings, made once a
request.

N candidates of R requests, F fields, L bags, J codes of an action, D embedding width, T heads
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rank.batch import Batch
from rank.fields import Ends, Shape, Table


class DeepFM(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.table = Table(shape)
        self.ends = Ends(shape, len(shape.vocab) + len(shape.shared))

    def forward(self, batch: Batch) -> Tensor:
        """(N, T) logits, not probabilities"""
        v, first = self.table(batch)  # (N, F + L, D), (N,)
        past, more = self.table.pooled(batch)  # (N, J, D), (N,)
        v = torch.cat([v, past], 1)
        logits: Tensor = self.ends(v, first + more, batch)
        return logits
