"""
Indices over the vectors, of the kind that config or memory decide; none where few are scanned.

Writes vector/text.faiss and vector/behaviour.faiss beside the vectors, in both drafts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jobs.command import command
from jobs.fresh import removed
from jobs.work import Work
from recall.nearest import write_index


def run(work: Work) -> Mapping[str, Any]:
    made: dict[str, Any] = {}
    settings = work.config.vectors
    for name in ("text", "behaviour"):
        before: tuple[Path, Path] | None = None
        for draft, _ in work.drafts:
            vectors, target = draft / f"vector/{name}.npy", draft / f"vector/{name}.faiss"
            removed(target)
            if not vectors.exists():
                continue
            if before and before[0].samefile(vectors) and before[1].exists():
                target.hardlink_to(before[1])
                continue
            size = write_index(target, np.load(vectors, mmap_mode="r"), settings)
            made[name] = str(size)
            before = vectors, target
    return made


if __name__ == "__main__":
    command(run, __doc__)
