"""
What every ranker takes: candidates of requests, and the requests' histories packed one after
another, so that nothing is computed for padding.

N candidates of R requests, F fields, L bags of P values, M numbers, S actions of all histories
together, J codes of each
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from funnel.types import Floats

Codes = NDArray[np.int32]
GAPS = 12  # classes of how long ago an action was, 0 for unknown


@dataclass(frozen=True, slots=True, eq=False)
class Histories:
    """Packed histories, the oldest action first."""

    codes: Codes  # (S, J) 0 is unknown
    actions: Codes  # (S,) from 1, 0 unknown
    gaps: Codes  # (S,) below GAPS
    offsets: NDArray[np.int64]  # (R + 1,)

    @staticmethod
    def none(requests: int, fields: int = 0) -> Histories:
        empty = np.zeros(0, np.int32)
        offsets = np.zeros(requests + 1, np.int64)
        return Histories(np.zeros((0, fields), np.int32), empty, empty, offsets)

    @staticmethod
    def joined(parts: Sequence[Histories]) -> Histories:
        """The histories of all parts (one at least), one after another."""
        actions = np.cumsum([0, *(len(part.codes) for part in parts)])
        ends = [part.offsets[1:] + at for part, at in zip(parts, actions, strict=False)]
        return Histories(
            np.concatenate([part.codes for part in parts]),
            np.concatenate([part.actions for part in parts]),
            np.concatenate([part.gaps for part in parts]),
            np.concatenate([np.zeros(1, np.int64), *ends]),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1


def classes(hours: Floats) -> Codes:
    """Hours since an action as classes from 1: below 1, 2, 4, ... hours; the last is open."""
    found = np.floor(np.log2(np.maximum(hours, 0.5))).astype(np.int32) + 2
    return np.minimum(found, GAPS - 1).astype(np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Codes count within their field; 0 is unknown, or padding in a bag."""

    ids: Codes  # (N, F)
    numbers: Floats  # (N, M) standardised, 0 where missing
    bags: Codes  # (N, L, P)
    history: Histories
    owner: NDArray[np.int64]  # (N,) the request of each candidate, rising
    vectors: Floats | None = None  # (N, V) trained elsewhere; None: V is 0


class Batch(NamedTuple):
    """`Encoded` as tensors."""

    ids: Tensor
    numbers: Tensor
    bags: Tensor
    codes: Tensor
    actions: Tensor
    gaps: Tensor
    offsets: Tensor
    owner: Tensor
    vectors: Tensor

    @staticmethod
    def of(encoded: Encoded, device: torch.device | None = None) -> Batch:
        past = encoded.history
        arrays = (
            encoded.ids,
            encoded.numbers,
            encoded.bags,
            past.codes,
            past.actions,
            past.gaps,
            past.offsets,
            encoded.owner,
            np.zeros((len(encoded.owner), 0), np.float32)
            if encoded.vectors is None
            else encoded.vectors,
        )
        made = (torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)
        return Batch(*(tensor.to(device) if device else tensor for tensor in made))

    @property
    def lengths(self) -> Tensor:
        """(R,) actions of each history."""
        return self.offsets.diff()

    def candidates(self, rows: Tensor, owner: Tensor) -> Batch:
        """Some candidates; `owner` says which of the requests is each one's."""
        return self._replace(
            ids=self.ids[rows],
            numbers=self.numbers[rows],
            bags=self.bags[rows],
            owner=owner,
            vectors=self.vectors[rows],
        )

    def requests(self, chosen: Tensor) -> Batch:
        """Histories of the chosen requests, in that order; candidates are left as they are."""
        lengths = self.lengths[chosen]
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        at = spread(self.offsets[chosen], offsets)
        return self._replace(
            codes=self.codes[at], actions=self.actions[at], gaps=self.gaps[at], offsets=offsets
        )


def spread(starts: Tensor, offsets: Tensor) -> Tensor:
    """(offsets[-1],) the ranges that begin at `starts`, one after another, as one index."""
    owner = torch.repeat_interleave(offsets.diff())
    return torch.arange(len(owner), device=owner.device) + (starts - offsets[:-1])[owner]
