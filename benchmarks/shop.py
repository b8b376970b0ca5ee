"""What the columns of a data set mean where no config says: those of a simulated shop are known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from funnel.config import Config, load
from funnel.demo import SHOP


def columns(data: Path) -> dict[str, Any]:
    """The config's `data` of a simulated shop; empty for any other data set."""
    return dict(SHOP) if (data / "world.json").exists() else {}


def configured(data: Path, config: Path | None, own: Mapping[str, Any]) -> Config:
    """The config of a file, without one that of the data set's columns, and our `own`."""
    return load(config, own if config is not None else {"data": columns(data), **own})
