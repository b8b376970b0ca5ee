"""Masks of one condition, made once: the conditions of a shop's visitors repeat."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from funnel.types import Filter

Mask = NDArray[np.bool_]
ROOM = 128 << 20  # bytes of masks that are kept
MOST = 256  # masks


class Masks:
    """The latest masks of one version of the catalogue; another version forgets them all."""

    def __init__(self, room: int = ROOM):
        self._room = room
        self._version = -1
        self._held: OrderedDict[Filter, Mask] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, condition: Filter, version: int, make: Callable[[Filter], Mask]) -> Mask:
        """The mask of the condition, made where it is not known. Nobody may write into it."""
        with self._lock:
            if version != self._version:
                self._held.clear()
                self._version = version
            if condition in self._held:
                self._held.move_to_end(condition)
                return self._held[condition]
        mask = make(condition)
        with self._lock:
            if version == self._version:
                self._held[condition] = mask
                while len(self._held) > min(max(self._room // max(mask.nbytes, 1), 1), MOST):
                    self._held.popitem(last=False)
        return mask
