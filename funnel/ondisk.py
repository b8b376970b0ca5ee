"""
Arrays that grow part by part in files and are looked at through memory maps, so that what does not
fit into memory stays on the disk.

    <name>.bin     the numbers of one array, one part after another
    arrays.json    types and shapes: written last, so that half of them is nothing
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from io import BufferedWriter
from pathlib import Path

import numpy as np

from funnel.errors import BadData
from funnel.types import Array

ABOUT = "arrays.json"


@dataclass
class Growing:
    """Arrays in a directory, which must be empty; they end with `close`."""

    path: Path
    _files: dict[str, BufferedWriter] = field(default_factory=dict)
    _kinds: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)

    def add(self, **arrays: Array) -> None:
        """Puts each array behind what is there under its name. Raises `BadData` where its type or
        the shape of its rows is another."""
        for name, array in arrays.items():
            kind = array.dtype.str, array.shape[1:]
            if self._kinds.setdefault(name, kind) != kind:
                raise BadData(f"{name} of a part is {kind}, of those before {self._kinds[name]}")
            if name not in self._files:
                self._files[name] = open(self.path / f"{name}.bin", "wb")  # noqa: SIM115
            self._files[name].write(np.ascontiguousarray(array).data)

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        kinds = {name: [dtype, list(shape)] for name, (dtype, shape) in self._kinds.items()}
        (self.path / ABOUT).write_text(json.dumps(kinds))


def grown(path: Path) -> dict[str, Array]:
    """The arrays by name; what is changed in them stays in this process."""
    kinds = json.loads((path / ABOUT).read_text())
    return {name: _mapped(path / f"{name}.bin", *kind) for name, kind in kinds.items()}


def _mapped(file: Path, dtype: str, shape: list[int]) -> Array:
    if not file.stat().st_size:
        return np.empty((0, *shape), dtype)
    flat: Array = np.memmap(file, dtype, mode="c")
    return flat.reshape(-1, *shape)
