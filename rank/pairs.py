"""
Candidates and the actions of their requests, in pairs: as many as there are, none for padding.

N candidates of R requests, S actions of all histories together, P pairs
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rank.batch import spread


class Pairs(NamedTuple):
    """Every candidate with every action of its request, candidate by candidate."""

    mine: Tensor  # (P,) the candidate
    theirs: Tensor  # (P,) the action
    n: int  # N

    @staticmethod
    def of(offsets: Tensor, owner: Tensor) -> Pairs:
        """offsets (R + 1,) of the histories, owner (N,) the request of each candidate"""
        counts = offsets.diff()[owner]
        ends = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        mine = torch.repeat_interleave(counts)
        return Pairs(mine, spread(offsets[owner], ends), len(owner))

    # Not x[mine] but index_select: its gradient is one sum in the order of the pairs.
    def candidates(self, x: Tensor) -> Tensor:
        """(N, ...) -> (P, ...)"""
        return x.index_select(0, self.mine)

    def actions(self, x: Tensor) -> Tensor:
        """(S, ...) -> (P, ...)"""
        return x.index_select(0, self.theirs)

    def sums(self, x: Tensor) -> Tensor:
        """(P, ...) -> (N, ...) over each candidate's pairs"""
        return x.new_zeros(self.n, *x.shape[1:]).index_add(0, self.mine, x)

    def softmax(self, fit: Tensor) -> Tensor:
        """(P, A) -> (P, A) shares among each candidate's pairs"""
        top = fit.detach().new_full((self.n, fit.shape[1]), -torch.inf)
        at = self.mine[:, None].expand(-1, fit.shape[1])
        top = top.scatter_reduce(0, at, fit.detach(), "amax")
        shares = (fit - self.candidates(top)).exp()
        return shares / self.candidates(self.sums(shares))


def places(offsets: Tensor, most: int) -> Tensor:
    """(S,) how many actions of its request came after each, below `most`; 0 is the newest."""
    lengths = offsets.diff()
    owner = torch.repeat_interleave(lengths)
    behind = offsets[1:][owner] - 1 - torch.arange(len(owner), device=offsets.device)
    return behind.clamp(max=most - 1)
