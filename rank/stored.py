"""
A table in files: what training reads is encoded once, chunk by chunk, and from then on looked at
through memory maps. A batch takes its own rows; what does not fit into memory stays on the disk.

    <name>.bin    the numbers of one array, one chunk after another
    table.json    types, shapes and levels: written last, so that half a table is none
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from io import BufferedWriter
from pathlib import Path

import numpy as np

from funnel.errors import BadData
from funnel.types import Array
from rank.batch import Encoded, Histories
from rank.train import Table


@dataclass
class Writer:
    """Appends tables to a directory, which must be empty."""

    path: Path
    levels: tuple[float, ...] = (0.0,)
    requests: int = 0
    actions: int = 0
    candidates: int = 0
    _files: dict[str, BufferedWriter] = field(default_factory=dict)
    _kinds: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)

    def add(self, table: Table) -> None:
        inputs, past = table.inputs, table.inputs.history
        offsets = past.offsets if not self.requests else past.offsets[1:]
        arrays: dict[str, Array] = {
            "labels": table.labels,
            "rows": table.rows,
            "weights": table.weights,
            "ids": inputs.ids,
            "numbers": inputs.numbers,
            "bags": inputs.bags,
            "owner": inputs.owner + self.requests,
            "codes": past.codes,
            "actions": past.actions,
            "gaps": past.gaps,
            "offsets": offsets + self.actions,
        }
        if inputs.vectors is not None:
            arrays["vectors"] = inputs.vectors
        for name, array in arrays.items():
            kind = array.dtype.str, array.shape[1:]
            if self._kinds.setdefault(name, kind) != kind:
                raise BadData(f"{name} of a part is {kind}, of those before {self._kinds[name]}")
            if name not in self._files:
                self._files[name] = open(self.path / f"{name}.bin", "wb")  # noqa: SIM115
            self._files[name].write(np.ascontiguousarray(array).data)
        self.requests += len(past)
        self.actions += int(past.offsets[-1])
        self.candidates += len(table.labels)

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        kinds = {name: [dtype, list(shape)] for name, (dtype, shape) in self._kinds.items()}
        about = {"arrays": kinds, "levels": self.levels}
        (self.path / "table.json").write_text(json.dumps(about))


def opened(path: Path) -> Table:
    """The table; what is changed in its arrays stays in this process."""
    about = json.loads((path / "table.json").read_text())

    def array(name: str) -> Array:
        dtype, shape = about["arrays"][name]
        file = path / f"{name}.bin"
        if not file.stat().st_size:
            return np.empty((0, *shape), dtype)
        flat: Array = np.memmap(file, dtype, mode="c")
        return flat.reshape(-1, *shape) if 0 not in shape else np.empty((0, *shape), dtype)

    labels = array("labels")

    def of_candidates(name: str) -> Array:
        """Also where a candidate has none of them."""
        found = array(name)
        return found if len(found) else np.empty((len(labels), *found.shape[1:]), found.dtype)

    past = Histories(array("codes"), array("actions"), array("gaps"), array("offsets"))
    inputs = Encoded(
        of_candidates("ids"),
        of_candidates("numbers"),
        of_candidates("bags"),
        past,
        array("owner"),
        array("vectors") if "vectors" in about["arrays"] else None,
    )
    return Table(inputs, labels, array("rows"), array("weights"), tuple(about["levels"]))
