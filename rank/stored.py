"""
A table in files: what training reads is encoded once, part by part, and from then on looked at
through memory maps. A batch takes its own rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from funnel.ondisk import Growing, grown
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

    def __post_init__(self) -> None:
        self._arrays = Growing(self.path)
        self._arrays.add(levels=np.array(self.levels))

    def add(self, table: Table) -> None:
        inputs, past = table.inputs, table.inputs.history
        some = {"vectors": inputs.vectors, "stands_for": table.stands_for}
        there = {name: array for name, array in some.items() if array is not None}
        self._arrays.add(
            labels=table.labels,
            rows=table.rows,
            weights=table.weights,
            ids=inputs.ids,
            numbers=inputs.numbers,
            bags=inputs.bags,
            owner=inputs.owner + self.requests,
            codes=past.codes,
            actions=past.actions,
            gaps=past.gaps,
            offsets=(past.offsets if not self.requests else past.offsets[1:]) + self.actions,
            **there,
        )
        self.requests += len(past)
        self.actions += int(past.offsets[-1])

    def close(self) -> None:
        self._arrays.close()


def opened(path: Path) -> Table:
    """The table; what is changed in its arrays stays in this process."""
    arrays = grown(path)
    labels = arrays["labels"]

    def of_candidates(name: str) -> Array:
        """Also where a candidate has none of them."""
        found = arrays[name]
        return found if len(found) else np.empty((len(labels), *found.shape[1:]), found.dtype)

    past = Histories(*(arrays[name] for name in ("codes", "actions", "gaps", "offsets")))
    inputs = Encoded(
        of_candidates("ids"),
        of_candidates("numbers"),
        of_candidates("bags"),
        past,
        arrays["owner"],
        arrays.get("vectors"),
    )
    levels = tuple(arrays["levels"].tolist())
    many = arrays.get("stands_for")
    return Table(inputs, labels, arrays["rows"], arrays["weights"], levels, many)
