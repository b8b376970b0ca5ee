"""
What a user did to things that have a code in common with the candidate: its category, its brand,
itself. Counted with weights that are learned from how long ago and what was done, so that the
network finds the pace at which tastes drift; the search by category of SIM (Pi et al. 2020,
https://arxiv.org/abs/2006.05639), summed up instead of cut off.

N candidates of R requests, S actions of all histories together, H of one request, J codes of an
action, C paces
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rank.batch import GAPS, Batch
from rank.fields import Shape, rows
from rank.pairs import Pairs

PACES = 2
FADES = 0.3, 0.1  # of the log-weight for each class of time, at first


class Matched(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.shared = list(shape.shared)
        width = len(self.shared) * PACES
        self.gap, self.action = nn.Embedding(GAPS, width), nn.Embedding(shape.actions, width)
        fades = torch.tensor(FADES).repeat(len(self.shared))
        with torch.no_grad():
            self.gap.weight.copy_((GAPS / 2 - torch.arange(GAPS))[:, None] * fades)
        nn.init.zeros_(self.action.weight)

    @staticmethod
    def width(shape: Shape) -> int:
        """How many numbers it says of a candidate."""
        return 2 * PACES * len(shape.shared)

    def forward(self, batch: Batch, pairs: Pairs | None) -> Tensor:
        """(N, 2JC) logs of the weighted counts, and their shares of the whole history's. `pairs`
        is None for one request."""
        weights = (rows(self.gap, batch.gaps) + rows(self.action, batch.actions)).exp()  # (S, JC)
        weights = weights.view(-1, len(self.shared), PACES)
        ids = batch.ids[:, self.shared]  # (N, J)
        if pairs is None:
            same = (ids[:, None] == batch.codes) & (ids[:, None] > 0)  # (N, H, J)
            found = torch.einsum("nhj,hjc->njc", same.to(weights.dtype), weights)
            whole = weights.sum(0, keepdim=True)  # (1, J, C)
        else:
            same = (pairs.candidates(ids) == pairs.actions(batch.codes)) & (
                pairs.candidates(ids) > 0
            )  # (P, J)
            found = pairs.sums(pairs.actions(weights) * same[:, :, None])  # (N, J, C)
            owner = torch.repeat_interleave(batch.lengths)
            whole = weights.new_zeros(len(batch.lengths), *weights.shape[1:])
            whole = whole.index_add(0, owner, weights).index_select(0, batch.owner)
        shares = found / whole.clamp(min=1e-6)
        return torch.cat([found.log1p(), shares], 1).flatten(1)
