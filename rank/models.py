"""The rankers by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from rank.deepfm import DeepFM
from rank.din import DIN
from rank.fields import Shape
from rank.transformer import Transformer

MODELS: Mapping[str, type[DeepFM | DIN | Transformer]] = {
    "deepfm": DeepFM,
    "din": DIN,
    "transformer": Transformer,
}


def shaped(table: Mapping[str, Any]) -> Shape:
    """A shape as it was saved as JSON."""
    lists = {name: tuple(table[name]) for name in ("vocab", "shared", "hidden")}
    return Shape(**{**table, **lists})


def name_of(model: nn.Module) -> str:
    """Raises `KeyError` for what is no ranker."""
    return {kind.__name__: name for name, kind in MODELS.items()}[type(model).__name__]
