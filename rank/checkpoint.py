"""
Training that was stopped goes on after its last whole epoch, and ends with the weights that it
would have had: everything that decides them is kept, the random state included.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch

from funnel.types import Array


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One file, for one training. A file of another training, or a broken one, is none."""

    path: Path

    def load(self, key: str) -> Mapping[str, Any] | None:
        try:
            found = torch.load(self.path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
            return None
        return found if isinstance(found, dict) and found.get("key") == key else None

    def save(self, key: str, state: Mapping[str, Any]) -> None:
        """Whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".draft")
        torch.save({**state, "key": key}, draft)
        os.replace(draft, self.path)

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)


def fingerprint(said: str, arrays: Iterable[Array]) -> str:
    """The same for the same settings and data."""
    found = blake2b(said.encode(), digest_size=16)
    for array in arrays:
        found.update(f"{array.shape}{array.dtype}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
